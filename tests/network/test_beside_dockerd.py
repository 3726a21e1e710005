"""Beside a live dockerd on the same machine, whose FORWARD policy is drop: both work, neither is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from tests.conftest import STOCK_CLI, busybox_tar
from tests.network.lab import ECHO
from tests.network.town import HOST, NEIGHBOUR, Inside, Town, ask, soon, town

pytestmark = pytest.mark.dockerd
BRIDGE = "smpfd0"


@contextlib.contextmanager
def dockerd() -> Iterator[str]:
    """A dockerd on the calling thread's machine; the address of its API."""
    root = Path(tempfile.mkdtemp(prefix="smpf-dockerd-", dir="/var/tmp"))
    for line in (
        f"link add {BRIDGE} type bridge",
        f"addr add 10.216.9.1/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ):
        subprocess.run(["ip", *line.split()], check=True)
    host = f"unix://{root}/s"
    with open(root / "log", "wb") as log:
        process = subprocess.Popen(
            ["dockerd", "-H", host, "--data-root", str(root / "data"), "--exec-root", str(root / "run"),
             "--pidfile", str(root / "pid"), "--bridge", BRIDGE], stdout=log, stderr=log,
        )  # fmt: skip
    try:
        if not soon(lambda: docker(host, "version", check=False).returncode == 0, 60):
            pytest.skip("dockerd doesn't start here: " + (root / "log").read_text()[-300:])
        yield host
    finally:
        process.terminate()
        process.wait(60)
        with Netlink() as route:
            found = rt.find_link(route, BRIDGE)
            if found is not None:
                route.send(rt.delete_link(found.index))
        for mount in Path("/proc/mounts").read_text().splitlines():
            if str(root) in mount:
                subprocess.run(["umount", "-l", mount.split()[1]], check=False)
        shutil.rmtree(root, ignore_errors=True)


def docker(
    host: str, *words: str, check: bool = True, input: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The stock CLI against that dockerd."""
    assert STOCK_CLI is not None
    environment = {**os.environ, "DOCKER_HOST": host}
    return subprocess.run([STOCK_CLI, *words], env=environment, check=check, input=input, capture_output=True)


def forward() -> str:
    return subprocess.run(["iptables", "-S", "FORWARD"], capture_output=True, text=True).stdout


def test_both_reach_out_and_the_policy_holds() -> None:
    if STOCK_CLI is None or shutil.which("iptables") is None or os.geteuid() != 0:
        pytest.skip("needs root, the docker client and iptables")
    with town(9019) as here, dockerd() as theirs:
        docker(theirs, "import", "-", "busybox", input=busybox_tar())
        docker(theirs, "run", "-d", "--name", "dk", "-p", "9090:80", "busybox", "sleep", "600")
        pid = docker(theirs, "inspect", "-f", "{{.State.Pid}}", "dk").stdout.decode().strip()
        both(here, pid)
        docker(theirs, "rm", "-f", "dk")
        here.clean()
        assert here.daemon.stop() == 0
        assert "sampan" not in forward() and "DOCKER" in forward(), "we leave, theirs stays"


def both(here: Town, theirs: str) -> None:
    assert "-P FORWARD DROP" in forward()
    here.web("ours", "-p", "8080:80")
    assert soon(lambda: '--comment "sampan: sampan_smpf0"' in forward())
    here.neighbour.app(ECHO, "tcp", NEIGHBOUR, "80", "out")
    assert ask(here.inside("ours"), "tcp", NEIGHBOUR, 80) == f"out {HOST} hello"
    assert ask(Inside(int(theirs)), "tcp", NEIGHBOUR, 80) == f"out {HOST} hello", "dockerd's still get out"
    assert soon(lambda: here.get(None, "127.0.0.1", 8080) == "ours")
    assert here.shut(here.neighbour, HOST, 8080), "their policy holds for what comes from outside"
    said = here.docker("create", "--name", "said", "-p", "8081:80", "busybox").stderr
    assert "To open one: iptables -I FORWARD" in said
    opening = said.partition("To open one: ")[2].split("\n")[0].replace("PORT", "8080").split()
    subprocess.run(opening, check=True)
    assert here.get(here.neighbour, HOST, 8080) == "ours"
    assert forward().count("sampan_smpf0") == 2, "one jump: its comment and its target"
