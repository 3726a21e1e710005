"""Opening files inside a root that others may change meanwhile: openat2(2).

A path is resolved by the kernel in one call, so that no symbolic link, ``..`` or concurrent rename leads out
of the root. Imports nothing but ctypes and os: the processes that start containers load it.
"""

from __future__ import annotations

import ctypes
import errno
import os

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_SYS_OPENAT2 = 437
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_EAGAIN_TRIES = 64


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
