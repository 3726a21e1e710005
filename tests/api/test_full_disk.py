"""A data root that fills up: each operation says so, nothing half-made stays, and the engine serves on."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon, import_busybox
from tests.tars import tar_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SIZE = 16 << 20


@pytest.fixture
def small() -> Iterator[Daemon]:
    """A daemon whose data root is a file system of a few megabytes."""
    daemon = Daemon(7100)
    daemon.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "sampan-small", daemon.root], check=True)
    try:
        import_busybox(daemon.start())
        yield daemon
    finally:
        daemon.close()
        unmount(daemon.root)
        shutil.rmtree(daemon.dir, ignore_errors=True)


def unmount(path: Path) -> None:
    """The engine has ended; the last of its helpers may still be about to."""
    for _ in range(200):
        if subprocess.run(["umount", path], capture_output=True).returncode == 0:
            return
        time.sleep(0.05)
    subprocess.run(["umount", path], check=True)


def files(root: Path) -> set[str]:
    """What is on the disk, without the database and what the build cache accounts for."""
    # os.walk, for directories go while we look
    found = (os.path.relpath(f"{where}/{name}", root) for where, _, names in os.walk(root) for name in names)
    return {name for name in found if not name.endswith(("-wal", "-shm", ".db")) and "/cache" not in name}


def new_files(root: Path, before: set[str]) -> list[str]:
    return sorted(files(root) - before)


def big_tar(**extra: bytes) -> bytes:
    return tar_of({**extra, "big": os.urandom(SIZE)})


def saved_image(new_sampand: Any) -> bytes:
    other = new_sampand()
    other.docker("import", "-", "big:1", input=big_tar())
    return subprocess.run(
        ["curl", "-sS", "--unix-socket", other.socket, "http://x/images/big:1/get"],
        capture_output=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("what", ["load", "import", "build", "cp"])
def test_nothing_half_made(small: Daemon, new_sampand: Any, what: str) -> None:
    if what == "cp":
        small.docker("create", "--name", "target", "busybox")
    before = files(small.root)
    images = small.docker("images", "-a", "-q").stdout
    if what == "load":
        done = small.docker("load", input=saved_image(new_sampand), check=False)
    elif what == "import":
        done = small.docker("import", "-", "big:1", input=big_tar(), check=False)
    elif what == "build":
        context = big_tar(Dockerfile=b"FROM busybox\nRUN echo first > /first\nCOPY big /\n")
        done = small.docker("build", "-t", "big:1", "-", input=context, check=False)
    else:
        done = small.docker("cp", "-", "target:/root", input=big_tar(), check=False)
    assert done.returncode != 0 and "no space left on device" in done.stderr.lower(), done
    assert small.docker("images", "-a", "-q").stdout == images
    if what == "cp":
        small.docker("rm", "-f", "target")
    if what == "build":
        small.docker("builder", "prune", "-af")
    deadline = time.monotonic() + 30  # a removed container's files go in the background
    while (left := new_files(small.root, before)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert small.docker("run", "--rm", "busybox", "echo", "on").stdout == "on\n"
