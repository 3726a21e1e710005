"""An engine under ``ip netns exec``, which mounts a new /sys: the cgroups are not in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sampan.runtime.cgroups import files
from tests.conftest import Daemon, _numbers, import_busybox

pytestmark = pytest.mark.root


def test_limits_and_processes_are_known_under_ip_netns_exec() -> None:
    daemon = Daemon(next(_numbers))
    netns = f"smt{os.getpid()}n"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    command = [
        *(sys.executable, "-m", "sampan.daemon", "-H", daemon.host, "--data-root", str(daemon.root)),
        *("--exec-root", str(daemon.run), "--bridge", daemon.bridge, "--bip", daemon.bip),
    ]
    try:
        with open(daemon.dir / "log", "wb") as log:
            words = ["ip", "netns", "exec", netns, *command]
            daemon.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not Path(daemon.socket).exists():
            assert daemon.process.poll() is None and time.monotonic() < deadline, daemon.log()
            time.sleep(0.02)
        import_busybox(daemon)
        host = {"NetworkMode": "none", "Memory": 64 << 20}
        body = {"Image": "busybox", "Cmd": ["sleep", "100"], "HostConfig": host}
        daemon.json("POST", "/containers/create?name=box", body)
        daemon.json("POST", "/containers/box/start")
        assert [row[-1] for row in daemon.json("GET", "/containers/box/top")["Processes"]] == ["sleep 100"]
        sample = daemon.json("GET", "/containers/box/stats?stream=0&one-shot=1")
        assert sample["memory_stats"]["limit"] == 64 << 20
        daemon.json("POST", "/containers/box/pause")
        seen = Path(f"/proc/{daemon.process.pid}/mountinfo").read_text()
        assert f" {files.SYSTEM}" in seen and netns in seen  # there, and not on this machine
        assert (
            seen.count(" - cgroup") >= 1 and str(daemon.dir) not in Path("/proc/self/mountinfo").read_text()
        )
    finally:
        daemon.close()
        subprocess.run(["ip", "netns", "delete", netns], check=True)
