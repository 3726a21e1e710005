"""Device nodes and device rules: what a container finds in /dev and what its cgroup lets it open."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sampan.errors import InvalidParameter, SystemFailure
from sampan.kernel.bpf import DeviceRule
from sampan.runtime.cgroups import devicerules

# Directories of a host's /dev that are file systems of their own, never given to containers.
_SKIPPED = frozenset({"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"})


@dataclass(frozen=True, slots=True)
class Device:
    """A device node: where it is, what it is, who owns it. ``kind`` is ``c``, ``b`` or ``p``."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0

    def to_spec(self) -> dict[str, Any]:
        """The OCI form (config-linux.md, Devices)."""
        return {
            "path": self.path,
            "type": self.kind,
            "major": self.major,
            "minor": self.minor,
            "fileMode": self.mode,
            "uid": self.uid,
            "gid": self.gid,
        }


# The nodes that every container has (config-linux.md, Default Devices).
STANDARD = (
    Device("/dev/null", "c", 1, 3),
    Device("/dev/random", "c", 1, 8),
    Device("/dev/full", "c", 1, 7),
    Device("/dev/tty", "c", 5, 0),
    Device("/dev/zero", "c", 1, 5),
    Device("/dev/urandom", "c", 1, 9),
)
SYMLINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
)


def default_rules() -> list[DeviceRule]:
    """Deny everything but making nodes, the standard devices, terminals and their multiplexer."""
    return [devicerules.NOTHING, *devicerules.STANDARD, DeviceRule(True, "c", 5, 1)]


def parse_rule(text: str) -> DeviceRule:
    """Turn ``c 13:* rwm`` (``--device-cgroup-rule``) into a rule.

    Raises InvalidParameter: ``invalid device cgroup rule format: '…'``.
    """
    parts = text.split(" ")
    if len(parts) == 3 and parts[0] in ("a", "b", "c") and parts[2] and set(parts[2]) <= set("rwm"):
        numbers = parts[1].split(":")
        if len(numbers) == 2 and all(number == "*" or number.isdecimal() for number in numbers):
            major, minor = (None if number == "*" else int(number) for number in numbers)
            return DeviceRule(True, parts[0], major, minor, parts[2])
    raise InvalidParameter(
        f"invalid device cgroup rule format: '{text}'",
        hint="It has the form 'c 13:* rwm': type, major:minor (or *), access.",
    )


def from_host(path: str, target: str | None = None) -> Device:
    """Read a device node of the host; ``target`` is its path in the container.

    Raises SystemFailure in dockerd's words if there is none.
    """
    found = _node(path, target or path)
    if found is None:
        raise SystemFailure(
            f'error gathering device information while adding custom device "{path}": not a device node'
        )
    return found


def _node(path: str, target: str) -> Device | None:
    try:
        status = os.stat(path)
    except OSError as error:
        words = (error.strerror or str(error)).lower()
        raise SystemFailure(
            f'error gathering device information while adding custom device "{path}": {words}',
            hint="Check that the device exists on the host and that its driver is loaded.",
        ) from error
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        return None
    number = status.st_rdev
    mode = stat.S_IMODE(status.st_mode)
    return Device(target, kind, os.major(number), os.minor(number), mode, status.st_uid, status.st_gid)


def expand(path: str, target: str) -> list[Device]:
    """The device at ``path``, or all devices below it if it is a directory, as seen at ``target``."""
    real = os.path.realpath(path)
    if not os.path.isdir(real):
        return [from_host(real if os.path.exists(real) else path, target)]
    devices = [_retarget(found, real, target) for found in _walk(real)]
    if not devices:
        raise SystemFailure(
            f'error gathering device information while adding custom device "{path}": no devices found'
        )
    return devices


def _retarget(device: Device, source: str, target: str) -> Device:
    path = target.rstrip("/") + device.path[len(source) :]
    return Device(path, device.kind, device.major, device.minor, device.mode, device.uid, device.gid)


def _walk(directory: str) -> Iterator[Device]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in _SKIPPED:
                yield from _walk(entry.path)
        elif not entry.is_symlink() and entry.name != "console":
            try:
                found = _node(entry.path, entry.path)
            except SystemFailure:  # removed while we looked
                continue
            if found is not None:
                yield found


def host_devices() -> list[Device]:
    """Every device node of the host's /dev: what a privileged container sees."""
    return list(_walk("/dev"))
