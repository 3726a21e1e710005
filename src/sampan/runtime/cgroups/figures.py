"""What a group has used, from the control files of v1 or v2. Nanoseconds, bytes."""

from __future__ import annotations

import os

from sampan.runtime.cgroups.files import UNIFIED, number, read, table

_MICROSECOND = 1000


class Cpu:
    """Time used, and time held back by a quota; ``per_cpu`` is empty on v2."""

    __slots__ = ("kernel", "per_cpu", "periods", "throttled", "throttled_time", "total", "user")

    def __init__(self, directories: dict[str, str]) -> None:
        self.per_cpu: list[int] = []
        if UNIFIED in directories:
            found = table(read(f"{directories[UNIFIED]}/cpu.stat"))
            self.total = found.get("usage_usec", 0) * _MICROSECOND
            self.kernel = found.get("system_usec", 0) * _MICROSECOND
            self.user = found.get("user_usec", 0) * _MICROSECOND
            self.throttled_time = found.get("throttled_usec", 0) * _MICROSECOND
        else:
            usage = directories.get("cpuacct", "")
            tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
            split = table(read(f"{usage}/cpuacct.stat"))
            found = table(read(f"{directories.get('cpu', '')}/cpu.stat"))
            self.total = number(f"{usage}/cpuacct.usage") or 0
            self.per_cpu = [int(value) for value in read(f"{usage}/cpuacct.usage_percpu").split()]
            self.kernel = split.get("system", 0) * tick
            self.user = split.get("user", 0) * tick
            self.throttled_time = found.get("throttled_time", 0)
        self.periods = found.get("nr_periods", 0)
        self.throttled = found.get("nr_throttled", 0)


class Memory:
    """Use and limit (None: no limit) of memory; the peak, and failures to get more, are v1's only."""

    __slots__ = ("failures", "limit", "peak", "usage")

    def __init__(self, usage: int | None, limit: int | None, peak: int | None, failures: int | None) -> None:
        self.usage = usage or 0
        self.limit = limit
        self.peak = peak or 0
        self.failures = failures or 0


def memory(directories: dict[str, str]) -> Memory:
    """Memory alone."""
    if UNIFIED in directories:
        group = directories[UNIFIED]
        return Memory(number(f"{group}/memory.current"), number(f"{group}/memory.max"), None, None)
    return _memory_v1(directories, "memory")


def swap(directories: dict[str, str]) -> Memory:
    """v2: swap alone. v1: memory and swap together."""
    if UNIFIED in directories:
        group = directories[UNIFIED]
        return Memory(number(f"{group}/memory.swap.current"), number(f"{group}/memory.swap.max"), None, None)
    return _memory_v1(directories, "memory.memsw")


def _memory_v1(directories: dict[str, str], prefix: str) -> Memory:
    path = f"{directories.get('memory', '')}/{prefix}"
    return Memory(
        number(f"{path}.usage_in_bytes"),
        number(f"{path}.limit_in_bytes"),
        number(f"{path}.max_usage_in_bytes"),
        number(f"{path}.failcnt"),
    )


def memory_parts(directories: dict[str, str]) -> dict[str, int]:
    """``memory.stat``."""
    return table(read(f"{directories.get(UNIFIED) or directories.get('memory', '')}/memory.stat"))


def pids(directories: dict[str, str]) -> tuple[int, int | None]:
    """How many tasks there are and may be (None: any number)."""
    group = directories.get(UNIFIED) or directories.get("pids", "")
    return number(f"{group}/pids.current") or 0, number(f"{group}/pids.max")


def oom_counter(directories: dict[str, str]) -> tuple[str, str] | None:
    """Where the kernel counts out-of-memory kills: file and key; None without the controller."""
    if UNIFIED in directories:
        return f"{directories[UNIFIED]}/memory.events", "oom_kill"
    if "memory" in directories:
        return f"{directories['memory']}/memory.oom_control", "oom_kill"
    return None
