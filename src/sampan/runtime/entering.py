"""Which namespaces a launch enters, read from its plan or from a process."""

from __future__ import annotations

import os
from typing import Any

from sampan.kernel import namespaces

_NAMESPACES = (
    ("user", namespaces.CLONE_NEWUSER),
    ("mnt", namespaces.CLONE_NEWNS),
    ("pid", namespaces.CLONE_NEWPID),
    ("net", namespaces.CLONE_NEWNET),
    ("ipc", namespaces.CLONE_NEWIPC),
    ("uts", namespaces.CLONE_NEWUTS),
    ("cgroup", namespaces.CLONE_NEWCGROUP),
)


def pid_namespace(plan: dict[str, Any]) -> bool | str:
    """The process's pid namespace: a new or (with a target) the target's (True), a file's, this one (False).

    It is for children only, so that it is the monitor that must know.
    """
    for path, flag in plan.get("setns", ()):
        if flag == namespaces.CLONE_NEWPID:
            return str(path)
    return bool((plan.get("unshare", 0) | plan.get("nsflags", 0)) & namespaces.CLONE_NEWPID)


def namespaces_of(pid: int) -> int:
    """CLONE_NEW* flags of the namespaces in which ``pid`` differs from this process. namespaces(7)."""
    flags = 0
    for name, flag in _NAMESPACES:
        try:
            if os.stat(f"/proc/{pid}/ns/{name}").st_ino != os.stat(f"/proc/self/ns/{name}").st_ino:
                flags |= flag
        except FileNotFoundError:
            continue
    return flags
