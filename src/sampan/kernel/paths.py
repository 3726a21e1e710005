"""Opening files inside a root that others may change meanwhile: openat2(2).

A path is resolved by the kernel in one call, so that no symbolic link, ``..`` or concurrent rename leads out
of the root. Imports nothing but ctypes and os: the processes that start containers load it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_SYS_OPENAT2 = 437
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_EAGAIN_TRIES = 64
_MOST_LINKS = 40  # as path_resolution(7)


class _OpenHow(ctypes.Structure):
    """struct open_how of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(dirfd: int, path: str | bytes, flags: int, mode: int = 0, resolve: int = RESOLVE_IN_ROOT) -> int:
    """Open ``path`` below ``dirfd``; O_CLOEXEC is always added. Raises OSError (openat2(2)).

    EAGAIN, which the kernel gives when a rename ran during a ``..`` step, is tried again some times.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    raw = os.fsencode(path) or b"."
    for _ in range(_EAGAIN_TRIES):
        fd: int = _syscall(_SYS_OPENAT2, dirfd, raw, ctypes.byref(how), ctypes.sizeof(how))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code), os.fsdecode(raw))


def open_in_root(rootfd: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open ``path`` as a process would whose root directory is ``rootfd``; magic links are refused."""
    return openat2(rootfd, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)


def make_directories(rootfd: int, path: str, mode: int = 0o755) -> int:
    """Make ``path`` with its parents inside ``rootfd`` where missing; O_PATH descriptor of it.

    Where a symbolic link leads to nothing, its target is made, inside the root too. Raises NotADirectoryError
    when a part exists and is no directory.
    """
    return _make_directories(rootfd, path, mode, _MOST_LINKS)


def _make_directories(rootfd: int, path: str, mode: int, links: int) -> int:
    try:
        return open_in_root(rootfd, path, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    parent, name = _split(path)
    if not name:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    holder = _make_directories(rootfd, parent, mode, links)
    try:
        os.mkdir(name, mode, dir_fd=holder)
    except FileExistsError:
        return _make_target(rootfd, path, os.readlink(name, dir_fd=holder), mode, links)
    finally:
        os.close(holder)
    return open_in_root(rootfd, path, os.O_PATH | os.O_DIRECTORY)


def _make_target(rootfd: int, link: str, target: str, mode: int, links: int) -> int:
    if not links:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), link)
    return _make_directories(rootfd, os.path.normpath(os.path.join(_split(link)[0], target)), mode, links - 1)


def make_file(rootfd: int, path: str, mode: int = 0o644) -> int:
    """Make the empty file ``path`` and its parents inside ``rootfd`` where missing; its O_PATH descriptor.

    NotADirectoryError when it is a directory: no file can be mounted there, mount(2).
    """
    try:
        fd = open_in_root(rootfd, path, os.O_PATH)
    except FileNotFoundError:
        pass
    else:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
    os.close(make_directories(rootfd, _split(path)[0]))
    os.close(open_in_root(rootfd, path, os.O_CREAT | os.O_WRONLY | os.O_NOCTTY, mode))
    return open_in_root(rootfd, path, os.O_PATH)


def _split(path: str) -> tuple[str, str]:
    parent, _, name = path.rstrip("/").rpartition("/")
    return parent or "/", name
