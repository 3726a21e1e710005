"""What is mounted where, as this process sees it: proc_pid_mountinfo(5)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """One mount: where it is, whether it is a peer ("shared") or receives ("master"), its file system."""

    point: str
    propagation: frozenset[str]
    fstype: str


def of(path: str | Path) -> Mount:
    """The mount that ``path`` lies on. By its number: a subvolume of btrfs has a device of its own. OSError."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        facts = Path(f"/proc/self/fdinfo/{fd}").read_text()
    finally:
        os.close(fd)
    identity = facts.partition("mnt_id:")[2].split()[0]
    with open("/proc/self/mountinfo", errors="surrogateescape") as table:
        for line in table:
            fields, _, rest = line.partition(" - ")
            words = fields.split()
            if words[0] == identity:
                return Mount(
                    words[4], frozenset(word.partition(":")[0] for word in words[6:]), rest.split()[0]
                )
    return Mount("/", frozenset(), "<unknown>")  # in a mount namespace that isn't ours


def is_mount_point(path: Path) -> bool:
    """Whether something is mounted on ``path``: the kernel's list says so, binds included."""
    wanted = os.fsencode(path).replace(b"\\", b"\\134").replace(b" ", b"\\040").replace(b"\t", b"\\011")
    with open("/proc/self/mountinfo", "rb") as table:
        return any(line.split(b" ", 5)[4] == wanted for line in table)
