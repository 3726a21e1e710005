"""Control groups in a mount namespace that has lost sight of them.

``ip netns exec`` mounts a new /sys in a mount namespace of its own, and with the old one the hierarchies below it
are gone. ip-netns(8), cgroups(7).
"""

from __future__ import annotations

import os
from pathlib import Path

from sampan.kernel import mountinfo, mounts
from sampan.runtime.cgroups import files


def make_visible() -> bool:
    """Mount the machine's hierarchies where this mount namespace has none; whether there are any now. OSError.

    Nothing is mounted for others: neither in the machine's mount namespace, nor below a mount that others share.
    """
    if files.hierarchies():
        return True
    if _is_the_machines() or mountinfo.of(files.SYSTEM).propagation & {"shared"}:
        return False
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    controllers = [words for _, words in (line.split(":")[:2] for line in lines) if words]
    flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
    if not controllers:
        mounts.mount("cgroup2", files.SYSTEM, "cgroup2", flags)
        return True
    mounts.mount("tmpfs", files.SYSTEM, "tmpfs", flags, "mode=755")
    for words in controllers:
        point = f"{files.SYSTEM}/{words.removeprefix('name=')}"
        os.mkdir(point, 0o755)
        mounts.mount(
            "cgroup", point, "cgroup", flags, f"none,{words}" if words.startswith("name=") else words
        )
    return True


def _is_the_machines() -> bool:
    try:
        return os.stat("/proc/1/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino
    except PermissionError:  # an init that root may not look at: this is somebody's sandbox
        return False
