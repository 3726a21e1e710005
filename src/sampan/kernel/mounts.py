"""Mounting: mount(2) and the calls by file descriptor (fsopen(2), open_tree(2), move_mount(2), …).

Everything needs CAP_SYS_ADMIN in the user namespace that owns the mount namespace. Kernel 5.12 or later
(mount_setattr(2)).
"""

from __future__ import annotations

import _thread
import ctypes
import errno
import os

from sampan.kernel import libc, namespaces

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
PROPAGATION = MS_UNBINDABLE | MS_PRIVATE | MS_SLAVE | MS_SHARED

MNT_DETACH = 2

AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x00100000
MOUNT_ATTR_NOSYMFOLLOW = 0x00200000

_FROM_MS = (
    (MS_RDONLY, MOUNT_ATTR_RDONLY),
    (MS_NOSUID, MOUNT_ATTR_NOSUID),
    (MS_NODEV, MOUNT_ATTR_NODEV),
    (MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    (MS_NOATIME, MOUNT_ATTR_NOATIME),
    (MS_STRICTATIME, MOUNT_ATTR_STRICTATIME),
    (MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
    (MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
)

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_SET_FD = 5
_FSCONFIG_CMD_CREATE = 6
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40

_STRING_LIMIT = 255  # bytes that fsconfig(2) takes as a string
_OPTIONS_PAGE = 4095  # mount(2) cuts longer option strings silently

_int, _uint, _str, _pointer = ctypes.c_int, ctypes.c_uint, ctypes.c_char_p, ctypes.c_void_p
_mount = libc.function("mount", _str, _str, _str, ctypes.c_ulong, _str)
_umount2 = libc.function("umount2", _str, _int)
_pivot_root = libc.function("pivot_root", _str, _str)
_open_tree = libc.syscall(428, _int, _str, _uint)
_move_mount = libc.syscall(429, _int, _str, _int, _str, _uint)
_fsopen = libc.syscall(430, _str, _uint)
_fsconfig = libc.syscall(431, _int, _uint, _str, _str, _int)
_fsmount = libc.syscall(432, _int, _uint, _uint)
_mount_setattr = libc.syscall(442, _int, _str, _uint, _pointer, ctypes.c_size_t)


def mount(
    source: str | bytes | None,
    target: str | bytes,
    fstype: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """mount(2). ``data`` over 4095 bytes is refused here (E2BIG): the kernel would cut it."""
    raw = libc.encode(data)
    if raw is not None and len(raw) > _OPTIONS_PAGE:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), target)
    kind = libc.encode(fstype)
    libc.check(_mount(libc.encode(source), libc.encode(target), kind, flags, raw), target)


def umount(target: str | bytes, flags: int = 0) -> None:
    """umount2(2)."""
    libc.check(_umount2(libc.encode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); both may be "." as its man page describes."""
    libc.check(_pivot_root(libc.encode(new_root), libc.encode(put_old)), new_root)


def open_tree(dirfd: int, path: str | bytes, flags: int = 0) -> int:
    """A descriptor of a mount, or with OPEN_TREE_CLONE of a detached copy of it. open_tree(2)."""
    if not path:
        flags |= AT_EMPTY_PATH
    return libc.check(_open_tree(dirfd, libc.encode(path), flags | os.O_CLOEXEC), path)


def attach(tree: int, target: int) -> None:
    """Put the detached mount ``tree`` on top of the directory or file ``target``, both descriptors.

    move_mount(2).
    """
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    libc.check(_move_mount(tree, b"", target, b"", flags), "move_mount")


class _MountAttr(ctypes.Structure):
    """``struct mount_attr`` of mount_setattr(2)."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def set_attributes(
    tree: int,
    *,
    add: int = 0,
    remove: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    userns: int = 0,
) -> None:
    """Change MOUNT_ATTR_* flags and propagation (one MS_* flag) of the mount ``tree``. mount_setattr(2)."""
    attr = _MountAttr(add, remove, propagation, userns)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    pointer, size = ctypes.addressof(attr), ctypes.sizeof(attr)
    libc.check(_mount_setattr(tree, b"", flags, pointer, size), "mount_setattr")


def attributes(flags: int) -> tuple[int, int]:
    """MS_* flags as (MOUNT_ATTR_* to set, to clear): asking for an atime mode clears the present one."""
    add = 0
    for mount_flag, attribute in _FROM_MS:
        if flags & mount_flag:
            add |= attribute
    atime = flags & (MS_NOATIME | MS_STRICTATIME | MS_RELATIME)
    return add, (MOUNT_ATTR__ATIME if atime else 0)


def fsopen(fstype: str) -> int:
    """A configuration context for a new file system instance. fsopen(2)."""
    return libc.check(_fsopen(libc.encode(fstype), _FSOPEN_CLOEXEC), fstype)


def fs_string(context: int, key: str, value: str | bytes) -> None:
    """Set option ``key`` to a string, at most 255 bytes. fsconfig(2)."""
    libc.check(_fsconfig(context, _FSCONFIG_SET_STRING, libc.encode(key), libc.encode(value), 0), key)


def fs_flag(context: int, key: str) -> None:
    """Set the option ``key`` that takes no value. fsconfig(2)."""
    libc.check(_fsconfig(context, _FSCONFIG_SET_FLAG, libc.encode(key), None, 0), key)


def fs_descriptor(context: int, key: str, fd: int) -> None:
    """Set option ``key`` to an open descriptor. fsconfig(2)."""
    libc.check(_fsconfig(context, _FSCONFIG_SET_FD, libc.encode(key), None, fd), key)


def fs_create(context: int) -> None:
    """Make the file system instance. fsconfig(2)."""
    libc.check(_fsconfig(context, _FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig")


def fsmount(context: int, attribute_flags: int = 0) -> int:
    """The configured file system as a detached mount. fsmount(2)."""
    return libc.check(_fsmount(context, _FSMOUNT_CLOEXEC, attribute_flags), "fsmount")


def fs_message(context: int) -> str:
    """What the kernel says about a failed fsopen, fsconfig or fsmount; "" when it says nothing."""
    try:
        return os.read(context, 8192).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def detached(fstype: str, options: list[tuple[str, str]], attribute_flags: int = 0) -> int:
    """A new instance of ``fstype`` as a detached mount descriptor; options with "" as value are flags.

    Raises OSError whose ``filename`` is the kernel's own explanation where it gives one.
    """
    context = fsopen(fstype)
    try:
        fs_string(context, "source", fstype)  # what mount tables show; "none" otherwise
        for key, value in options:
            if value:
                fs_string(context, key, value)
            else:
                fs_flag(context, key)
        fs_create(context)
        return fsmount(context, attribute_flags)
    except OSError as error:
        raise OSError(error.errno, error.strerror, fs_message(context) or error.filename) from error
    finally:
        os.close(context)


# Whatever the module's defaults are: an upper directory is a layer some day, all by itself.
_PLAIN = [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")]


def overlay(lowers: list[str], upper: str | None, work: str | None, attribute_flags: int = 0) -> int:
    """A detached overlay mount of ``lowers`` (topmost first) and, unless read-only, ``upper`` and ``work``.

    kernel.org, Documentation/filesystems/overlayfs.rst.
    """
    writable = [("upperdir", upper), ("workdir", work)] if upper and work else []
    if len(lowers) == 1 and not writable:  # overlayfs wants at least two layers
        tree = open_tree(-1, lowers[0], OPEN_TREE_CLONE)
        set_attributes(tree, add=attribute_flags | MOUNT_ATTR_RDONLY)
        return tree
    options = _PLAIN if writable else []
    layers = [("lowerdir+", lower) for lower in lowers]
    short = all(len(os.fsencode(path)) <= _STRING_LIMIT for _, path in layers + writable)
    if short and _takes_layers_one_by_one():
        return detached("overlay", layers + writable + options, attribute_flags)
    return _overlay_by_mount(lowers, writable, options, attribute_flags)


def _takes_layers_one_by_one() -> bool:
    """Whether the kernel knows ``lowerdir+``: 6.8. (Asking older ones makes them write into their log.)"""
    major, minor = os.uname().release.split(".")[:2]
    return (int(major), int(minor.partition("-")[0].rstrip("+"))) >= (6, 8)


def _overlay_by_mount(
    lowers: list[str], writable: list[tuple[str, str]], options: list[tuple[str, str]], attribute_flags: int
) -> int:
    """The same by mount(2), which takes one string of a page; fsconfig(2) would take 255 bytes.

    Its mount goes somewhere: on the lowest layer, in a mount namespace that only a thread of its own is in.
    """
    found: list[int | BaseException] = []

    def work() -> None:
        try:
            namespaces.unshare(namespaces.CLONE_NEWNS)
            mount(None, "/", None, MS_REC | MS_PRIVATE)
            _mount_overlay(lowers, writable, options)
            tree = open_tree(-1, lowers[-1], OPEN_TREE_CLONE)
            set_attributes(tree, add=attribute_flags)
            found.append(tree)
        except BaseException as problem:
            found.append(problem)
        finally:
            done.release()

    done = _thread.allocate_lock()
    done.acquire()
    _thread.start_new_thread(work, ())
    done.acquire()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _mount_overlay(
    lowers: list[str], writable: list[tuple[str, str]], options: list[tuple[str, str]]
) -> None:
    """Mount on the lowest layer. What doesn't fit, or would have to be quoted, is named by a descriptor's number.

    That must be one of this namespace's, and becomes a path by the working directory of this thread.
    """
    opened: list[int] = []
    texts = [*lowers, *(path for _, path in writable)]
    try:
        if sum(len(os.fsencode(text)) + 1 for text in texts) > _OPTIONS_PAGE - 150 or any(
            mark in text for text in texts for mark in "\\:,"
        ):
            for text in texts:
                opened.append(os.open(text, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            texts = [str(fd) for fd in opened]
            os.chdir("/proc/thread-self/fd")
        words = [("lowerdir", ":".join(texts[: len(lowers)]))]
        words += [(name, text) for (name, _), text in zip(writable, texts[len(lowers) :], strict=True)]
        data = ",".join(f"{name}={text}" for name, text in words + options)
        mount("overlay", lowers[-1], "overlay", 0, data)
    finally:
        for fd in opened:
            os.close(fd)
