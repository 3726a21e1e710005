"""Being told of file changes without looking again and again: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

IN_MODIFY = 0x002
IN_CLOSE_WRITE = 0x008
IN_CLOSE_NOWRITE = 0x010
IN_MOVED_FROM = 0x040
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_IGNORED = 0x8000

_HEAD = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Change(NamedTuple):
    """One event: the watch it belongs to, its IN_* bits and, for a directory, the entry's name."""

    watch: int
    mask: int
    name: bytes


def init() -> int:
    """A new non-blocking, close-on-exec inotify descriptor (inotify_init1(2))."""
    fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "inotify_init1")
    return fd


def add_watch(fd: int, path: str, mask: int) -> int:
    """Watch ``path`` for ``mask``; the same file gives the same number (inotify_add_watch(2))."""
    watch: int = _libc.inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint32(mask))
    if watch < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return watch


def remove_watch(fd: int, watch: int) -> None:
    """End a watch; one that ended by itself (its file is gone) is no error (inotify_rm_watch(2))."""
    _libc.inotify_rm_watch(fd, watch)


def read(fd: int) -> Iterator[Change]:
    """The waiting events; none when there are none."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return
    position = 0
    while position < len(data):
        watch, mask, _cookie, length = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        yield Change(watch, mask, data[position : position + length].rstrip(b"\0"))
        position += length
