"""Blocks set aside for a file that must be able to grow when the disk is full."""

from __future__ import annotations

import ctypes

from sampan.kernel import libc

_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of linux/falloc.h
_fallocate = libc.function("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def reserve(file: int, size: int) -> None:
    """Give the open ``file`` blocks for its first ``size`` bytes; what it reads as stays. OSError. fallocate(2)."""
    libc.check(_fallocate(file, _KEEP_SIZE, 0, size))
