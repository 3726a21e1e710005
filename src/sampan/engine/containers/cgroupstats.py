"""Figures of control groups in the shape of the Engine API's ``stats``, v1 and v2."""

from __future__ import annotations

import os
from typing import Any

from sampan.runtime.cgroups import figures
from sampan.runtime.cgroups.files import UNIFIED, read

_BLKIO_EMPTY = (
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)


def of(directories: dict[str, str]) -> dict[str, Any]:
    """Of a container's groups by controller. OSError when they are gone."""
    v2 = UNIFIED in directories
    found = {
        "cpu_stats": _cpu(directories),
        "memory_stats": _memory(directories),
        "pids_stats": _pids(directories),
        "blkio_stats": _blkio_v2(directories[UNIFIED]) if v2 else _blkio_v1(directories["blkio"]),
    }
    os.stat(directories[UNIFIED if v2 else "cpuacct"])  # what is gone reads as 0
    return found


def _cpu(directories: dict[str, str]) -> dict[str, Any]:
    cpu = figures.Cpu(directories)
    usage: dict[str, Any] = {
        "total_usage": cpu.total,
        "usage_in_kernelmode": cpu.kernel,
        "usage_in_usermode": cpu.user,
    }
    found: dict[str, Any] = {
        "cpu_usage": usage,
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled,
            "throttled_time": cpu.throttled_time,
        },
    }
    if cpu.per_cpu:
        usage["percpu_usage"] = cpu.per_cpu
        found["online_cpus"] = len(cpu.per_cpu)
    return found


def _memory(directories: dict[str, str]) -> dict[str, Any]:
    memory, machine = figures.memory(directories), total_memory()
    found = {
        "usage": memory.usage,
        "stats": figures.memory_parts(directories),
        "limit": machine if memory.limit is None else min(memory.limit, machine),
    }
    if UNIFIED not in directories:
        found["max_usage"] = memory.peak
    return found


def total_memory() -> int:
    """Bytes of memory in the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _pids(directories: dict[str, str]) -> dict[str, int]:
    current, limit = figures.pids(directories)
    return {"current": current} if limit is None else {"current": current, "limit": limit}


def _blkio_v1(directory: str) -> dict[str, Any]:
    """Bytes and operations by device."""
    return {
        "io_service_bytes_recursive": _lines(read(f"{directory}/blkio.throttle.io_service_bytes_recursive")),
        "io_serviced_recursive": _lines(read(f"{directory}/blkio.throttle.io_serviced_recursive")),
        **{name: [] for name in _BLKIO_EMPTY},
    }


def _lines(text: str) -> list[dict[str, Any]]:
    fields = (line.split() for line in text.splitlines())
    return [_entry(found[0], found[1], found[2]) for found in fields if len(found) == 3]


def _entry(device: str, operation: str, value: str) -> dict[str, Any]:
    major, _, minor = device.partition(":")
    return {"major": int(major), "minor": int(minor), "op": operation, "value": int(value)}


def _blkio_v2(directory: str) -> dict[str, Any]:
    found = []
    for line in read(f"{directory}/io.stat").splitlines():
        device, *fields = line.split()
        values = dict(field.split("=", 1) for field in fields if "=" in field)
        for key, name in (("rbytes", "read"), ("wbytes", "write")):
            if key in values:
                found.append(_entry(device, name, values[key]))
    return {
        "io_service_bytes_recursive": found,
        "io_serviced_recursive": None,
        **dict.fromkeys(_BLKIO_EMPTY),
    }
