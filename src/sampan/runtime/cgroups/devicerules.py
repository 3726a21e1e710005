"""Device rules of a group: files of v1's devices controller, an eBPF program on v2."""

from __future__ import annotations

import os

from sampan.errors import SystemFailure
from sampan.kernel.bpf import DeviceRule, attach_device_filter, device_program
from sampan.runtime.cgroups.files import UNIFIED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# What every container may use (config-linux.md, Default Devices), and making nodes.
STANDARD = (
    DeviceRule(True, "c", access="m"),
    DeviceRule(True, "b", access="m"),
    *(DeviceRule(True, "c", 1, minor) for minor in (3, 5, 7, 8, 9)),  # null, zero, full, random, urandom
    DeviceRule(True, "c", 5, 0),  # tty
    DeviceRule(True, "c", 5, 2),  # ptmx
    DeviceRule(True, "c", 136),  # terminals
)
EVERYTHING = DeviceRule(True)
NOTHING = DeviceRule(False)


def restrict(directories: dict[str, str], rules: Sequence[DeviceRule]) -> None:
    """Apply ``rules``; the last that matches decides. SystemFailure without a controller for it, OSError."""
    if UNIFIED in directories:
        _filter(directories[UNIFIED], rules)
    elif "devices" in directories:
        _write(directories["devices"], rules)
    else:
        raise SystemFailure("cgroup controller devices isn't available, so devices can't be restricted")


def _write(directory: str, rules: Sequence[DeviceRule]) -> None:
    files = {
        allow: os.open(f"{directory}/devices.{action}", os.O_WRONLY | os.O_CLOEXEC)
        for allow, action in ((True, "allow"), (False, "deny"))
    }
    try:
        for rule in rules:
            os.write(files[rule.allow], words(rule).encode())  # one rule a write
    finally:
        for fd in files.values():
            os.close(fd)


def words(rule: DeviceRule) -> str:
    """A rule as cgroup v1 writes it: ``c 1:3 rwm``."""
    major, minor = ("*" if number is None else number for number in (rule.major, rule.minor))
    return f"{rule.kind} {major}:{minor} {rule.access}"


def _filter(directory: str, rules: Sequence[DeviceRule]) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        attach_device_filter(fd, device_program(rules))
    finally:
        os.close(fd)
