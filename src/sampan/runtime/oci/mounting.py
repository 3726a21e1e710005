"""The container's file system, put together by its first process inside its own mount namespace.

Every target is opened inside the new root (openat2 with RESOLVE_IN_ROOT, no magic links) and mounted on by
descriptor, so that no link of a root file system leads a mount out.
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.kernel import mounts, paths
from sampan.runtime.oci import trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.runtime.oci.plan import MountStep
    from sampan.runtime.oci.spec import Device
    from sampan.runtime.oci.trees import Trees

    Plan = dict[str, Any]
    At = Callable[[str, object], None]

_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def assemble(plan: Plan, taken: Trees, at: At) -> int:
    """Attach root and mounts, make devices and links; O_PATH descriptor of the root. OSError."""
    os.umask(0)
    at("mount", ("none", "/"))
    mounts.mount(None, "/", None, mounts.MS_SLAVE | mounts.MS_REC)
    at("rootfs", plan["rootfs"])
    # Any place will do: the old root with all in it is let go when the new one is entered.
    place = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.attach(taken.root, place)
    os.close(place)
    for index, step in enumerate(plan["mounts"]):
        at("mount", (step.source, step.destination))
        _mount(taken.root, step, taken, taken.binds.get(index, -1))
    if _makes_devices(plan):
        _fill_dev(taken, plan, at)
    return taken.root


def _makes_devices(plan: Plan) -> bool:
    """A /dev that is somebody else's isn't touched."""
    return not any(step.options.bind and step.destination.rstrip("/") == "/dev" for step in plan["mounts"])


def _mount(root: int, step: MountStep, taken: Trees, tree: int) -> None:
    if tree >= 0:
        _attach_at(root, tree, step.destination)
        if step.kind == "cgroup":  # a copy of the host's: the options are its own
            _add_flags(root, step)
    elif step.kind == "cgroup" and taken.cgroups:
        _mount_groups(root, step, taken.cgroups)
    elif step.kind == "tmpfs" and step.options.copy_up:
        _mount_filled(root, step)
    else:
        kind = "cgroup2" if step.kind == "cgroup" else step.kind
        _mount_fs(root, kind, step.source or kind, step.destination, step.options.flags, step.options.data)
        _propagate(root, step)


def _attach_at(root: int, tree: int, destination: str) -> None:
    place = (paths.make_directories if trees.is_directory(tree) else paths.make_file)(root, destination)
    mounts.attach(tree, place)
    os.close(tree)
    os.close(place)


def _mount_fs(root: int, kind: str, source: str, target: str, flags: int, data: str) -> None:
    place = paths.make_directories(root, target)
    try:
        plain = flags & ~(mounts.PROPAGATION | mounts.MS_REC)
        mounts.mount(source, f"/proc/self/fd/{place}", kind or None, plain, data or None)
    finally:
        os.close(place)


def _propagate(root: int, step: MountStep) -> None:
    wanted = step.options
    if not (wanted.propagation or wanted.add or wanted.remove):
        return
    place = paths.open_in_root(root, step.destination, os.O_PATH)
    if wanted.propagation:
        deep = wanted.propagation_recursive
        mounts.set_attributes(place, propagation=wanted.propagation, recursive=deep)
    if wanted.add or wanted.remove:
        mounts.set_attributes(place, add=wanted.add, remove=wanted.remove, recursive=True)
    os.close(place)


def _add_flags(root: int, step: MountStep) -> None:
    add, remove = step.options.tree_attributes()
    if add or remove:
        place = paths.open_in_root(root, step.destination, os.O_PATH)
        mounts.set_attributes(place, add=add, remove=remove)
        os.close(place)


def _mount_groups(root: int, step: MountStep, groups: list[tuple[str, int]]) -> None:
    """v1: a tmpfs with the container's own group of every hierarchy, and links for joint controllers."""
    read_only = step.options.flags & mounts.MS_RDONLY
    flags = step.options.flags & ~mounts.MS_RDONLY
    _mount_fs(root, "tmpfs", "tmpfs", step.destination, flags, "mode=755")
    top = paths.open_in_root(root, step.destination, os.O_RDONLY | os.O_DIRECTORY)
    add, _ = mounts.attributes(step.options.flags)
    done = set()
    for names, tree in groups:
        kind, directory = names.split(" ")
        if directory in done:
            os.close(tree)
        else:
            done.add(directory)
            mounts.set_attributes(tree, add=add, propagation=mounts.MS_PRIVATE)
            _attach_at(top, tree, f"/{directory}")
        if kind != directory:
            os.symlink(directory, kind, dir_fd=top)
    if read_only:
        mounts.set_attributes(top, add=mounts.MOUNT_ATTR_RDONLY)
    os.close(top)


def _mount_filled(root: int, step: MountStep) -> None:
    """A tmpfs that starts with what it covers."""
    from sampan.storage.tree import copy_tree

    os.close(paths.make_directories(root, step.destination))
    below = paths.open_in_root(root, step.destination, os.O_RDONLY | os.O_DIRECTORY)
    flags = step.options.flags & ~mounts.MS_RDONLY
    _mount_fs(root, "tmpfs", step.source or "tmpfs", step.destination, flags, step.options.data)
    above = paths.open_in_root(root, step.destination, os.O_RDONLY | os.O_DIRECTORY)
    copy_tree(below, above)
    if step.options.flags & mounts.MS_RDONLY:
        mounts.set_attributes(above, add=mounts.MOUNT_ATTR_RDONLY)
    os.close(below)
    os.close(above)
    _propagate(root, step)


# -- /dev -----------------------------------------------------------------------------------------------------


def _fill_dev(taken: Trees, plan: Plan, at: At) -> None:
    for path, major, minor in trees.STANDARD_DEVICES:
        at("device", path)
        if path in taken.devices:
            _bind_device(taken.root, path, taken.devices[path])
        else:
            _make_device(taken.root, path, stat.S_IFCHR, 0o666, os.makedev(major, minor), (0, 0))
    for device in plan["devices"]:
        at("device", device.path)
        if device.path in taken.devices:
            if not any(device.path == entry[0] for entry in trees.STANDARD_DEVICES):
                _bind_device(taken.root, device.path, taken.devices[device.path])
        else:
            _make_listed(taken.root, device)
    for target, link in _LINKS:
        at("symlink", link)
        _link(taken.root, target, link)
    if os.path.exists("/proc/kcore"):
        _link(taken.root, "/proc/kcore", "/dev/core")
    at("symlink", "/dev/ptmx")
    _replace(taken.root, "pts/ptmx", "/dev/ptmx")


def _parent(root: int, path: str) -> tuple[int, str]:
    holder, _, name = path.rstrip("/").rpartition("/")
    return paths.make_directories(root, holder or "/"), name


def _make_listed(root: int, device: Device) -> None:
    number = 0 if device.kind == "p" else os.makedev(device.major, device.minor)
    owner = (device.uid, device.gid)
    _make_device(root, device.path, _KINDS[device.kind], device.mode, number, owner)


def _make_device(root: int, path: str, kind: int, mode: int, number: int, owner: tuple[int, int]) -> None:
    parent, name = _parent(root, path)
    try:
        os.mknod(name, kind | mode, number, dir_fd=parent)
        if owner != (0, 0):
            os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_IFMT(found.st_mode) != kind or found.st_rdev != number:
            raise OSError(errno.EEXIST, "another file is in the device's place", path) from None
    finally:
        os.close(parent)


def _bind_device(root: int, path: str, tree: int) -> None:
    """In a user namespace nobody can make a device: the host's own stands in."""
    _attach_at(root, tree, path)


def _link(root: int, target: str, link: str) -> None:
    parent, name = _parent(root, link)
    try:
        os.symlink(target, name, dir_fd=parent)
    except FileExistsError:
        return
    finally:
        os.close(parent)


def _replace(root: int, target: str, link: str) -> None:
    """The host's multiplexer in a root file system would hand out the host's terminals."""
    parent, name = _parent(root, link)
    try:
        if os.access(name, os.F_OK, dir_fd=parent, follow_symlinks=False):
            os.unlink(name, dir_fd=parent)
        os.symlink(target, name, dir_fd=parent)
    finally:
        os.close(parent)


# -- entering ---------------------------------------------------------------------------------------------------


def enter_by_chroot(root: int, plan: Plan) -> None:
    """As :func:`sampan.runtime.rootfs.enter`, where pivot_root(2) is refused (an initramfs).

    The root is mounted over the old one already: to be in it is enough.
    """
    if plan.get("readonly"):
        mounts.set_attributes(root, add=mounts.MOUNT_ATTR_RDONLY)
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")
