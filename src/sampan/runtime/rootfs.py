"""The container's file system: root, mounts, devices, masks, pivot_root; run by its first process.

Every target is opened inside the new root (openat2 with RESOLVE_IN_ROOT, no magic links) and mounted on by
descriptor, so that no link of an image can lead a mount out. Nothing is mounted on the host: the mount
namespace is the container's own.
"""

from __future__ import annotations

import errno
import os
import stat

from sampan.kernel import mounts, namespaces, paths, pty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Plan = dict[str, Any]
    At = Callable[[str, object], None]

_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def assemble(plan: Plan, at: At) -> int:
    """Mount the root and all that ``plan`` puts into it; O_PATH descriptor of the root.

    ``at(step, detail)`` is told what is going on, for error reports. Raises OSError.
    """
    os.umask(0)
    shared = _take_shared(plan, at)
    at("rootfs", plan["rootfs"][0])
    root = _mount_root(plan)
    for index, entry in enumerate(plan.get("mounts", ())):
        _mount(root, entry, shared.get(index, -1), at)
    parents = _Parents(root)
    for device in plan.get("devices", ()):
        at("device", device[0])
        _make_device(root, parents, device)
    for target, link in plan.get("symlinks", ()):
        at("symlink", link)
        _make_symlink(parents, target, link)
    parents.close()
    return root


def needs_host_mounts(plan: Plan) -> bool:
    """Whether mounts are taken from the host's own namespace: shared ones, and what may be mounted by now.

    The zygote's namespace is a copy that gets later mounts only where the host's mounts are shared.
    """
    return bool(plan.get("host_mounts")) or any(_is_shared(entry) for entry in plan.get("mounts", ()))


def restrict(root: int, plan: Plan, at: At) -> None:
    """Read-only and masked paths below ``root``; missing ones are skipped."""
    for path in plan.get("readonly_paths", ()):
        at("readonly path", path)
        _make_readonly(root, path)
    empty = -1
    for path in plan.get("masked", ()):
        at("masked path", path)
        empty = _mask(root, path, empty)
    if empty >= 0:
        os.close(empty)


def enter(root: int, plan: Plan) -> None:
    """Make ``root`` the root and working directory, the old root is let go. pivot_root(2)."""
    if plan.get("readonly"):
        mounts.set_attributes(root, add=mounts.MOUNT_ATTR_RDONLY)
    os.fchdir(root)
    mounts.pivot_root(".", ".")
    mounts.umount(".", mounts.MNT_DETACH)
    os.chdir("/")
    propagation = plan.get("propagation", 0) & mounts.PROPAGATION
    if propagation and propagation != mounts.MS_PRIVATE:
        mounts.mount(None, "/", None, propagation)


def open_console(root: int) -> tuple[int, int]:
    """A terminal of the container's devpts, its slave bound on /dev/console: (master, slave)."""
    master, slave, number = pty.open_pair(root)
    target = paths.make_file(root, "dev/console", 0o600)
    node = paths.open_in_root(root, f"dev/pts/{number}", os.O_PATH)
    _attach(mounts.open_tree(node, "", mounts.OPEN_TREE_CLONE), target)
    os.close(node)
    return master, slave


def _is_shared(entry: list[Any]) -> bool:
    return entry[0] == "bind" and bool(entry[5] & mounts.MS_SHARED)


def _take_shared(plan: Plan, at: At) -> dict[int, int]:
    """Copies of the sources that stay shared with the host, by index; all other mounts become slaves then."""
    if not needs_host_mounts(plan):
        return {}
    trees = {}
    for index, entry in enumerate(plan["mounts"]):
        if _is_shared(entry):
            at("mount", (entry[1], entry[2]))
            trees[index] = _copy_tree(entry)
    at("mount", ("none", "/"))
    mounts.mount(None, "/", None, mounts.MS_SLAVE | mounts.MS_REC)
    return trees


def _copy_tree(entry: list[Any]) -> int:
    """A copy of a bind's source; of what lies below it at ``entry[7]``, whatever links others put there."""
    source, recursive = entry[1], entry[4]
    flags = mounts.OPEN_TREE_CLONE | (mounts.AT_RECURSIVE if recursive else 0)
    if len(entry) < 8:
        return mounts.open_tree(-1, source, flags)
    top = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    inner = paths.open_in_root(top, entry[7], os.O_PATH)
    os.close(top)
    try:
        return mounts.open_tree(inner, "", flags)
    finally:
        os.close(inner)


def _mount_root(plan: Plan) -> int:
    """Put the root file system on run_dir, any directory of this mount namespace would do."""
    kind = plan["rootfs"][0]
    if kind == "overlay":
        _, lowers, upper, work = plan["rootfs"]
        root = mounts.overlay(lowers, upper, work)
    else:
        root = mounts.open_tree(-1, plan["rootfs"][1], mounts.OPEN_TREE_CLONE | mounts.AT_RECURSIVE)
        mounts.set_attributes(root, propagation=mounts.MS_PRIVATE, recursive=True)
    place = os.open(plan["run_dir"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mounts.attach(root, place)
    os.close(place)
    return root


def _mount(root: int, entry: list[Any], tree: int, at: At) -> None:
    if entry[0] == "fs":
        _, fstype, source, target, flags, data = entry
        at("mount", (source, target))
        _mount_fs(root, fstype, source, target, flags, data)
        return
    if entry[0] == "from":
        _, donor, source, target = entry
        at("mount", (source, target))
        _attach(_tree_of(donor, source), paths.make_directories(root, target))
        return
    if entry[0] == "image":
        _, lowers, subpath, target = entry
        at("mount", (lowers[0], target))
        _mount_image(root, lowers, subpath, target)
        return
    at("mount", (entry[1], entry[2]))
    _, source, target, flags, recursive, propagation, make = entry[:7]
    if tree < 0:
        tree = _copy_tree(entry)
    _set_up_tree(tree, flags, propagation, recursive=recursive)
    if len(entry) > 7:
        place = _place_like(tree, root, target)
    elif make == "dir":
        place = paths.make_directories(root, target)
    elif make == "file":
        place = paths.make_file(root, target)
    else:
        place = paths.open_in_root(root, target, os.O_PATH)
    _attach(tree, place)


def _place_like(tree: int, root: int, target: str) -> int:
    """A mount point of the kind that is mounted on it."""
    directory = stat.S_ISDIR(os.fstat(tree).st_mode)
    return paths.make_directories(root, target) if directory else paths.make_file(root, target)


def _mount_image(root: int, lowers: list[str], subpath: str, target: str) -> None:
    """An image's layers, or what lies in them at ``subpath``, read-only."""
    tree = mounts.overlay(lowers, None, None, mounts.MOUNT_ATTR_RDONLY)
    if subpath:
        whole = tree
        # In the namespace first, since a detached mount can be copied only by newer kernels.
        mounts.attach(whole, root)
        inner = paths.open_in_root(whole, subpath, os.O_PATH)
        tree = mounts.open_tree(inner, "", mounts.OPEN_TREE_CLONE)
        os.close(inner)
        mounts.umount(f"/proc/self/fd/{whole}", mounts.MNT_DETACH)
        os.close(whole)
        mounts.set_attributes(tree, add=mounts.MOUNT_ATTR_RDONLY)
    _attach(tree, _place_like(tree, root, target))


def _mount_fs(root: int, fstype: str, source: str, target: str, flags: int, data: str) -> None:
    fd = paths.make_directories(root, target)
    propagation = flags & mounts.PROPAGATION
    plain = flags & ~(mounts.PROPAGATION | mounts.MS_REC)
    mounts.mount(source, f"/proc/self/fd/{fd}", fstype, plain, data or None)
    os.close(fd)
    if propagation:
        fd = paths.open_in_root(root, target, os.O_PATH)
        mounts.set_attributes(fd, propagation=propagation)
        os.close(fd)


def _set_up_tree(tree: int, flags: int, propagation: int, *, recursive: bool) -> None:
    """Mount flags (of the whole tree with MS_REC among them) and propagation, private unless asked for."""
    add, remove = mounts.attributes(flags)
    kind = propagation & mounts.PROPAGATION or mounts.MS_PRIVATE
    below = bool(propagation & mounts.MS_REC) or recursive
    if (add or remove) and bool(flags & mounts.MS_REC) != below:
        mounts.set_attributes(tree, add=add, remove=remove, recursive=not below)
        add = remove = 0
    mounts.set_attributes(tree, add=add, remove=remove, propagation=kind, recursive=below)


def _tree_of(donor: str, source: str) -> int:
    """A copy of the mount at ``source`` in another mount namespace: only from inside can it be taken."""
    flags = os.O_RDONLY | os.O_CLOEXEC
    there = os.open(donor, flags)
    here = os.open("/proc/self/ns/mnt", flags)
    try:
        namespaces.setns(there, namespaces.CLONE_NEWNS)
        try:
            return mounts.open_tree(-1, source, mounts.OPEN_TREE_CLONE)
        finally:
            namespaces.setns(here, namespaces.CLONE_NEWNS)
    finally:
        os.close(there)
        os.close(here)


def _attach(tree: int, place: int) -> None:
    try:
        mounts.attach(tree, place)
    finally:
        os.close(tree)
        os.close(place)


class _Parents:
    """The directories of names that are made in a row: each is looked up once."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._path = ""
        self._fd = -1

    def of(self, path: str) -> tuple[int, str]:
        """The directory of ``path``, made where it is missing, and the name in it."""
        holder, _, name = path.rstrip("/").rpartition("/")
        if self._fd < 0 or holder != self._path:
            self.close()
            self._fd, self._path = paths.make_directories(self._root, holder or "/"), holder
        return self._fd, name

    def close(self) -> None:
        """Let the last one go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _make_device(root: int, parents: _Parents, device: list[Any]) -> None:
    path, kind, major, minor, mode, uid, gid = device
    parent, name = parents.of(path)
    try:
        os.mknod(name, _KINDS[kind] | mode & 0o7777, os.makedev(major, minor), dir_fd=parent)
        if uid or gid:
            os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
    except FileExistsError:
        return
    except PermissionError:  # in a user namespace: the host's node stands in
        _attach(mounts.open_tree(-1, path, mounts.OPEN_TREE_CLONE), paths.make_file(root, path))


def _make_symlink(parents: _Parents, target: str, link: str) -> None:
    parent, name = parents.of(link)
    try:
        os.symlink(target, name, dir_fd=parent)
    except FileExistsError:
        return


def _make_readonly(root: int, path: str) -> None:
    try:
        place = paths.open_in_root(root, path, os.O_PATH)
    except OSError as error:
        if error.errno in _ABSENT:
            return
        raise
    tree = mounts.open_tree(place, "", mounts.OPEN_TREE_CLONE | mounts.AT_RECURSIVE)
    mounts.set_attributes(tree, add=mounts.MOUNT_ATTR_RDONLY)
    _attach(tree, place)


def _mask(root: int, path: str, empty: int) -> int:
    """Hide ``path``: a file below /dev/null, a directory below an empty one, whose mount is given back."""
    try:
        place = paths.open_in_root(root, path, os.O_PATH)
    except OSError as error:
        if error.errno in _ABSENT:
            return empty
        raise
    if stat.S_ISDIR(os.fstat(place).st_mode):
        if empty < 0:
            options = [("size", "0"), ("mode", "0555")]
            empty = mounts.detached("tmpfs", options, mounts.MOUNT_ATTR_RDONLY)
            # In the namespace first, since a detached mount can be copied only by newer kernels.
            mounts.attach(empty, place)
            os.close(place)
            return empty
        tree = mounts.open_tree(empty, "", mounts.OPEN_TREE_CLONE)
    else:
        tree = mounts.open_tree(-1, "/dev/null", mounts.OPEN_TREE_CLONE)
        # It is the host's own node: the container's root must not change its mode or owner.
        mounts.set_attributes(tree, add=mounts.MOUNT_ATTR_RDONLY)
    _attach(tree, place)
    return empty
