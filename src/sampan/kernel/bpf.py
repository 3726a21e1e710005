"""eBPF programs that decide which devices a cgroup's processes may open: bpf(2), cgroup v2 only.

Reference: linux/bpf.h, ``BPF_PROG_TYPE_CGROUP_DEVICE``; admin-guide/cgroup-v2.rst, Device controller.
"""

from __future__ import annotations

import ctypes
import os
import struct

from sampan.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_CALL_NUMBERS = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "s390x": 351,
    "ppc64le": 361,
}

_PROG_LOAD, _PROG_ATTACH = 5, 8
_TYPE_CGROUP_DEVICE, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI = 15, 6, 2

# struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor.
KINDS = {"b": 1, "c": 2}
ACCESS = {"m": 1, "r": 2, "w": 4}
_EVERYTHING = 7

_LOAD_WORD, _MOVE_REGISTER, _MOVE, _AND, _SHIFT_RIGHT = 0x61, 0xBF, 0xB7, 0x57, 0x77
_JUMP_DIFFERENT, _JUMP_EQUAL, _EXIT = 0x55, 0x15, 0x95
_RESULT, _CONTEXT, _KIND, _ACCESS, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5

_libc = ctypes.CDLL(None, use_errno=True)


class DeviceRule:
    """Allow or deny ``access`` (letters of ``rwm``) to devices; ``kind`` "a" and None numbers mean any."""

    __slots__ = ("access", "allow", "kind", "major", "minor")

    def __init__(
        self,
        allow: bool,
        kind: str = "a",
        major: int | None = None,
        minor: int | None = None,
        access: str = "rwm",
    ) -> None:
        self.allow = allow
        self.kind = kind
        self.major = major
        self.minor = minor
        self.access = access


def device_program(rules: Sequence[DeviceRule]) -> bytes:
    """Assemble ``rules`` (the last one that matches decides, none: deny) into eBPF instructions.

    An allowing rule matches a request that asks for nothing beyond its access, a denying one a request that
    asks for any of it.
    """
    code = [
        _instruction(_LOAD_WORD, _KIND, _CONTEXT, 0),
        _instruction(_MOVE_REGISTER, _ACCESS, _KIND),
        _instruction(_AND, _KIND, immediate=0xFFFF),
        _instruction(_SHIFT_RIGHT, _ACCESS, immediate=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    for rule in reversed(rules):
        tests = _tests(rule)
        code += tests + _answer(rule.allow)
        if not tests:  # it matches always: the verifier refuses what could never be reached
            break
    else:
        code += _answer(False)
    return b"".join(code)


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", code, target | source << 4, offset, immediate)


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(_MOVE, _RESULT, immediate=int(allow)), _instruction(_EXIT)]


def _tests(rule: DeviceRule) -> list[bytes]:
    """Jumps over the rule's answer where the request isn't one that it is about."""
    tests: list[tuple[int, int, int]] = []  # code, register, immediate
    before: list[bytes] = []
    bits = sum(ACCESS[letter] for letter in set(rule.access))
    if bits != _EVERYTHING:
        beyond = _EVERYTHING & ~bits
        before = [
            _instruction(_MOVE_REGISTER, _RESULT, _ACCESS),
            _instruction(_AND, _RESULT, immediate=beyond if rule.allow else bits),
        ]
        tests.append((_JUMP_DIFFERENT if rule.allow else _JUMP_EQUAL, _RESULT, 0))
    if rule.kind in KINDS:
        tests.append((_JUMP_DIFFERENT, _KIND, KINDS[rule.kind]))
    if rule.major is not None:
        tests.append((_JUMP_DIFFERENT, _MAJOR, rule.major))
    if rule.minor is not None:
        tests.append((_JUMP_DIFFERENT, _MINOR, rule.minor))
    jumps = []
    for position, (code, register, immediate) in enumerate(tests):
        over = len(tests) - position - 1 + 2  # the tests that follow, and the answer
        jumps.append(_instruction(code, register, offset=over, immediate=immediate))
    return before + jumps


def attach_device_filter(directory: int, program: bytes) -> None:
    """Load ``program`` and attach it to the cgroup v2 whose directory is open as ``directory``.

    It stays as long as the cgroup does. OSError with the kernel's reason; EPERM without CAP_BPF or
    CAP_SYS_ADMIN.
    """
    loaded = _load(program)
    try:
        attributes = struct.pack("=IIII", directory, loaded, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
        _bpf(_PROG_ATTACH, attributes, "attach the device filter")
    finally:
        os.close(loaded)


def _load(program: bytes) -> int:
    code = ctypes.create_string_buffer(program, len(program))
    license_name = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQII",
        _TYPE_CGROUP_DEVICE,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(license_name),
        0,  # no log
        0,
        0,
        0,
        0,
    )
    return _bpf(_PROG_LOAD, attributes, "load the device filter")


def _bpf(command: int, attributes: bytes, what: str) -> int:
    number = _CALL_NUMBERS.get(os.uname().machine)
    if number is None:
        raise Unsupported(f"device filters of cgroup v2 aren't known on {os.uname().machine}")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), buffer, ctypes.c_uint(len(attributes))
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return int(result)
