"""The device filter of cgroup v2, asked through the kernel: also a hybrid machine has a v2 tree for it."""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.kernel.bpf import DeviceRule, attach_device_filter, device_program


@pytest.fixture
def group() -> Iterator[Path]:
    root = next((p for p in map(Path, ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")) if _is_v2(p)), None)
    if root is None:
        pytest.skip("no cgroup v2 tree on this machine")
    directory = root / f"smpb-bpf-{os.getpid()}"
    directory.mkdir()
    yield directory
    for _ in range(3000):
        with contextlib.suppress(OSError):
            directory.rmdir()
            return
        time.sleep(0.01)
    raise AssertionError(f"{directory} stays")


def _is_v2(path: Path) -> bool:
    return (path / "cgroup.controllers").exists()


def attach(group: Path, rules: list[DeviceRule]) -> None:
    fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    try:
        attach_device_filter(fd, device_program(rules))
    finally:
        os.close(fd)


def inside(group: Path, action: Callable[[], object]) -> int:
    """The errno with which ``action`` fails in a process of the group, 0 if it succeeds."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            fd = os.open(group / "cgroup.procs", os.O_WRONLY)
            os.write(fd, b"0")
            os.close(fd)
            action()
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def opening(path: str, flags: int) -> Callable[[], object]:
    return lambda: os.open(path, flags)


DENY_ALL = DeviceRule(False)


def test_without_rules_everything_is_denied(group: Path) -> None:
    attach(group, [])
    assert inside(group, opening("/dev/null", os.O_RDONLY)) == errno.EPERM


def test_the_last_matching_rule_decides(group: Path) -> None:
    attach(group, [DENY_ALL, DeviceRule(True, "c", 1, 3), DeviceRule(True, "c", 1, 5)])
    assert inside(group, opening("/dev/null", os.O_RDWR)) == 0
    assert inside(group, opening("/dev/zero", os.O_RDWR)) == 0
    assert inside(group, opening("/dev/full", os.O_RDONLY)) == errno.EPERM


def test_access_is_told_apart(group: Path) -> None:
    attach(group, [DENY_ALL, DeviceRule(True, "c", 1, 3, "r")])
    assert inside(group, opening("/dev/null", os.O_RDONLY)) == 0
    assert inside(group, opening("/dev/null", os.O_WRONLY)) == errno.EPERM
    assert inside(group, opening("/dev/null", os.O_RDWR)) == errno.EPERM


def test_a_denial_of_part_of_the_access(group: Path) -> None:
    attach(group, [DeviceRule(True), DeviceRule(False, "c", 1, None, "w")])
    assert inside(group, opening("/dev/null", os.O_RDONLY)) == 0
    assert inside(group, opening("/dev/null", os.O_RDWR)) == errno.EPERM


def test_nodes_may_be_made_but_not_opened(group: Path, tmp_path: Path) -> None:
    attach(group, [DENY_ALL, DeviceRule(True, "b", None, None, "m"), DeviceRule(True, "c", 1, 3)])
    disk = str(tmp_path / "disk")
    assert inside(group, lambda: os.mknod(disk, 0o60600, os.makedev(7, 0))) == 0
    assert inside(group, opening(disk, os.O_RDONLY)) == errno.EPERM
    mem = str(tmp_path / "mem")
    assert inside(group, lambda: os.mknod(mem, 0o20600, os.makedev(1, 1))) == errno.EPERM


def test_what_the_kernel_refuses_is_an_error(group: Path) -> None:
    fd = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(OSError, match="load the device filter"):
            attach_device_filter(fd, device_program([])[:8])
    finally:
        os.close(fd)
