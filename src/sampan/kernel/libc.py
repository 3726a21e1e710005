"""Calls into the C library: errno becomes OSError, system calls without a wrapper go through syscall(2).

Import-light (only ctypes and os): the zygote loads it. Numbers from 424 on are the same on every
architecture, see ``asm-generic/unistd.h``; older calls are used through their libc symbols.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)


def function(name: str, *argument_types: Any) -> Callable[..., int]:
    """The libc function ``name`` returning int, with its C argument types declared."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, *argument_types, use_errno=True)
    return prototype((name, _LIBC))


def syscall(number: int, *argument_types: Any) -> Callable[..., int]:
    """System call ``number`` as a function: syscall(2) with the argument types declared."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, *argument_types, use_errno=True)
    raw = prototype(("syscall", _LIBC))

    def call(*arguments: Any) -> int:
        result: int = raw(number, *arguments)
        return result

    return call


def check(result: int, what: object = None) -> int:
    """Pass ``result`` on, or raise OSError from errno, naming ``what`` (a path or an option)."""
    if result == -1:
        number = ctypes.get_errno()
        if what is None:
            raise OSError(number, os.strerror(number))
        raise OSError(number, os.strerror(number), what)
    return result


def encode(path: str | bytes | None) -> bytes | None:
    """``path`` as the C library wants it; None stays NULL. ValueError for a null character inside."""
    if path is None:
        return None
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise ValueError(f"embedded null byte in {path!r}")
    return raw
