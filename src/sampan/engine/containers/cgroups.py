"""A container's control groups: limits, freezing, figures; cgroup v1 hierarchies and v2 behind one class.

kernel.org: admin-guide/cgroup-v1/*.rst, admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from sampan import errors
from sampan.engine.containers import realtime
from sampan.kernel import bpf
from sampan.runtime.config import Resources

_SYSTEM = Path("/sys/fs/cgroup")
_KILL_PATIENCE = 5.0


@functools.cache
def hierarchies() -> dict[str, Path]:
    """Controllers of v1 with their mount points; ``{"unified": …}`` on a machine with v2 only."""
    found: dict[str, Path] = {}
    with open("/proc/self/mountinfo") as table:
        for line in table:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            point = Path(left.split(" ")[4])
            if kind == "cgroup":
                super_options = options.strip().split(",")
                for name in super_options:
                    if name not in ("rw", "ro", "xattr", "clone_children", "release_agent"):
                        found.setdefault(name.removeprefix("name="), point)
            elif kind == "cgroup2" and point == _SYSTEM:
                return {"unified": point}
    return found


def is_v2() -> bool:
    """Whether the machine has v2 only."""
    return "unified" in hierarchies()


def controllers() -> set[str]:
    """The controllers that limits can be set with."""
    if not is_v2():
        return set(hierarchies())
    return set((_SYSTEM / "cgroup.controllers").read_text().split())


def write(path: str, text: str) -> None:
    """Write a control file; OSError with the kernel's reason (buffered files would lose it)."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as problem:
        raise OSError(
            problem.errno, f"{os.path.basename(path)} = {text}: {os.strerror(problem.errno or 0)}"
        ) from None
    finally:
        os.close(fd)


def read(path: str | Path, default: str = "") -> str:
    """A control file's text, ``default`` when there is none."""
    try:
        with open(path, "rb") as file:
            return file.read().decode()
    except OSError:
        return default


def _make_one(kind: str, directory: str) -> None:
    """Make a group whose parent exists. OSError."""
    os.mkdir(directory)
    if kind == "cpuset":
        _inherit_cpuset(directory, str(hierarchies()[kind]))


def _inherit_cpuset(group: str, root: str) -> None:
    """An empty set lets nobody in; a new group starts with none, its parent's may not be written yet."""
    parent = os.path.dirname(group)
    for name in ("cpuset.cpus", "cpuset.mems"):
        text = read(f"{parent}/{name}").strip()
        if parent != root and not text:
            _inherit_cpuset(parent, root)
            text = read(f"{parent}/{name}").strip()
        write(f"{group}/{name}", text)


def table(text: str) -> dict[str, int]:
    """``key value`` lines."""
    found = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        with contextlib.suppress(ValueError):
            found[key] = int(value)
    return found


class Cgroup:
    """The groups of one container, by controller."""

    def __init__(self, parent: str, name: str) -> None:
        self.parent = parent.strip("/")
        self.name = name
        relative = f"{self.parent}/{name}" if self.parent else name
        self.path = f"/{relative}"
        self.directories = {kind: f"{root}/{relative}" for kind, root in hierarchies().items()}

    @classmethod
    def create(cls, parent: str, name: str, resources: Resources) -> Cgroup:
        """Make the groups and set the limits. SystemFailure when a limit can't be set."""
        group = cls(parent, name)
        try:
            for kind, directory in group.directories.items():
                group._make_quickly(kind, directory)
            group.set(resources)
        except OSError as problem:
            group.destroy()
            raise errors.SystemFailure(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: "
                "runc create failed: unable to start container process: error during container init: error "
                f"setting cgroup config for procHooks process: {problem.strerror}"
            ) from problem
        return group

    def _make_quickly(self, kind: str, directory: str) -> None:
        if kind != "unified":  # there the group above must hand its controllers down
            try:
                _make_one(kind, directory)
                return
            except OSError:
                pass  # no parent yet, or left by a start in which the engine was killed
        self._make_again(kind, directory)

    def _make_again(self, kind: str, directory: str) -> None:
        try:
            self._make(kind, directory)
        except FileNotFoundError:
            # Another engine has just removed the common parent.
            self._make(kind, directory)

    def _make(self, kind: str, directory: str) -> None:
        root = str(hierarchies()[kind])
        missing = []
        step = directory
        with contextlib.suppress(OSError):
            # Left by a start in which the engine was killed: half made, and with counters of its own.
            os.rmdir(directory)
        while step != root and not os.path.isdir(step):
            missing.append(step)
            step = os.path.dirname(step)
        for step in reversed(missing):
            if kind == "unified":
                above = os.path.dirname(step)
                enable = " ".join(f"+{name}" for name in read(f"{above}/cgroup.controllers").split())
                with contextlib.suppress(OSError):
                    write(f"{above}/cgroup.subtree_control", enable)
            with contextlib.suppress(FileExistsError):
                _make_one(kind, step)

    @property
    def join(self) -> list[str]:
        """The directories that a process enters, one a hierarchy."""
        return sorted(set(self.directories.values()))

    def set(self, resources: Resources) -> None:
        """Write the limits that ``resources`` has; 0 and None leave the kernel's default. OSError."""
        for kind, name, value in limits_v2(resources) if is_v2() else limits_v1(resources, self.directories):
            directory = self.directories.get("unified" if is_v2() else kind)
            if name == "cpu.rt_runtime_us" and directory is not None:
                realtime.make_room(str(directory), str(hierarchies()["cpu"]), int(value))
            if directory is not None and os.path.exists(f"{directory}/{name}"):
                write(f"{directory}/{name}", value)
            elif value not in ("-1", "max") and "weight" not in name:
                # Of a weight's names one exists; all else was warned about when the container was made.
                raise OSError(errno.ENOENT, f"{name} = {value}: this kernel has no such limit")

    def deny_devices(self, rules: Iterable[tuple[str, str]]) -> None:
        """Apply device rules (``allow``/``deny``, ``c 1:3 rwm``); the last that matches decides. OSError."""
        if is_v2():
            _filter_devices(self.directories["unified"], [_device_rule(*rule) for rule in rules])
            return
        directory = self.directories.get("devices")
        if directory is not None:
            _write_rules(directory, rules)

    def oom_files(self) -> list[list[str]]:
        """Where the kernel counts out-of-memory kills: ``[file, key]``."""
        if is_v2():
            return [[f"{self.directories['unified']}/memory.events", "oom_kill"]]
        if "memory" in self.directories:
            return [[f"{self.directories['memory']}/memory.oom_control", "oom_kill"]]
        return []

    def pids(self) -> list[int]:
        """All processes in the group and below it."""
        top = self.directories.get("unified") or next(iter(self.directories.values()))
        found: set[int] = set()
        for directory, _, _ in os.walk(top):
            found.update(int(line) for line in read(f"{directory}/cgroup.procs").split())
        return sorted(found)

    # -- freezing ---------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop all processes where they are; returns when they stand still."""
        if is_v2():
            write(f"{self.directories['unified']}/cgroup.freeze", "1")
            self._wait(lambda: table(read(f"{self.directories['unified']}/cgroup.events")).get("frozen") == 1)
            return
        write(f"{self.directories['freezer']}/freezer.state", "FROZEN")
        self._wait(self.frozen)

    def thaw(self) -> None:
        """Let them go on."""
        if is_v2():
            write(f"{self.directories['unified']}/cgroup.freeze", "0")
        else:
            write(f"{self.directories['freezer']}/freezer.state", "THAWED")

    def frozen(self) -> bool:
        """Whether the group is frozen."""
        if is_v2():
            return read(f"{self.directories['unified']}/cgroup.freeze").strip() == "1"
        return read(f"{self.directories['freezer']}/freezer.state").strip() == "FROZEN"

    def _wait(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _KILL_PATIENCE
        while not reached():
            if time.monotonic() > deadline:
                self.thaw()
                raise TimeoutError(errno.ETIMEDOUT, "the processes could not be frozen")
            time.sleep(0.001)

    # -- end --------------------------------------------------------------------------------------------

    def destroy(self) -> None:
        """Kill what is left and remove the groups; gone already is fine."""
        deadline = time.monotonic() + _KILL_PATIENCE
        for directory in set(self.directories.values()):
            while not _remove(directory):
                self._kill_left()
                if time.monotonic() > deadline:
                    raise OSError(errno.EBUSY, f"{directory}: a process doesn't end")
                time.sleep(0.005)

    def _kill_left(self) -> None:
        with contextlib.suppress(OSError):
            if self.frozen():
                self.thaw()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)

    # -- figures ----------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """``cpu_stats``, ``memory_stats``, ``pids_stats`` and ``blkio_stats`` of the Engine API. OSError."""
        from sampan.engine.containers import cgroupstats

        places = {kind: Path(directory) for kind, directory in self.directories.items()}
        return cgroupstats.v2(places["unified"]) if is_v2() else cgroupstats.v1(places)


def _write_rules(directory: str, rules: Iterable[tuple[str, str]]) -> None:
    files = {
        action: os.open(f"{directory}/devices.{action}", os.O_WRONLY | os.O_CLOEXEC)
        for action in ("allow", "deny")
    }
    try:
        for action, text in rules:
            os.write(files[action], text.encode())  # one rule a write
    finally:
        for fd in files.values():
            os.close(fd)


def _device_rule(action: str, text: str) -> bpf.DeviceRule:
    """A rule in v1's words as v2's filter takes it."""
    kind, _, rest = text.partition(" ")
    numbers, _, access = rest.partition(" ")
    major, _, minor = numbers.partition(":")
    return bpf.DeviceRule(
        action == "allow",
        kind,
        None if major in ("", "*") else int(major),
        None if minor in ("", "*") else int(minor),
        access or "rwm",
    )


def _filter_devices(directory: str, rules: list[bpf.DeviceRule]) -> None:
    """v2 has no files for devices: an eBPF program on the group decides."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        bpf.attach_device_filter(fd, bpf.device_program(rules))
    finally:
        os.close(fd)


def remove_parent(path: str) -> None:
    """Remove the group in which containers were made, where it is empty."""
    for root in set(hierarchies().values()):
        with contextlib.suppress(OSError):
            os.rmdir(f"{root}/{path.strip('/')}")


def _remove(directory: str) -> bool:
    """Remove a group with those below it; False while something holds it."""
    with contextlib.suppress(OSError):
        os.rmdir(directory)
        return True
    for step, _, _ in os.walk(directory, topdown=False):
        try:
            os.rmdir(step)
        except FileNotFoundError:
            continue
        except OSError as problem:
            if problem.errno != errno.EBUSY:
                raise
            return False
    return True


Limits = list[tuple[str, str, str]]


def _quota(resources: Resources) -> tuple[int, int]:
    """CFS quota and period in microseconds; 0 for none."""
    if resources.nano_cpus:
        return resources.nano_cpus * 100_000 // 1_000_000_000, 100_000
    return resources.cpu_quota, resources.cpu_period


def limits_v1(resources: Resources, directories: dict[str, str]) -> Limits:
    """``(controller, file, value)`` for v1, in an order that the kernel takes."""
    quota, period = _quota(resources)
    found: Limits = [
        *_memory_v1(resources, directories),
        *_when("cpu", "cpu.shares", resources.cpu_shares),
        *_when("cpu", "cpu.rt_period_us", resources.cpu_realtime_period),
        *_when("cpu", "cpu.rt_runtime_us", resources.cpu_realtime_runtime),
        *_when("cpu", "cpu.cfs_period_us", period),
        *_when("cpu", "cpu.cfs_quota_us", quota),
        *_when("cpuset", "cpuset.cpus", resources.cpuset_cpus),
        *_when("cpuset", "cpuset.mems", resources.cpuset_mems),
        *_when("blkio", "blkio.weight", resources.blkio_weight),
        *_when("blkio", "blkio.bfq.weight", resources.blkio_weight),
    ]
    for device in resources.blkio_weight_device or ():
        text = f"{numbers(device.path)} {device.weight}"
        found += [("blkio", "blkio.weight_device", text), ("blkio", "blkio.bfq.weight_device", text)]
    if resources.cpu_shares == 1:
        raise OSError(errno.EINVAL, "the minimum allowed cpu-shares is 2")
    if resources.pids_limit:
        found.append(("pids", "pids.max", _unlimited(resources.pids_limit, "max")))
    for name, devices in (
        ("read_bps_device", resources.blkio_device_read_bps),
        ("write_bps_device", resources.blkio_device_write_bps),
        ("read_iops_device", resources.blkio_device_read_iops),
        ("write_iops_device", resources.blkio_device_write_iops),
    ):
        found += [("blkio", f"blkio.throttle.{name}", f"{numbers(d.path)} {d.rate}") for d in devices or ()]
    return found


def _memory_v1(resources: Resources, directories: dict[str, str]) -> Limits:
    memory, swap = resources.memory, resources.memory_swap
    pair = [*_when("memory", "memory.limit_in_bytes", memory)]
    if swap:
        pair.append(("memory", "memory.memsw.limit_in_bytes", str(swap)))
    # The limit may never be above memory and swap together: raise the sum first, lower it last.
    present = directories.get("memory")
    if present is not None and swap and memory:
        now = int(read(f"{present}/memory.limit_in_bytes", "0") or 0)
        if memory > now or swap == -1:
            pair.reverse()
    found = [
        *pair,
        *_when("memory", "memory.soft_limit_in_bytes", resources.memory_reservation),
        *_when("memory", "memory.kmem.tcp.limit_in_bytes", resources.kernel_memory_tcp),
    ]
    if resources.memory_swappiness not in (None, -1):
        found.append(("memory", "memory.swappiness", str(resources.memory_swappiness)))
    if resources.oom_kill_disable:
        found.append(("memory", "memory.oom_control", "1"))
    return found


def limits_v2(resources: Resources) -> Limits:
    """``("", file, value)`` for v2."""
    quota, period = _quota(resources)
    found: Limits = [
        *_when("", "memory.max", resources.memory),
        *_when("", "memory.low", resources.memory_reservation),
        *_when("", "cpuset.cpus", resources.cpuset_cpus),
        *_when("", "cpuset.mems", resources.cpuset_mems),
        *_when("", "io.bfq.weight", resources.blkio_weight),
        *_when("", "io.weight", resources.blkio_weight and _weight_v2(resources.blkio_weight)),
    ]
    for weight in resources.blkio_weight_device or ():
        node = numbers(weight.path)
        found.append(("", "io.bfq.weight", f"{node} {weight.weight}"))
        found.append(("", "io.weight", f"{node} {_weight_v2(weight.weight)}"))
    if resources.memory_swap:
        swap = resources.memory_swap
        found.append(("", "memory.swap.max", "max" if swap < 0 else str(max(0, swap - resources.memory))))
    if resources.cpu_shares:
        found.append(("", "cpu.weight", str(1 + (max(2, resources.cpu_shares) - 2) * 9999 // 262142)))
    if quota or period:
        found.append(("", "cpu.max", f"{quota if quota > 0 else 'max'} {period or 100_000}"))
    if resources.pids_limit:
        found.append(("", "pids.max", _unlimited(resources.pids_limit, "max")))
    for key, devices in (
        ("rbps", resources.blkio_device_read_bps),
        ("wbps", resources.blkio_device_write_bps),
        ("riops", resources.blkio_device_read_iops),
        ("wiops", resources.blkio_device_write_iops),
    ):
        found += [("", "io.max", f"{numbers(d.path)} {key}={d.rate}") for d in devices or ()]
    return found


def _weight_v2(weight: int) -> int:
    """Docker's weights go from 10 to 1000, those of io.weight from 1 to 10000."""
    return 1 + (weight - 10) * 9999 // 990


def _when(kind: str, name: str, value: int | str) -> Limits:
    return [(kind, name, str(value))] if value else []


def _unlimited(value: int, word: str) -> str:
    return word if value < 0 else str(value)


def numbers(path: str) -> str:
    """``major:minor`` of a device node. SystemFailure in Docker's words when there is none."""
    try:
        found = os.stat(path)
    except OSError as problem:
        raise errors.SystemFailure(f"stat {path}: {os.strerror(problem.errno or 0).lower()}") from None
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
