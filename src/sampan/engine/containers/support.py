"""Which limits this machine's kernel has: what it lacks is left out with dockerd's warning, never in silence."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import NamedTuple

from sampan.engine.containers import cgroups
from sampan.runtime.cgroups import files
from sampan.runtime.config import Resources

_MISSING = "or the cgroup is not mounted."


@functools.cache
def control_files() -> frozenset[str]:
    """The control files of a new group, of all controllers: a group is made to see, and removed again.

    The root group lacks half of them, and those of v2 depend on what the group above hands down.
    """
    probe = cgroups.Cgroup.create("", f"sampan-probe-{os.getpid()}", Resources())
    try:
        return frozenset(name for path in probe.unique() for name in os.listdir(path))
    finally:
        probe.destroy()


def has(*names: str) -> bool:
    """Whether one of these control files exists."""
    return any(name in control_files() for name in names)


def features() -> dict[str, bool]:
    """What can be limited, by names of ``docker info`` (those in lower case are none of its fields)."""
    return {
        "MemoryLimit": has("memory.limit_in_bytes", "memory.max"),
        "SwapLimit": has("memory.memsw.limit_in_bytes", "memory.swap.max"),
        "kernel_memory_tcp": has("memory.kmem.tcp.limit_in_bytes"),
        "CpuCfsPeriod": has("cpu.cfs_period_us", "cpu.max"),
        "CpuCfsQuota": has("cpu.cfs_quota_us", "cpu.max"),
        "CPUShares": has("cpu.shares", "cpu.weight"),
        "CPUSet": has("cpuset.cpus"),
        "PidsLimit": has("pids.max"),
        "OomKillDisable": has("memory.oom_control"),
        "reservation": has("memory.soft_limit_in_bytes", "memory.low"),
        "swappiness": has("memory.swappiness"),
        "realtime": has("cpu.rt_runtime_us"),
        "weight": has("blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight"),
        "weight_device": has("blkio.weight_device", "blkio.bfq.weight_device", "io.weight", "io.bfq.weight"),
        "read_bps": has("blkio.throttle.read_bps_device", "io.max"),
        "write_bps": has("blkio.throttle.write_bps_device", "io.max"),
        "read_iops": has("blkio.throttle.read_iops_device", "io.max"),
        "write_iops": has("blkio.throttle.write_iops_device", "io.max"),
    }


class _Limit(NamedTuple):
    """A limit: whether it is asked for, what it needs, the warning, how it is left out."""

    asked: Callable[[Resources], object]
    needs: str
    warning: str
    cleared: dict[str, object]


def _swap_asked(resources: Resources) -> bool:
    return resources.memory > 0 and resources.memory_swap != -1


_LIMITS = (
    _Limit(
        lambda r: r.memory > 0,
        "MemoryLimit",
        f"memory limit capabilities {_MISSING} Limitation discarded.",
        {"memory": 0, "memory_swap": -1},
    ),
    _Limit(
        _swap_asked,
        "SwapLimit",
        f"swap limit capabilities {_MISSING} Memory limited without swap.",
        {"memory_swap": -1},
    ),
    _Limit(
        lambda r: r.memory_swappiness not in (None, -1),
        "swappiness",
        f"memory swappiness capabilities {_MISSING} Memory swappiness discarded.",
        {"memory_swappiness": None},
    ),
    _Limit(
        lambda r: r.memory_reservation > 0,
        "reservation",
        f"memory soft limit capabilities {_MISSING} Limitation discarded.",
        {"memory_reservation": 0},
    ),
    # Linux 5.16 took it out: writing memory.kmem.limit_in_bytes fails ever since.
    _Limit(
        lambda r: r.kernel_memory > 0,
        "kernel_memory",
        f"kernel memory limit capabilities {_MISSING} Limitation discarded.",
        {"kernel_memory": 0},
    ),
    _Limit(
        lambda r: r.kernel_memory_tcp > 0,
        "kernel_memory_tcp",
        f"kernel memory TCP limit capabilities {_MISSING} Limitation discarded.",
        {"kernel_memory_tcp": 0},
    ),
    _Limit(
        lambda r: r.oom_kill_disable,
        "OomKillDisable",
        "OomKillDisable. OomKillDisable discarded.",
        {"oom_kill_disable": None},
    ),
    _Limit(
        lambda r: r.pids_limit,
        "PidsLimit",
        f"PIDs limit capabilities {_MISSING} PIDs limit discarded.",
        {"pids_limit": None},
    ),
    _Limit(
        lambda r: r.cpu_shares > 0, "CPUShares", f"CPU shares {_MISSING} Shares discarded.", {"cpu_shares": 0}
    ),
    _Limit(
        lambda r: r.cpu_period > 0 or r.cpu_quota > 0,
        "CpuCfsQuota",
        f"CPU CFS scheduler {_MISSING} Period and quota discarded.",
        {"cpu_period": 0, "cpu_quota": 0},
    ),
    _Limit(
        lambda r: r.cpuset_cpus or r.cpuset_mems,
        "CPUSet",
        f"cpuset {_MISSING} Cpuset discarded.",
        {"cpuset_cpus": "", "cpuset_mems": ""},
    ),
    _Limit(
        lambda r: r.blkio_weight,
        "weight",
        f"Block I/O weight {_MISSING} Weight discarded.",
        {"blkio_weight": 0},
    ),
    _Limit(
        lambda r: r.blkio_weight_device,
        "weight_device",
        f"Block I/O weight_device {_MISSING} Weight-device discarded.",
        {"blkio_weight_device": []},
    ),
    _Limit(
        lambda r: r.blkio_device_read_bps,
        "read_bps",
        f"BPS Block I/O read limit {_MISSING} Block I/O BPS read limit discarded.",
        {"blkio_device_read_bps": []},
    ),
    _Limit(
        lambda r: r.blkio_device_write_bps,
        "write_bps",
        f"BPS Block I/O write limit {_MISSING} Block I/O BPS write limit discarded.",
        {"blkio_device_write_bps": []},
    ),
    _Limit(
        lambda r: r.blkio_device_read_iops,
        "read_iops",
        f"IOPS Block read limit {_MISSING} Block I/O IOPS read limit discarded.",
        {"blkio_device_read_iops": []},
    ),
    _Limit(
        lambda r: r.blkio_device_write_iops,
        "write_iops",
        f"IOPS Block write limit {_MISSING} Block I/O IOPS write limit discarded.",
        {"blkio_device_write_iops": []},
    ),
)


def discard(resources: Resources) -> list[str]:
    """Take out of ``resources`` what this kernel can't limit; a warning for each."""
    warnings = []
    for limit in _LIMITS:
        # Asked first: looking which files there are makes a group.
        if limit.asked(resources) and not features().get(limit.needs, False):
            warnings.append(f"Your kernel does not support {limit.warning}")
            for name, value in limit.cleared.items():
                setattr(resources, name, value)
    return warnings + _without_effect(resources)


def _without_effect(resources: Resources) -> list[str]:
    """What the kernel takes and then doesn't do, and what belongs to another system."""
    warnings = []
    if resources.oom_kill_disable and not resources.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the "
            "system running out of resources."
        )
    for name, attribute in (("CPU percent. Percent", "cpu_percent"), ("CPU count. Count", "cpu_count")):
        if getattr(resources, attribute):
            warnings.append(f"linux does not support {name} discarded.")
            setattr(resources, attribute, 0)
    if resources.blkio_weight_device and not has("blkio.weight_device", "io.weight"):
        for device in resources.blkio_weight_device:
            if os.path.exists(device.path) and "[bfq]" not in _scheduler(device.path):
                warnings.append(
                    f"The weight for {device.path} has no effect unless its I/O scheduler is bfq."
                )
    return warnings


def _scheduler(path: str) -> str:
    return files.read(f"/sys/dev/block/{cgroups.numbers(path)}/queue/scheduler")
