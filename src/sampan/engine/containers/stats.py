"""``docker stats``: samples of a container's cgroups and network devices in the Engine API's shape."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container
from sampan.engine.containers.timestamps import ZERO, rfc3339

INTERVAL = 1.0
_BLKIO = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)
_DEVICE = (
    ("rx_bytes", 0),
    ("rx_packets", 1),
    ("rx_errors", 2),
    ("rx_dropped", 3),
    ("tx_bytes", 8),
    ("tx_packets", 9),
    ("tx_errors", 10),
    ("tx_dropped", 11),
)


def empty_cpu() -> dict[str, Any]:
    """CPU figures before the first sample."""
    return {
        "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }


def empty(container: Container) -> dict[str, Any]:
    """What Docker shows of a container that doesn't run."""
    return {
        "id": container.id,
        "name": f"/{container.name}",
        "os_type": "linux",
        "read": ZERO,
        "cpu_stats": empty_cpu(),
        "memory_stats": {},
        "pids_stats": {},
        "blkio_stats": dict.fromkeys(_BLKIO),
        "num_procs": 0,
        "storage_stats": {},
        "preread": ZERO,
        "precpu_stats": empty_cpu(),
    }


async def sample(containers: Containers, container: Container) -> dict[str, Any]:
    """The figures of this moment, without those of the sample before."""
    live = containers.live(container)
    if not container.running or live.cgroup is None:
        return empty(container)
    try:
        found = await asyncio.to_thread(_read, live.cgroup, container.state.pid)
    except OSError:
        # It ended meanwhile.
        return empty(container)
    return {**empty(container), **found}


def _read(cgroup: Any, pid: int) -> dict[str, Any]:
    figures: dict[str, Any] = cgroup.stats()
    figures["cpu_stats"]["system_cpu_usage"] = system_cpu()
    figures["cpu_stats"].setdefault("online_cpus", len(os.sched_getaffinity(0)))
    networks = devices(pid)
    if networks:
        figures["networks"] = networks
    return {"read": rfc3339(time.time_ns()), **figures}


def system_cpu() -> int:
    """Nanoseconds that all CPUs have spent so far, idle ones too: the first line of /proc/stat."""
    with open("/proc/stat", "rb") as table:
        ticks = [int(field) for field in table.readline().split()[1:9]]
    return sum(ticks) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def devices(pid: int) -> dict[str, dict[str, int]]:
    """Counters of the network devices that process ``pid`` sees, without its loopback (proc_pid_net(5))."""
    found = {}
    with open(f"/proc/{pid}/net/dev") as table:
        for line in table.readlines()[2:]:
            name, _, rest = line.partition(":")
            fields = rest.split()
            if name.strip() != "lo":
                found[name.strip()] = {key: int(fields[index]) for key, index in _DEVICE}
    return found


def with_previous(current: dict[str, Any], previous: dict[str, Any] | None) -> dict[str, Any]:
    """``current`` with the CPU figures of the sample before, from which clients compute a percentage."""
    if previous is None or previous["read"] == ZERO or current["read"] == ZERO:
        return current
    return {**current, "preread": previous["read"], "precpu_stats": previous["cpu_stats"]}


async def once(containers: Containers, container: Container, *, one_shot: bool) -> dict[str, Any]:
    """One sample; unless ``one_shot`` there is an earlier one to compare with, a second before."""
    first = await sample(containers, container)
    if one_shot or not container.running:
        return first
    await asyncio.sleep(INTERVAL)
    return with_previous(await sample(containers, container), first)


async def stream(containers: Containers, container: Container) -> AsyncIterator[dict[str, Any]]:
    """A sample a second until the container is removed."""
    previous: dict[str, Any] | None = None
    while container.id in containers.registry:
        current = await sample(containers, container)
        yield with_previous(current, previous)
        previous = current
        await asyncio.sleep(INTERVAL)
