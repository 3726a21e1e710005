"""A container's control groups: the limits of its HostConfig, in groups named after it."""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Sequence
from typing import Any

from sampan import errors
from sampan.engine.containers import realtime
from sampan.kernel.bpf import DeviceRule
from sampan.runtime.cgroups import devicerules, figures, files, tree
from sampan.runtime.cgroups.group import Group
from sampan.runtime.cgroups.limits import Limits
from sampan.runtime.config import Resources, ThrottleDevice

_log = logging.getLogger(__name__)
_CPU_PERIOD = 100_000  # microseconds, for NanoCpus


@functools.cache
def hierarchies() -> dict[str, str]:
    """Controllers of v1 with their mount points; ``{"unified": …}`` on a machine with v2 only."""
    return files.hierarchies()


def find_hierarchies() -> None:
    """When the engine starts: see that there are some, also under ``ip netns exec``."""
    if hierarchies():
        return
    from sampan.runtime.cgroups import mounting  # seldom needed

    try:
        found = mounting.make_visible()
    except OSError as problem:
        _log.warning("cgroups could not be mounted: %s", problem)
        return
    hierarchies.cache_clear()
    if not found:
        _log.warning("no cgroups are mounted: containers have no limits, and no rules for devices")


def is_v2() -> bool:
    """Whether the machine has v2 only."""
    return files.UNIFIED in hierarchies()


class Cgroup(Group):
    """The groups of one container, by controller."""

    def __init__(self, parent: str, name: str) -> None:
        parent = parent.strip("/")
        relative = f"{parent}/{name}" if parent else name
        self.path = f"/{relative}"
        super().__init__({kind: f"{root}/{relative}" for kind, root in hierarchies().items()})

    @classmethod
    def create(cls, parent: str, name: str, resources: Resources) -> Cgroup:
        """Make the groups and set the limits. SystemFailure when a limit can't be set."""
        group = cls(parent, name)
        try:
            # What is there was left by a start in which the engine was killed: half made, with counters of its own.
            group.make(hierarchies(), anew=True)
            group.set(resources)
        except OSError as problem:
            group.destroy()
            raise errors.SystemFailure(
                "failed to create task for container: failed to create shim task: OCI runtime create failed: "
                "runc create failed: unable to start container process: error during container init: error "
                f"setting cgroup config for procHooks process: {problem.strerror}"
            ) from problem
        except BaseException:
            group.destroy()
            raise
        return group

    @property
    def join(self) -> list[str]:
        """The directories that a process enters, one a hierarchy."""
        return sorted(self.unique())

    def set(self, resources: Resources) -> None:
        """Write the limits that ``resources`` has; 0 and None leave the kernel's default. OSError."""
        wanted = limits(resources)
        if not self.v2:
            if wanted.shares == 1:
                raise OSError(errno.EINVAL, "the minimum allowed cpu-shares is 2")
            if wanted.rt_runtime and "cpu" in self.directories:
                realtime.make_room(self.directories["cpu"], hierarchies()["cpu"], wanted.rt_runtime)
        self.write_limits(wanted)

    def restrict_devices(self, rules: Sequence[DeviceRule]) -> None:
        """Apply device rules; the last that matches decides. OSError."""
        if self.v2 or "devices" in self.directories:
            devicerules.restrict(self.directories, rules)

    def oom_files(self) -> list[list[str]]:
        """Where the kernel counts out-of-memory kills: ``[file, key]``."""
        found = figures.oom_counter(self.directories)
        return [list(found)] if found else []

    def stats(self) -> dict[str, Any]:
        """``cpu_stats``, ``memory_stats``, ``pids_stats`` and ``blkio_stats`` of the Engine API. OSError."""
        from sampan.engine.containers import cgroupstats

        return cgroupstats.of(self.directories)


def remove_parent(path: str) -> None:
    """Remove the group in which containers were made, where it is empty."""
    for root in set(hierarchies().values()):
        tree.remove_empty(f"{root}/{path.strip('/')}")


def limits(resources: Resources) -> Limits:
    """The limits that ``resources`` asks for. SystemFailure for a device that isn't there."""
    found = Limits()
    found.memory, found.swap = resources.memory, resources.memory_swap
    found.reservation, found.kernel_tcp = resources.memory_reservation, resources.kernel_memory_tcp
    if resources.memory_swappiness != -1:
        found.swappiness = resources.memory_swappiness
    found.disable_oom_killer = bool(resources.oom_kill_disable)
    found.shares = resources.cpu_shares
    if resources.nano_cpus:
        found.quota, found.period = resources.nano_cpus * _CPU_PERIOD // 1_000_000_000, _CPU_PERIOD
    else:
        found.quota, found.period = resources.cpu_quota, resources.cpu_period
    found.rt_runtime, found.rt_period = resources.cpu_realtime_runtime, resources.cpu_realtime_period
    found.cpus, found.mems = resources.cpuset_cpus, resources.cpuset_mems
    found.pids = resources.pids_limit
    # A kernel without weights was warned about when the container was made.
    found.weight, found.weights_matter = resources.blkio_weight, False
    found.weight_devices = [(numbers(d.path), d.weight) for d in resources.blkio_weight_device or ()]
    found.read_bps = _rates(resources.blkio_device_read_bps)
    found.write_bps = _rates(resources.blkio_device_write_bps)
    found.read_iops = _rates(resources.blkio_device_read_iops)
    found.write_iops = _rates(resources.blkio_device_write_iops)
    return found


def _rates(devices: Sequence[ThrottleDevice] | None) -> list[tuple[str, int]]:
    return [(numbers(device.path), device.rate) for device in devices or ()]


def numbers(path: str) -> str:
    """``major:minor`` of a device node. SystemFailure in Docker's words when there is none."""
    try:
        found = os.stat(path)
    except OSError as problem:
        raise errors.SystemFailure(f"stat {path}: {os.strerror(problem.errno or 0).lower()}") from None
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
