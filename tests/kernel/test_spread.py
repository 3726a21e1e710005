"""Directories whose subdirectories lie apart."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan.kernel.spread import spread

_GROUP = 8192  # inodes of a block group, as mkfs.ext4 makes them


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on ext4."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        kind = subprocess.run(["stat", "-f", "-c", "%T", name], capture_output=True, text=True).stdout.strip()
        if kind != "ext2/ext3":
            pytest.skip(f"/var/tmp is on {kind}, not on ext4")
        yield Path(name)


def _groups(directory: Path) -> set[int]:
    found = set()
    for number in range(8):
        made = directory / str(number)
        made.mkdir()
        found.add(made.stat().st_ino // _GROUP)
    return found


def test_subdirectories_begin_in_groups_of_their_own(disk: Path) -> None:
    near, far = disk / "near", disk / "far"
    near.mkdir()
    far.mkdir()
    spread(far)
    spread(far)  # again, as every start of an engine does
    assert len(_groups(far)) > len(_groups(near))


def test_a_file_system_without_the_flag_does_without(tmp_path: Path) -> None:
    spread("/proc")
    spread("/dev/shm")
    spread(tmp_path / "missing")
