"""Project quotas: how many bytes the files of one project may take, xfs(5), ext4(5), quotactl(2).

A directory carries the number of its project, and what is made in it inherits that (FS_IOC_FSSETXATTR); the file
system counts and bounds the bytes of each project. The calls of XFS are used, which the kernel translates for
ext4; the file system is named by a descriptor (quotactl_fd(2), Linux 5.14), so that no device node is needed.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sampan.kernel import libc

_quotactl_fd = libc.syscall(443, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)

_PRJQUOTA = 2
_XGETQUOTA, _XSETQLIM, _XGETQSTATV = 0x5803, 0x5804, 0x5808  # linux/dqblk_xfs.h
_PROJECT_FLAG, _BLOCK_LIMITS = 1 << 1, 1 << 2 | 1 << 3  # FS_PROJ_QUOTA; FS_DQ_BSOFT, FS_DQ_BHARD
_ENFORCED = 1 << 5  # FS_QUOTA_PDQ_ENFD
_DQUOT = struct.Struct("=bbHI6Q2i2H4b3QiHh8s")  # struct fs_disk_quota
_BLOCK = 512

_ATTRIBUTES = struct.Struct("=5I8s")  # struct fsxattr of linux/fs.h
_PROJINHERIT = 0x200
# _IOR('X', 31) and _IOW('X', 32): POWER has the bits of the direction the other way round.
_IN, _OUT = (0x401C, 0x801C) if os.uname().machine.startswith("ppc") else (0x801C, 0x401C)
_FSGETXATTR, _FSSETXATTR = _IN << 16 | 0x581F, _OUT << 16 | 0x5820


class Usage(NamedTuple):
    """What a project may take and takes: bytes (0: no limit), bytes, files."""

    limit: int
    used: int
    files: int


def enforced(directory: Path) -> bool:
    """Whether the file system of ``directory`` bounds projects: mounted with prjquota, or pquota on XFS."""
    state = ctypes.create_string_buffer(256)
    state[0] = b"\1"  # FS_QSTATV_VERSION1
    try:
        with _opened(directory) as fd:
            _call(fd, _XGETQSTATV, 0, state)
    except OSError:
        return False
    flags: int = struct.unpack_from("=H", state.raw, 2)[0]
    return bool(flags & _ENFORCED)


def limit(directory: Path, project: int, size: int) -> None:
    """Bound a project of the file system of ``directory`` to ``size`` bytes, in blocks of 512; 0: no bound.

    OSError.
    """
    blocks = -(-size // _BLOCK)
    request = _DQUOT.pack(
        1, _PROJECT_FLAG, _BLOCK_LIMITS, project, blocks, blocks, *[0] * 4, *[0] * 4, *[0] * 4, *[0] * 6, b""
    )
    with _opened(directory) as fd:
        _call(fd, _XSETQLIM, project, ctypes.create_string_buffer(request, len(request)))


def usage(directory: Path, project: int) -> Usage:
    """What a project of the file system of ``directory`` takes; all zeros for one that was never used. OSError."""
    answer = ctypes.create_string_buffer(_DQUOT.size)
    try:
        with _opened(directory) as fd:
            _call(fd, _XGETQUOTA, project, answer)
    except OSError as problem:
        if problem.errno in (errno.ENOENT, errno.ESRCH):
            return Usage(0, 0, 0)
        raise
    found = _DQUOT.unpack(answer.raw)
    return Usage(found[4] * _BLOCK, found[8] * _BLOCK, found[9])


def mark(directory: Path, project: int) -> None:
    """Make ``directory``, and what is made in it from now on, part of a project. OSError.

    ioctl_xfs_fsgetxattr(2).
    """
    with _opened(directory) as fd:
        answer = fcntl.ioctl(fd, _FSGETXATTR, bytes(_ATTRIBUTES.size))
        flags, extent, extents, _, copy_extent, rest = _ATTRIBUTES.unpack(answer)
        request = _ATTRIBUTES.pack(flags | _PROJINHERIT, extent, extents, project, copy_extent, rest)
        fcntl.ioctl(fd, _FSSETXATTR, request)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _call(fd: int, command: int, project: int, buffer: ctypes.Array[ctypes.c_char]) -> None:
    libc.check(_quotactl_fd(fd, command << 8 | _PRJQUOTA, project, ctypes.addressof(buffer)), "quotactl_fd")
