"""Directories whose subdirectories have nothing to do with each other, for the file system to lay apart. ext4."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct

_TOPDIR = 0x00020000  # FS_TOPDIR_FL of linux/fs.h
_LONG = struct.calcsize("l")
_GETFLAGS = 2 << 30 | _LONG << 16 | 0x6601
_SETFLAGS = 1 << 30 | _LONG << 16 | 0x6602


def spread(directory: str | os.PathLike[str]) -> None:
    """Let what is made in ``directory`` from now on begin in block groups of its own, where ext4 can.

    It hands no inode out again within a minute of its deletion, and looks for another one by one, in the group of
    the directory: where directories come and go, that is soon thousands a new file. Other file systems have
    no such flag; then nothing happens. ioctl_iflags(2), ``T`` of chattr(1).
    """
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            (flags,) = struct.unpack("i", fcntl.ioctl(fd, _GETFLAGS, bytes(4)))
            if not flags & _TOPDIR:
                fcntl.ioctl(fd, _SETFLAGS, struct.pack("i", flags | _TOPDIR))
        finally:
            os.close(fd)
