"""Seccomp filters compiled by libseccomp, through ctypes: seccomp_init(3), seccomp_rule_add(3), seccomp(2).

libseccomp is kept by the kernel's seccomp people; it only compiles here. The program that it exports is
installed by the container's first process, which loads no library for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from functools import cache

from sampan.errors import SystemFailure, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

ACT_KILL_PROCESS = 0x80000000
ACT_KILL_THREAD = 0x00000000
ACT_TRAP = 0x00030000
ACT_ERRNO = 0x00050000  # low 16 bits: the errno
ACT_TRACE = 0x7FF00000  # low 16 bits: a message for the tracer
ACT_LOG = 0x7FFC0000
ACT_ALLOW = 0x7FFF0000

COMPARISONS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}

# Audit architecture numbers (linux/audit.h); x32 shares x86_64's and marks its syscall numbers instead.
ARCHITECTURES = {
    "SCMP_ARCH_X86": 0x40000003,
    "SCMP_ARCH_X86_64": 0xC000003E,
    "SCMP_ARCH_X32": 0x4000003E,
    "SCMP_ARCH_ARM": 0x40000028,
    "SCMP_ARCH_AARCH64": 0xC00000B7,
    "SCMP_ARCH_LOONGARCH64": 0xC0000102,
    "SCMP_ARCH_MIPS": 0x00000008,
    "SCMP_ARCH_MIPS64": 0x80000008,
    "SCMP_ARCH_MIPS64N32": 0xA0000008,
    "SCMP_ARCH_MIPSEL": 0x40000008,
    "SCMP_ARCH_MIPSEL64": 0xC0000008,
    "SCMP_ARCH_MIPSEL64N32": 0xE0000008,
    "SCMP_ARCH_PPC": 0x00000014,
    "SCMP_ARCH_PPC64": 0x80000015,
    "SCMP_ARCH_PPC64LE": 0xC0000015,
    "SCMP_ARCH_S390": 0x00000016,
    "SCMP_ARCH_S390X": 0x80000016,
    "SCMP_ARCH_RISCV64": 0xC00000F3,
}
X32_BIT = 0x40000000

# System calls newer than the libraries in use. Since 5.1 a new call has one number on all architectures.
RECENT_CALLS = {
    "cachestat": 451,
    "fchmodat2": 452,
    "map_shadow_stack": 453,
    "futex_wake": 454,
    "futex_wait": 455,
    "futex_requeue": 456,
    "statmount": 457,
    "listmount": 458,
    "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460,
    "lsm_list_modules": 461,
    "mseal": 462,
    "setxattrat": 463,
    "getxattrat": 464,
    "listxattrat": 465,
    "removexattrat": 466,
    "open_tree_attr": 467,
    "file_getattr": 468,
    "file_setattr": 469,
}
_FIRST_COMMON = 424  # pidfd_send_signal: from here on the numbers agree

_CTL_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE: 2 sorts the calls into a binary tree
_UNKNOWN_CALL = -1


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


class Rule:
    """What happens to a call: ``action`` if all ``conditions`` (argument, operator, value, value 2) hold."""

    __slots__ = ("action", "conditions", "name")

    def __init__(
        self, name: str, action: int, conditions: tuple[tuple[int, int, int, int], ...] = ()
    ) -> None:
        self.name = name
        self.action = action
        self.conditions = conditions


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    except OSError as error:
        raise SystemFailure(
            "libseccomp isn't installed, so no container can get a seccomp filter",
            hint="Install it (apt-get install libseccomp2), or use --security-opt seccomp=unconfined.",
        ) from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_release.restype = None
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    library.seccomp_version.restype = ctypes.POINTER(_Version)
    library.seccomp_arch_native.restype = ctypes.c_uint32
    return library


@cache
def library_version() -> str:
    """libseccomp's version, part of the key of every cached program."""
    version = _library().seccomp_version().contents
    return f"{version.major}.{version.minor}.{version.micro}"


@cache
def native_architecture() -> str:
    """This machine's architecture as ``SCMP_ARCH_…``."""
    token = _library().seccomp_arch_native()
    for name, number in ARCHITECTURES.items():
        if number == token:
            return name
    raise Unsupported(f"seccomp: unknown architecture {token:#x}")


def compile_filter(default_action: int, architectures: Iterable[str], rules: Sequence[Rule]) -> bytes:
    """Compile to an array of ``struct sock_filter`` (8 bytes each), ready for seccomp(2).

    Calls with numbers above the highest one that any rule names give ENOSYS instead of the default
    action: to the C library a newer call must look missing, not forbidden. Names that neither libseccomp
    nor :data:`RECENT_CALLS` knows are skipped: this kernel can't be asked for them.

    Raises SystemFailure if libseccomp refuses a rule.
    """
    library = _library()
    context = library.seccomp_init(default_action)
    if not context:
        raise SystemFailure("seccomp: libseccomp refused the default action")
    try:
        _add_architectures(library, context, architectures)
        library.seccomp_attr_set(context, _CTL_OPTIMIZE, 2)
        highest, recent = _add_rules(library, context, default_action, rules)
        program = _export(library, context)
    finally:
        library.seccomp_release(context)
    return _prologue(highest, recent) + program


def _check(code: int, what: str) -> None:
    if code < 0:
        raise SystemFailure(f"seccomp: {what}: {os.strerror(-code)}")


def _add_architectures(library: ctypes.CDLL, context: int, architectures: Iterable[str]) -> None:
    for name in architectures:
        if name not in ARCHITECTURES:
            raise Unsupported(f"seccomp: unknown architecture {name}")
        code = library.seccomp_arch_add(context, ARCHITECTURES[name])
        if code not in (0, -errno.EEXIST, -errno.EDOM):  # the native one is there; EDOM: other byte order
            _check(code, f"architecture {name}")


def _add_rules(
    library: ctypes.CDLL, context: int, default_action: int, rules: Sequence[Rule]
) -> tuple[int, dict[int, int]]:
    """Returns the highest number named and the actions of the recent calls that libseccomp doesn't know."""
    highest, recent = 0, {}
    for rule in rules:
        number = library.seccomp_syscall_resolve_name(rule.name.encode())
        if number == _UNKNOWN_CALL:
            number = RECENT_CALLS.get(rule.name, _UNKNOWN_CALL)
            if number != _UNKNOWN_CALL:
                highest = max(highest, number)
                recent[number] = rule.action
            continue
        highest = max(highest, number)
        if rule.action != default_action:  # libseccomp refuses rules that change nothing
            _add_rule(library, context, number, rule)
    return highest, recent


def _add_rule(library: ctypes.CDLL, context: int, number: int, rule: Rule) -> None:
    """Two conditions on the same argument mean "either", which libseccomp wants as two rules."""
    indexes = [condition[0] for condition in rule.conditions]
    groups = [rule.conditions]
    if len(set(indexes)) < len(indexes):
        groups = [(condition,) for condition in rule.conditions]
    for group in groups:
        array = (_Comparison * max(1, len(group)))(*(_Comparison(*condition) for condition in group))
        code = library.seccomp_rule_add_array(context, rule.action, number, len(group), array)
        _check(code, f"rule for {rule.name}")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    try:
        _check(library.seccomp_export_bpf(context, descriptor), "export")
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


# Classic BPF (linux/bpf_common.h) and offsets in struct seccomp_data.
_LOAD, _RETURN = 0x20, 0x06
_JUMP_EQUAL, _JUMP_GREATER, _JUMP_SET, _JUMP = 0x15, 0x25, 0x45, 0x05
_NUMBER, _ARCHITECTURE = 0, 4


def _prologue(highest: int, recent: dict[int, int]) -> bytes:
    """Instructions before libseccomp's: ENOSYS above ``highest``, and the recent calls' own actions.

    Only for architectures with the common numbering, and not for x32. Everything else falls through.
    """
    if highest < _FIRST_COMMON:
        return b""
    common = [ARCHITECTURES[name] for name in ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_AARCH64")]
    body: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_SET, _FALL, 0, X32_BIT),
        (_JUMP_GREATER, 0, 1, highest),
        (_RETURN, 0, 0, ACT_ERRNO | errno.ENOSYS),
    ]
    for number, action in sorted(recent.items()):
        body += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, action)]
    head: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, _ARCHITECTURE)]
    for index, architecture in enumerate(common):
        left = len(common) - 1 - index
        # Known: over the remaining tests and the jump that leaves; else the next test.
        head.append((_JUMP_EQUAL, left + 1, 0, architecture))
    head.append((_JUMP, 0, 0, len(body)))
    program = head + body
    packed = b""
    for position, (code, true, false, operand) in enumerate(program):
        if true == _FALL:
            true = len(program) - position - 1
        packed += struct.pack("=HBBI", code, true, false, operand)
    return packed


_FALL = -1  # "to the first instruction after the prologue", replaced when its length is known
