"""An exec's way from its monitor to its program as system calls decided beforehand.

What :mod:`sampan.runtime.launch` does step by step in an interpreter, in the same order, for the execs that need
nothing more: no terminal, no AppArmor profile. Whatever fails on the way is for the long way to
do again and to put in words. The steps' meaning stands there.
"""

from __future__ import annotations

import functools
import os
import struct
from typing import Any

from sampan.kernel import namespaces, process
from sampan.runtime import steps, wire
from sampan.runtime.calls import BUFFER, BUFFER_SIZE, Calls, known
from sampan.runtime.execs import CHANNEL, DIRECTLY, TARGET
from sampan.runtime.identity import Identity
from sampan.runtime.program import DEFAULT_PATH

Plan = dict[str, Any]

_AT_FDCWD, _AT_EACCESS = (1 << 64) - 100, 0x200
_F_SETFD, _FD_CLOEXEC = 2, 1
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_SECCOMP = 1, 4, 8, 22
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_LAST = 0xFFFFFFFF
_SPAWNED_WITHOUT = (32, 33)  # glibc's own signals, which its posix_spawn lets be ignored
_ACTION_SIZE, _MASK_SIZE = (
    32,
    8,
)  # struct sigaction as the kernel has it, all zero is the default. sigaction(2)
_OPEN = TARGET + 1  # the lowest descriptor that is free


def program(plan: Plan, ids: Identity) -> bytes | None:
    """The program of ``plan``, run as ``ids``; None for an exec that must go the long way."""
    if not _possible(plan):
        return None
    environment = steps.environment_of(plan, ids)
    candidates = _candidates(plan["args"][0], environment)
    if not candidates:
        return None
    calls = Calls()
    _enter(calls, plan)
    _limit(calls, plan)
    try:
        _settle(calls, plan, ids)
        arguments = calls.texts(plan["args"])
        variables = calls.texts(f"{name}={value}" for name, value in environment.items())
        _execute(calls, plan, candidates, arguments, variables)
    except ValueError:
        return None
    failed = wire.packed(("failed", DIRECTLY, 0, "", ""))
    return calls.program(CHANNEL, failed, steps.FAILED)


def birth_group(plan: Plan) -> str:
    """The v2 group in which the process must be born, see launch.py; "" where it enters its groups by itself."""
    groups = plan.get("join", ())
    return groups[0] if groups and not os.path.exists(f"{groups[0]}/tasks") else ""


def _possible(plan: Plan) -> bool:
    if plan["tty"] or plan.get("apparmor") or plan.get("seccomp_flags") or not known():
        return False
    return bool(plan["cwd"].startswith("/"))


def _candidates(name: str, environment: dict[str, str]) -> list[str]:
    """Where the program may be; none if a directory isn't absolute, which is refused with words of its own."""
    if "/" in name:
        return [name]
    directories = environment.get("PATH", DEFAULT_PATH).split(":") if name else []
    return [f"{d}/{name}" for d in directories] if all(d.startswith("/") for d in directories) else []


def _enter(calls: Calls, plan: Plan) -> None:
    """Out of reach of the container, into its groups and namespaces."""
    calls.call("prctl", _PR_SET_DUMPABLE, 0)
    calls.call("close_range", _OPEN, _LAST, 0)
    calls.call("fcntl", CHANNEL, _F_SETFD, _FD_CLOEXEC)
    calls.call("prctl", _PR_SET_PDEATHSIG, process.SIGKILL)
    default = calls.put(bytes(_ACTION_SIZE))
    for number in _SPAWNED_WITHOUT:
        calls.call("rt_sigaction", number, default, 0, _MASK_SIZE)
    this = calls.put(b"0")
    for directory in () if birth_group(plan) else plan.get("join", ()):
        calls.call("openat", _AT_FDCWD, calls.text(f"{directory}/tasks"), os.O_WRONLY)
        calls.call("write", _OPEN, this, 1)
        calls.call("close", _OPEN)
    calls.call("setns", TARGET, plan["nsflags"] & ~namespaces.CLONE_NEWPID)
    calls.call("close", TARGET)


def _limit(calls: Calls, plan: Plan) -> None:
    for number, soft, hard in plan.get("rlimits", ()):
        limit = calls.put(struct.pack("<QQ", soft & (1 << 64) - 1, hard & (1 << 64) - 1))
        calls.call("prlimit64", 0, number, limit, 0)


def _settle(calls: Calls, plan: Plan, ids: Identity) -> None:
    """Working directory, then the rights of the user."""
    calls.call("umask", plan.get("umask", 0o022))
    calls.call("chdir", calls.text(plan["cwd"]))
    calls.call("getcwd", BUFFER, BUFFER_SIZE)
    calls.require(BUFFER, ord("/"))
    if ids.uid:
        for fd in (0, 1, 2) if plan["stdin"] else (1, 2):
            calls.call("fchown", fd, ids.uid, _LAST, failed=1)
    caps = plan["caps"]
    if plan.get("no_new_privs"):
        calls.call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for number in range(_last_capability() + 1):
        if not caps["bounding"] >> number & 1:
            calls.call("prctl", _PR_CAPBSET_DROP, number, 0, 0, 0)
    if plan.get("seccomp") and not plan.get("no_new_privs"):
        _filter(calls, plan)
    _change_user(calls, caps, ids)


def _change_user(calls: Calls, caps: dict[str, int], ids: Identity) -> None:
    calls.call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    groups = calls.put(struct.pack(f"<{len(ids.groups)}I", *ids.groups))
    calls.call("setgroups", len(ids.groups), groups)
    calls.call("setresgid", ids.gid, ids.gid, ids.gid)
    calls.call("setresuid", ids.uid, ids.uid, ids.uid)
    head = calls.put(struct.pack("<II", _CAPABILITY_VERSION_3, 0))
    sets = [caps[name] & _held() for name in ("effective", "permitted", "inheritable")]
    words = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in sets]
    calls.call("capset", head, calls.put(struct.pack("<6I", *words)))
    calls.call("prctl", _PR_SET_KEEPCAPS, 0, 0, 0, 0)
    calls.call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    calls.call("prctl", _PR_SET_PDEATHSIG, process.SIGKILL)


def _filter(calls: Calls, plan: Plan) -> None:
    filters = plan["seccomp"]
    descriptor = calls.put(struct.pack("<QQ", len(filters) // 8, calls.put(filters)))
    calls.call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, descriptor, 0, 0)


def _execute(calls: Calls, plan: Plan, candidates: list[str], arguments: int, variables: int) -> None:
    late = bool(plan.get("no_new_privs") and plan.get("seccomp"))
    word = wire.packed(("exec",))
    said = calls.put(word)
    for candidate in candidates:
        path = calls.text(candidate)
        if "/" not in plan["args"][0]:
            calls.call("faccessat2", _AT_FDCWD, path, os.X_OK, _AT_EACCESS, failed=4 if late else 3)
        if late:
            _filter(calls, plan)
        calls.call("write", CHANNEL, said, len(word))
        calls.call("execve", path, arguments, variables)
    calls.require(calls.put(b"\0"), 1)  # it is nowhere


@functools.cache
def _last_capability() -> int:
    return process.last_capability()


@functools.cache
def _held() -> int:
    """What this process may hand on; it never changes."""
    return process.get_capabilities()[1]
