"""Figures of control groups in the shape of the Engine API's ``stats``, v1 and v2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sampan.engine.containers.cgroups import read, table

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_BLKIO_EMPTY = (
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)


def v1(directories: dict[str, Path]) -> dict[str, Any]:
    """From the v1 hierarchies. OSError when the group is gone."""
    usage = directories["cpuacct"]
    per_cpu = [int(value) for value in (usage / "cpuacct.usage_percpu").read_text().split()]
    split = table(read(usage / "cpuacct.stat"))
    throttled = table(read(directories["cpu"] / "cpu.stat"))
    memory = directories["memory"]
    return {
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": int((usage / "cpuacct.usage").read_text()),
                "percpu_usage": per_cpu,
                "usage_in_kernelmode": split.get("system", 0) * _TICK,
                "usage_in_usermode": split.get("user", 0) * _TICK,
            },
            "online_cpus": len(per_cpu),
            "throttling_data": {
                "periods": throttled.get("nr_periods", 0),
                "throttled_periods": throttled.get("nr_throttled", 0),
                "throttled_time": throttled.get("throttled_time", 0),
            },
        },
        "memory_stats": {
            "usage": int(read(memory / "memory.usage_in_bytes", "0")),
            "max_usage": int(read(memory / "memory.max_usage_in_bytes", "0")),
            "stats": table(read(memory / "memory.stat")),
            "limit": min(int(read(memory / "memory.limit_in_bytes", "0")), total_memory()),
        },
        "pids_stats": pids(directories["pids"]),
        "blkio_stats": blkio_v1(directories["blkio"]),
    }


def total_memory() -> int:
    """Bytes of memory in the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def pids(directory: Path) -> dict[str, int]:
    """``pids_stats``."""
    found = {"current": int(read(directory / "pids.current", "0"))}
    limit = read(directory / "pids.max", "max").strip()
    if limit.isdigit():
        found["limit"] = int(limit)
    return found


def blkio_v1(directory: Path) -> dict[str, Any]:
    """``blkio_stats``: bytes and operations by device."""
    return {
        "io_service_bytes_recursive": _blkio(read(directory / "blkio.throttle.io_service_bytes_recursive")),
        "io_serviced_recursive": _blkio(read(directory / "blkio.throttle.io_serviced_recursive")),
        **{name: [] for name in _BLKIO_EMPTY},
    }


def _blkio(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) == 3:
            major, _, minor = fields[0].partition(":")
            found.append({"major": int(major), "minor": int(minor), "op": fields[1], "value": int(fields[2])})
    return found


def v2(directory: Path) -> dict[str, Any]:
    """From the one v2 group. OSError when it is gone."""
    cpu = table((directory / "cpu.stat").read_text())
    memory = table(read(directory / "memory.stat"))
    limit = read(directory / "memory.max", "max").strip()
    return {
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": cpu.get("usage_usec", 0) * 1000,
                "usage_in_kernelmode": cpu.get("system_usec", 0) * 1000,
                "usage_in_usermode": cpu.get("user_usec", 0) * 1000,
            },
            "throttling_data": {
                "periods": cpu.get("nr_periods", 0),
                "throttled_periods": cpu.get("nr_throttled", 0),
                "throttled_time": cpu.get("throttled_usec", 0) * 1000,
            },
        },
        "memory_stats": {
            "usage": int(read(directory / "memory.current", "0")),
            "stats": memory,
            "limit": int(limit) if limit.isdigit() else total_memory(),
        },
        "pids_stats": pids(directory),
        "blkio_stats": {
            "io_service_bytes_recursive": _io_v2(read(directory / "io.stat")),
            "io_serviced_recursive": None,
            **dict.fromkeys(_BLKIO_EMPTY),
        },
    }


def _io_v2(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        device, *fields = line.split()
        major, _, minor = device.partition(":")
        values = dict(field.split("=", 1) for field in fields if "=" in field)
        for key, name in (("rbytes", "read"), ("wbytes", "write")):
            if key in values:
                found.append(
                    {"major": int(major), "minor": int(minor), "op": name, "value": int(values[key])}
                )
    return found
