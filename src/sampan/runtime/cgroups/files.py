"""Where control files are, reading and writing them. cgroups(7)."""

from __future__ import annotations

import os

SYSTEM = "/sys/fs/cgroup"
UNIFIED = "unified"  # stands for all controllers where v2 is the only one
_OPTIONS = frozenset(("rw", "ro", "xattr", "clone_children", "release_agent", "noprefix", "cpuset_v2_mode"))


def hierarchies() -> dict[str, str]:
    """Controllers of v1 with their mount points; ``{"unified": …}`` on a machine with v2 only."""
    found: dict[str, str] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mountinfo:
        for line in mountinfo:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            point = left.split(" ")[4]
            if kind == "cgroup":
                for name in options.strip().split(","):
                    if name not in _OPTIONS:
                        found.setdefault(name.removeprefix("name="), point)
            elif kind == "cgroup2" and point == SYSTEM:
                return {UNIFIED: point}
    return found


def read(path: str, default: str = "") -> str:
    """A control file's text, ``default`` when there is none."""
    try:
        with open(path, "rb") as file:
            return file.read().decode()
    except OSError:
        return default


def write(path: str, text: str) -> None:
    """Write a control file; OSError with the kernel's reason (buffered files would lose it)."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        reason = f"{os.path.basename(path)} = {text}: {os.strerror(error.errno or 0)}"
        raise OSError(error.errno, reason) from None
    finally:
        os.close(fd)


def table(text: str) -> dict[str, int]:
    """``key value`` lines."""
    pairs = (line.partition(" ") for line in text.splitlines())
    return {key: int(value) for key, _, value in pairs if value.isdecimal()}


def number(path: str) -> int | None:
    """A control file's number; None when there is no file, or ``max`` in it."""
    text = read(path).strip()
    return int(text) if text.isdecimal() else None
