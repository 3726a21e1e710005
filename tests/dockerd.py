"""Debian's dockerd beside sampan, for tests that compare the two."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def _answers(path: str) -> bool:
    """Whether it is up: its socket is there before it is, and stays unanswered when its start fails."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(10)
        probe.connect(path)
        probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
        return b" 200 " in probe.recv(100)
    return False


@contextlib.contextmanager
def running_dockerd(folder: Path) -> Iterator[str]:
    """Debian's dockerd with all its files in ``folder`` and without networks; its DOCKER_HOST."""
    path = folder / "s"
    log = open(folder / "log", "wb")
    process = subprocess.Popen(
        [
            "dockerd",
            "--data-root",
            str(folder / "root"),
            "--exec-root",
            str(folder / "exec"),
            "-H",
            f"unix://{path}",
            "--pidfile",
            str(folder / "pid"),
            "--bridge",
            "none",
            "--iptables=false",
        ],
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
    )
    log.close()
    try:
        deadline = time.monotonic() + 100
        while not _answers(str(path)):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"dockerd does not start here: {(folder / 'log').read_text()[-400:]}")
            time.sleep(0.05)
        yield f"unix://{path}"
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        for mount in reversed(Path("/proc/mounts").read_text().splitlines()):
            if str(folder) in mount:
                subprocess.run(["umount", "-l", mount.split()[1]], check=False)
