"""Making and removing the directories that groups are."""

from __future__ import annotations

import errno
import os

from sampan.runtime.cgroups.files import UNIFIED, read, write

_MODE = 0o755


def make(kind: str, directory: str, root: str, made: list[str]) -> bool:
    """Make a group and those above it that are missing; False if there was one. OSError.

    ``root`` is where the hierarchy of controller ``kind`` is mounted. ``made`` gets what was made, parents
    first, also when something fails.
    """
    if kind != UNIFIED:  # there the groups above must hand their controllers down
        try:
            return _make_one(kind, directory, root, made)
        except FileNotFoundError:
            pass  # no parent yet
    try:
        return _make_path(kind, directory, root, made)
    except FileNotFoundError:
        # Somebody else has just removed the common parent.
        return _make_path(kind, directory, root, made)


def _make_path(kind: str, directory: str, root: str, made: list[str]) -> bool:
    step, new = root, False
    for part in directory[len(root) :].strip("/").split("/"):
        if kind == UNIFIED:
            _hand_down(step)
        step = f"{step}/{part}"
        new = _make_one(kind, step, root, made)
    return new


def _make_one(kind: str, directory: str, root: str, made: list[str]) -> bool:
    try:
        os.mkdir(directory, _MODE)
    except FileExistsError:
        return False
    made.append(directory)
    if kind == "cpuset":
        _inherit_cpuset(directory, root)
    return True


def _inherit_cpuset(group: str, root: str) -> None:
    """An empty set lets nobody in; a new group starts with none, its parent's may not be written yet."""
    parent = os.path.dirname(group)
    for name in ("cpuset.cpus", "cpuset.mems"):
        text = read(f"{parent}/{name}").strip()
        if parent != root and not text:
            _inherit_cpuset(parent, root)
            text = read(f"{parent}/{name}").strip()
        write(f"{group}/{name}", text)


def _hand_down(group: str) -> None:
    """v2: hand all controllers on to the groups below; some can't be (real-time or inner processes)."""
    given = read(f"{group}/cgroup.subtree_control").split()
    missing = [f"+{name}" for name in read(f"{group}/cgroup.controllers").split() if name not in given]
    if missing and not _try(group, " ".join(missing)):
        for word in missing:
            _try(group, word)  # a limit that needs it will say so


def _try(group: str, words: str) -> bool:
    try:
        write(f"{group}/cgroup.subtree_control", words)
    except OSError:
        return False
    return True


def pids(directory: str) -> list[int]:
    """All processes in a group and below it."""
    found: set[int] = set()
    for step, _, _ in os.walk(directory):
        found.update(int(line) for line in read(f"{step}/cgroup.procs").split())
    return sorted(found)


def remove(directory: str) -> bool:
    """Remove a group with those below it; gone already is fine, False while something holds it. OSError."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return _remove_below(directory)
    return True


def _remove_below(directory: str) -> bool:
    for step, _, _ in os.walk(directory, topdown=False):
        try:
            os.rmdir(step)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
    return True


def remove_empty(directory: str) -> None:
    """Remove a group if nothing is in it."""
    try:
        os.rmdir(directory)
    except OSError:
        return  # gone, or somebody is in there
