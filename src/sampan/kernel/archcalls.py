"""System calls that the C library doesn't wrap and whose numbers differ between architectures.

Each raises OSError from errno; on an architecture without a known number Unsupported.
"""

from __future__ import annotations

import ctypes
import os

from sampan.errors import Unsupported
from sampan.kernel import libc

# By machine: keyctl, seccomp, ioprio_set (asm/unistd.h).
_GENERIC = (219, 277, 30)
_NUMBERS = {
    "x86_64": (250, 317, 251),
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
    "loongarch64": _GENERIC,
    "s390x": (280, 348, 282),
    "ppc64le": (271, 358, 273),
}
_KEYCTL, _SECCOMP, _IOPRIO_SET = range(3)

_KEYCTL_JOIN_SESSION_KEYRING = 1
_SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}
IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IOPRIO_WHO_PROCESS = 1
_CLASS_SHIFT = 13


def _number(which: int, what: str) -> int:
    machine = os.uname().machine
    if machine not in _NUMBERS:
        raise Unsupported(f"{what}: its system call isn't known on {machine}")
    return _NUMBERS[machine][which]


def join_session_keyring(name: str) -> None:
    """Leave the caller's session keyring for a new one called ``name``. keyctl(2)."""
    call = libc.syscall(_number(_KEYCTL, "session keyring"), ctypes.c_int, ctypes.c_char_p)
    libc.check(call(_KEYCTL_JOIN_SESSION_KEYRING, libc.encode(name)), "keyctl")


def install_seccomp(program: bytes, flags: int) -> None:
    """Install a BPF filter with flags of :data:`SECCOMP_FLAGS`. seccomp(2)."""
    filters = ctypes.create_string_buffer(program, len(program))
    descriptor = (ctypes.c_uint64 * 2)(len(program) // 8, ctypes.addressof(filters))
    call = libc.syscall(_number(_SECCOMP, "seccomp"), ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)
    libc.check(call(_SECCOMP_SET_MODE_FILTER, flags, ctypes.addressof(descriptor)), "seccomp")


def set_io_priority(io_class: int, level: int) -> None:
    """I/O scheduling class (see :data:`IO_CLASSES`) and level, 0 (first) to 7, of this process. ioprio_set(2)."""
    call = libc.syscall(_number(_IOPRIO_SET, "ioPriority"), ctypes.c_int, ctypes.c_int, ctypes.c_int)
    libc.check(call(_IOPRIO_WHO_PROCESS, 0, io_class << _CLASS_SHIFT | level), "ioprio_set")
