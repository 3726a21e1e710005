"""Bind mounts as detached copies of mounts, taken before the container's namespaces exist.

Whoever may read a source on the host takes it (open_tree(2)); the container's first process, which in a user
namespace may not even see it, only attaches it. What the container mounts is decided by descriptor.
"""

from __future__ import annotations

import os
import stat

from sampan.kernel import mounts, namespaces, process
from sampan.runtime.cgroups import files
from sampan.runtime.oci.idmaps import write_maps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.oci.plan import MountStep

    Plan = dict[str, Any]
    At = Any

_SYS_ADMIN = 1 << 21
STANDARD_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)


class Trees:
    """Descriptors of detached mounts: the root, bind mounts by index, v1 cgroups, devices by path."""

    __slots__ = ("binds", "cgroups", "devices", "root")

    def __init__(self) -> None:
        self.root = -1
        self.binds: dict[int, int] = {}
        self.cgroups: list[tuple[str, int]] = []
        self.devices: dict[str, int] = {}


def may_take() -> bool:
    """Whether this process may copy mounts."""
    return bool(process.get_capabilities()[0] & _SYS_ADMIN)


def take(plan: Plan, at: At) -> Trees:
    """Copy all that ``plan`` binds; ``at(step, detail)`` is told what is going on. OSError."""
    found = Trees()
    at("rootfs", plan["rootfs"])
    found.root = clone(plan["rootfs"], recursive=True)
    propagation = plan["propagation"] & mounts.PROPAGATION
    mounts.set_attributes(found.root, propagation=propagation, recursive=True)
    for index, step in enumerate(plan["mounts"]):
        at("mount", (step.source, step.destination))
        if step.options.bind and not step.options.flags & mounts.MS_REMOUNT:
            found.binds[index] = _bind(step)
        elif step.kind == "cgroup":
            found.binds[index], found.cgroups = _cgroups(plan, found)
    if plan["in_userns"]:
        for path in [entry[0] for entry in STANDARD_DEVICES] + [entry.path for entry in plan["devices"]]:
            at("device", path)
            found.devices[path] = clone(path, recursive=False)
    return found


def clone(path: str, *, recursive: bool) -> int:
    """A detached copy of the mount at ``path``."""
    return mounts.open_tree(-1, path, mounts.OPEN_TREE_CLONE | (mounts.AT_RECURSIVE if recursive else 0))


def is_directory(tree: int) -> bool:
    """Whether a tree is one of a directory."""
    return stat.S_ISDIR(os.fstat(tree).st_mode)


def _bind(step: MountStep) -> int:
    wanted = step.options
    tree = clone(step.source, recursive=wanted.recursive)
    # Without a choice changes of the host arrive, those of the container stay inside.
    kind = wanted.propagation or mounts.MS_SLAVE
    deep = wanted.propagation_recursive or (not wanted.propagation and wanted.recursive)
    mounts.set_attributes(tree, propagation=kind, recursive=deep)
    add, remove = wanted.tree_attributes()
    if add or remove:
        mounts.set_attributes(tree, add=add, remove=remove)
    if wanted.add or wanted.remove:
        mounts.set_attributes(tree, add=wanted.add, remove=wanted.remove, recursive=True)
    if step.maps:
        _map_ids(tree, step.maps, recursive=wanted.idmap_recursive)
    return tree


def _map_ids(tree: int, maps: tuple[str, str], *, recursive: bool) -> None:
    """Show other owners: the mapping is taken from a user namespace made for it. mount_setattr(2)."""
    userns = _user_namespace(maps)
    try:
        mounts.set_attributes(tree, add=mounts.MOUNT_ATTR_IDMAP, userns=userns, recursive=recursive)
    finally:
        os.close(userns)


def _user_namespace(maps: tuple[str, str]) -> int:
    """A user namespace with these uid and gid maps, held by its descriptor only. user_namespaces(7)."""
    ready, made = os.pipe()
    hold, release = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ready)
            os.close(release)
            namespaces.unshare(namespaces.CLONE_NEWUSER)
            os.write(made, b"x")
            os.read(hold, 1)
        finally:
            os._exit(0)
    try:
        os.close(made)
        os.close(hold)
        os.read(ready, 1)
        write_maps(child, maps)
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(release)
        os.close(ready)
        os.waitpid(child, 0)


def _cgroups(plan: Plan, found: Trees) -> tuple[int, list[tuple[str, int]]]:
    """v1: the container's own group of each hierarchy. v2: the whole tree, where the namespace is the host's."""
    points = files.hierarchies()
    if "unified" in points:
        if plan["unshare"] & namespaces.CLONE_NEWCGROUP:
            return -1, []
        return clone(points["unified"], recursive=True), []
    taken = []
    for kind, point in points.items():
        directory = plan["cgroups"].get(kind)
        if directory:
            taken.append((f"{kind} {os.path.basename(point)}", clone(directory, recursive=False)))
    return -1, taken
