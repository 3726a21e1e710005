"""What the C library keeps of freed memory: mallopt(3), malloc_trim(3). Only glibc has them. Import-light."""

from __future__ import annotations

import ctypes

from sampan.kernel import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def _optional(name: str, *argument_types: Any) -> Callable[..., int]:
    try:
        return libc.function(name, *argument_types)
    except AttributeError:
        return lambda *_: 0


_mallopt = _optional("mallopt", ctypes.c_int, ctypes.c_int)
_malloc_trim = _optional("malloc_trim", ctypes.c_size_t)


def use_one_arena() -> None:
    """Let all threads share one heap, before there are any.

    glibc makes up to eight heaps per processor and gives only the first one's free end back to the kernel.
    Python's threads allocate with its lock held: there is nobody to wait for.
    """
    _mallopt(_M_ARENA_MAX, 1)


def keep(size: int) -> None:
    """Keep up to ``size`` bytes of freed memory for what is needed next, instead of asking for it anew.

    A loop over large buffers otherwise spends most of its time in page faults.
    """
    _mallopt(_M_TRIM_THRESHOLD, size)
    _mallopt(_M_MMAP_THRESHOLD, size)


def trim() -> None:
    """Give free memory back to the kernel; takes a millisecond or two, other threads run on."""
    _malloc_trim(0)
