"""Seccomp programs, asked through the kernel: a process installs one and makes the calls."""

import ctypes
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import InvalidParameter, Unsupported
from sampan.kernel import process
from sampan.kernel import seccomp as compiler
from sampan.runtime import capabilities, seccomp

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the calls' numbers are x86_64's")

GETPID, UNSHARE, CLONE3, MSEAL, OPEN_TREE_ATTR, PTRACE, PERSONALITY, SOCKET = (
    39,
    272,
    435,
    462,
    467,
    101,
    135,
    41,
)
CLONE_NEWUSER = 0x10000000
_libc = ctypes.CDLL(None, use_errno=True)


def under(program: bytes, number: int, *arguments: int) -> int:
    """The errno of a system call made below ``program``, 0 if it succeeds."""
    pid = os.fork()
    if pid == 0:
        process.install_seccomp(program)
        result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(x) for x in arguments))
        os._exit(ctypes.get_errno() if result == -1 else 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module")
def cache() -> seccomp.SeccompCache:
    return seccomp.SeccompCache()


@pytest.fixture(scope="module")
def default(cache: seccomp.SeccompCache) -> bytes:
    return cache.program(cache.section("", capabilities.DEFAULT))


def profile(**changes: Any) -> str:
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [], **changes})


def test_the_default_profile(default: bytes) -> None:
    assert under(default, GETPID) == 0
    assert under(default, UNSHARE, CLONE_NEWUSER) == errno.EPERM
    assert under(default, CLONE3, 0, 0) == errno.ENOSYS  # so that the C library falls back to clone
    assert under(default, PERSONALITY, 0xFFFFFFFF) == 0
    assert under(default, PERSONALITY, 0x0400000) == errno.EPERM
    assert under(default, SOCKET, 38, 5, 0) == errno.EPERM  # AF_ALG


def test_calls_newer_than_the_library_and_than_the_profile(default: bytes) -> None:
    assert under(default, MSEAL, 0, 0, 0) in (0, errno.ENOSYS)  # ENOSYS on kernels without it
    assert under(default, OPEN_TREE_ATTR, 0, 0, 0, 0, 0) == errno.ENOSYS
    assert under(default, 900) == errno.ENOSYS


def test_capabilities_open_calls(cache: seccomp.SeccompCache) -> None:
    names = [*capabilities.DEFAULT, "CAP_SYS_ADMIN"]
    program = cache.program(cache.section("", names))
    assert under(program, UNSHARE, 0) == 0
    assert under(program, CLONE3, 0, 0) == errno.EINVAL


def test_a_profile_of_the_user(cache: seccomp.SeccompCache) -> None:
    rules = [
        {"names": ["getpid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71},
        {"name": "getppid", "action": "SCMP_ACT_ERRNO"},
        {"names": ["nosuchcall"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["ptrace"], "action": "SCMP_ACT_KILL_PROCESS", "excludes": {"minKernel": "4.8"}},
    ]
    program = cache.program(cache.section(profile(syscalls=rules), ()))
    assert under(program, GETPID) == 71
    assert under(program, 110) == errno.EPERM
    assert under(program, PTRACE, 99, 0, 0, 0) != -31


def test_two_conditions_on_one_argument_mean_either(cache: seccomp.SeccompCache) -> None:
    arguments = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (5, 6)]
    rule = {"names": ["personality"], "action": "SCMP_ACT_ERRNO", "errnoRet": 72, "args": arguments}
    program = cache.program(cache.section(profile(syscalls=[rule]), ()))
    assert [under(program, PERSONALITY, value) for value in (5, 6, 0xFFFFFFFF)] == [72, 72, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Decoding seccomp profile failed"),
        ("[]", "Decoding seccomp profile failed"),
        (profile(defaultAction="SCMP_ACT_X"), "unknown action 'SCMP_ACT_X'"),
        (
            profile(syscalls=[{"names": ["x"], "name": "y", "action": "SCMP_ACT_LOG"}]),
            "both 'name' and 'names'",
        ),
        (profile(architectures=["a"], archMap=[{"architecture": "a"}]), "both 'architectures' and 'archMap'"),
    ],
)
def test_bad_profiles(text: str, words: str) -> None:
    with pytest.raises(InvalidParameter, match=words):
        seccomp.parse_profile(text)


def test_user_notification_is_refused() -> None:
    with pytest.raises(Unsupported, match="notification"):
        seccomp.parse_profile(profile(syscalls=[{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}]))


def test_programs_are_kept_on_disk(tmp_path: Path, default: bytes) -> None:
    first = seccomp.SeccompCache(tmp_path / "bpf")
    assert first.program(first.section("", capabilities.DEFAULT)) == default
    (file,) = (tmp_path / "bpf").iterdir()
    assert file.read_bytes() == default
    file.write_bytes(default[:16])  # what is there is used: the next engine compiles nothing
    second = seccomp.SeccompCache(tmp_path / "bpf")
    assert second.program(second.section("", capabilities.DEFAULT)) == default[:16]
    file.write_bytes(b"torn")  # no whole instructions: compiled anew and mended
    third = seccomp.SeccompCache(tmp_path / "bpf")
    assert third.program(third.section("", capabilities.DEFAULT)) == default
    assert file.read_bytes() == default


def test_the_library_names_itself() -> None:
    assert compiler.library_version().count(".") == 2
    assert compiler.native_architecture() == "SCMP_ARCH_X86_64"
