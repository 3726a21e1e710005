"""Overlay file systems that no mount table shows (overlayfs.rst; fsmount(2)).

The engine reads and writes a stopped container's files through such a mount; closing it unmounts it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence
from pathlib import Path

from sampan.kernel import libc, mounts

_ENTRY = struct.Struct("=QqHB")  # struct linux_dirent64
_DT_UNKNOWN = 0
_getdents = libc.function("getdents64", ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)


def mount_detached(
    lowers: Sequence[Path], upper: Path | None, work: Path | None, *, readonly: bool = False
) -> int:
    """A descriptor of the merged directory of ``lowers`` (topmost first) and, when given, ``upper``.

    ``work`` must be an empty directory on the file system of ``upper``. OSError as in fsconfig(2); ENOENT
    names the layer that is missing.
    """
    for path in (*lowers, *filter(None, (upper, work))):
        if not path.is_dir():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    flags = mounts.MOUNT_ATTR_RDONLY if readonly else 0
    above = (None, None) if upper is None or work is None else (str(upper), str(work))
    return mounts.overlay([str(path) for path in lowers], above[0], above[1], flags)


def names_types(directory: Path) -> bool:
    """Whether listing ``directory`` gives the types of what is in it, as overlays need it. getdents(2)."""
    buffer = ctypes.create_string_buffer(32768)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        length = libc.check(_getdents(fd, ctypes.addressof(buffer), len(buffer)), str(directory))
    finally:
        os.close(fd)
    types, at = set(), 0
    while at < length:
        _, _, size, kind = _ENTRY.unpack_from(buffer, at)
        types.add(kind)
        at += size
    return _DT_UNKNOWN not in types
