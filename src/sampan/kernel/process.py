"""A process's own attributes: prctl(2), capabilities(7), seccomp(2), close_range(2)."""

from __future__ import annotations

import ctypes
import struct

from sampan.kernel import libc

SIGKILL = 9

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_SET_SECCOMP = 22
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_CLOSE_RANGE_CLOEXEC = 4
_CAPABILITY_VERSION_3 = 0x20080522

_long = ctypes.c_ulong
_prctl = libc.function("prctl", ctypes.c_int, _long, _long, _long, _long)
_capset = libc.function("capset", ctypes.c_void_p, ctypes.c_void_p)
_capget = libc.function("capget", ctypes.c_void_p, ctypes.c_void_p)
_close_range = libc.syscall(436, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_setsid = libc.function("setsid")
_SIGCHLD = 17
_CLONE_PARENT = 0x8000
_CLONE_INTO_CGROUP = 0x200000000
# With the interpreter's lock held all the while: a PyDLL function doesn't let go of it.
_clone3 = ctypes.PyDLL(None, use_errno=True)["syscall"]
_clone3.restype, _clone3.argtypes = ctypes.c_long, (ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t)
# All at hand, in plain objects: what a monitor makes and touches here it keeps (see runtime/rehearsal.py).
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
_before_fork.restype = _after_fork_child.restype = _after_fork_parent.restype = None
# struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, its size, tls, set_tid, its size,
# cgroup
_clone_arguments = struct.Struct("11Q").pack


def set_parent_death_signal(number: int) -> None:
    """Signal to get when the parent dies. Cleared by a change of credentials: set it after that. prctl(2)."""
    libc.check(_prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "PR_SET_PDEATHSIG")


def set_dumpable(dumpable: bool) -> None:
    """Whether others of the same user may trace this process or open its /proc files. prctl(2)."""
    libc.check(_prctl(_PR_SET_DUMPABLE, int(dumpable), 0, 0, 0), "PR_SET_DUMPABLE")


def set_name(name: str) -> None:
    """The name in /proc/self/comm, cut to 15 bytes. prctl(2)."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    libc.check(_prctl(_PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0), "PR_SET_NAME")


def set_subreaper() -> None:
    """Become the parent of orphaned descendants. prctl(2)."""
    libc.check(_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")


def set_no_new_privileges() -> None:
    """execve(2) can't give more privileges from now on. prctl(2)."""
    libc.check(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def keep_capabilities(keep: bool) -> None:
    """Keep the permitted set through the next setuid away from root. prctl(2)."""
    libc.check(_prctl(_PR_SET_KEEPCAPS, int(keep), 0, 0, 0), "PR_SET_KEEPCAPS")


def install_seccomp(program: bytes) -> None:
    """Install a BPF filter (array of ``struct sock_filter``, 8 bytes each). seccomp(2).

    Needs CAP_SYS_ADMIN or no_new_privs (EACCES).
    """
    filters = ctypes.create_string_buffer(program, len(program))
    descriptor = (ctypes.c_uint64 * 2)(len(program) // 8, ctypes.addressof(filters))
    result = _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(descriptor), 0, 0)
    libc.check(result, "PR_SET_SECCOMP")


def last_capability() -> int:
    """Number of the last capability that the kernel knows."""
    number = 0
    while _prctl(_PR_CAPBSET_READ, number + 1, 0, 0, 0) >= 0:
        number += 1
    return number


def limit_bounding_set(mask: int) -> None:
    """Drop every capability outside ``mask`` from the bounding set. capabilities(7)."""
    for number in range(64):
        if mask >> number & 1 or _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
            continue
        held = _prctl(_PR_CAPBSET_READ, number, 0, 0, 0)
        if held < 0:
            return  # there is no such capability, nor any above
        if held:
            libc.check(_prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "PR_CAPBSET_DROP")


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three sets from bit masks. capset(2)."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    words = []
    for shift in (0, 32):
        words += [mask >> shift & 0xFFFFFFFF for mask in (effective, permitted, inheritable)]
    data = (ctypes.c_uint32 * 6)(*words)
    libc.check(_capset(ctypes.addressof(header), ctypes.addressof(data)), "capset")


def get_capabilities() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) of this thread as bit masks. capget(2)."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    libc.check(_capget(ctypes.addressof(header), ctypes.addressof(data)), "capget")
    return data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32


def set_ambient(mask: int) -> None:
    """Make the ambient set equal to ``mask``, which must be permitted and inheritable. capabilities(7)."""
    libc.check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "PR_CAP_AMBIENT")
    for number in range(mask.bit_length()):
        if mask >> number & 1:
            libc.check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0), "PR_CAP_AMBIENT")


def close_on_exec_from(first: int) -> None:
    """Mark every descriptor from ``first`` on close-on-exec. close_range(2)."""
    libc.check(_close_range(first, 0xFFFFFFFF, _CLOSE_RANGE_CLOEXEC), "close_range")


def close_between(first: int, last: int) -> None:
    """Close the descriptors ``first`` to ``last``, both included. close_range(2)."""
    if first <= last:
        libc.check(_close_range(first, last, 0), "close_range")


def leave_session() -> None:
    """Start a session, if this process doesn't lead one already. setsid(2)."""
    _setsid()


def set_personality(persona: int) -> None:
    """How the kernel runs this process and what it executes: PER_LINUX32 and the like. personality(2)."""
    libc.check(libc.function("personality", _long)(persona), "personality")


def fork(flags: int = 0, group: int = -1) -> int:
    """fork(2) with CLONE_NEW* ``flags`` of clone(2); 0 in the new process, whose end tells SIGCHLD.

    It is born in the v2 cgroup with the directory descriptor ``group`` (CLONE_INTO_CGROUP; EBADF for v1).

    For single-threaded callers: Python is told, the C library's fork handlers are not run.
    """
    if group >= 0:
        return _fork(flags | _CLONE_INTO_CGROUP, _SIGCHLD, group)
    return _fork(flags, _SIGCHLD)


def fork_for_parent() -> int:
    """Like :func:`fork`, but the new process is a child of this one's parent (CLONE_PARENT)."""
    return _fork(_CLONE_PARENT, 0)  # it tells what this process's end tells


def _fork(flags: int, end_signal: int, group: int = 0) -> int:
    arguments = _clone_arguments(flags, 0, 0, 0, end_signal, 0, 0, 0, 0, 0, group)
    _before_fork()
    pid = int(_clone3(435, arguments, len(arguments)))
    if pid == 0:
        _after_fork_child()
        return 0
    _after_fork_parent()
    return libc.check(pid, "clone3")
