"""``events``: figures of a container's cgroup in runc's form, and its out-of-memory kills."""

from __future__ import annotations

import os
import select
import time

from sampan import jsontext
from sampan.errors import Conflict, InvalidParameter
from sampan.runtime.oci import store
from sampan.runtime.oci.cgroup import Group, read, table
from sampan.runtime.oci.running import one_id
from sampan.runtime.oci.showing import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.oci.context import Context

_DEFAULT_INTERVAL = 5.0
_LOOK = 0.5  # seconds between looks at the counter of kills
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NANOSECONDS = 1000


def events(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``events ID``: a JSON object a line until the container ends; with ``--stats`` one."""
    container = store.load(context.root, one_id(rest, "events"))
    if container.status() == "stopped":
        raise Conflict(f"container with id {container.id} is not running")
    interval = _duration(options["interval"])
    if options["stats"]:
        _print(container, "stats", stats(container.group))
        return 0
    _follow(container, interval)
    return 0


def _duration(text: str) -> float:
    """Go's form, ``500ms``, ``5s``; InvalidParameter."""
    if not text:
        return _DEFAULT_INTERVAL
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdecimal():
            found = float(number) * factor
            if found > 0:
                return found
    raise InvalidParameter(f'duration interval "{text}" must be greater than 0, such as 5s')


def _print(container: store.Container, kind: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": container.id}
    if data is not None:
        event["data"] = data
    say(jsontext.dumps(event) + "\n")


def _follow(container: store.Container, interval: float) -> None:
    pidfd = os.pidfd_open(container.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    kills, due = oom_kills(container.group), time.monotonic()
    while True:
        if time.monotonic() >= due:
            _print(container, "stats", stats(container.group))
            due += interval
        ended = poll.poll(max(1.0, min(_LOOK, due - time.monotonic()) * 1000))
        now = oom_kills(container.group)
        if now > kills:
            _print(container, "oom", None)
            kills = now
        if ended:
            return


def oom_kills(group: Group) -> int:
    """How many processes the memory limit has killed."""
    if group.v2:
        return table(read(f"{group.directories['unified']}/memory.events")).get("oom_kill", 0)
    directory = group.directories.get("memory")
    return table(read(f"{directory}/memory.oom_control")).get("oom_kill", 0) if directory else 0


def stats(group: Group) -> dict[str, Any]:
    """``cpu``, ``memory``, ``pids``, ``blkio`` as runc prints them; times in nanoseconds, sizes in bytes."""
    return _v2(group.directories["unified"]) if group.v2 else _v1(group.directories)


def _number(path: str) -> int:
    text = read(path, "0").strip()
    return int(text) if text.isdecimal() else 0


def _v2(directory: str) -> dict[str, Any]:
    cpu, memory = table(read(f"{directory}/cpu.stat")), table(read(f"{directory}/memory.stat"))
    return {
        "cpu": {
            "usage": {
                "total": cpu.get("usage_usec", 0) * _NANOSECONDS,
                "kernel": cpu.get("system_usec", 0) * _NANOSECONDS,
                "user": cpu.get("user_usec", 0) * _NANOSECONDS,
            },
            "throttling": {
                "periods": cpu.get("nr_periods", 0),
                "throttledPeriods": cpu.get("nr_throttled", 0),
                "throttledTime": cpu.get("throttled_usec", 0) * _NANOSECONDS,
            },
        },
        "memory": {
            "cache": memory.get("file", 0),
            "usage": {
                "limit": _number(f"{directory}/memory.max"),
                "usage": _number(f"{directory}/memory.current"),
            },
            "swap": {
                "limit": _number(f"{directory}/memory.swap.max"),
                "usage": _number(f"{directory}/memory.swap.current"),
            },
            "raw": memory,
        },
        "pids": {"current": _number(f"{directory}/pids.current"), "limit": _number(f"{directory}/pids.max")},
    }


def _v1(groups: dict[str, str]) -> dict[str, Any]:
    usage, cpu, memory = (groups.get(kind, "") for kind in ("cpuacct", "cpu", "memory"))
    throttled, raw = table(read(f"{cpu}/cpu.stat")), table(read(f"{memory}/memory.stat"))
    per_cpu = [int(value) for value in read(f"{usage}/cpuacct.usage_percpu").split()]
    split = table(read(f"{usage}/cpuacct.stat"))
    tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    pids = groups.get("pids", "")
    return {
        "cpu": {
            "usage": {
                "total": _number(f"{usage}/cpuacct.usage"),
                "percpu": per_cpu,
                "kernel": split.get("system", 0) * tick,
                "user": split.get("user", 0) * tick,
            },
            "throttling": {
                "periods": throttled.get("nr_periods", 0),
                "throttledPeriods": throttled.get("nr_throttled", 0),
                "throttledTime": throttled.get("throttled_time", 0),
            },
        },
        "memory": {
            "cache": raw.get("cache", 0),
            "usage": _memory(memory, "memory"),
            "swap": _memory(memory, "memory.memsw"),
            "raw": raw,
        },
        "pids": {"current": _number(f"{pids}/pids.current"), "limit": _number(f"{pids}/pids.max")},
    }


def _memory(directory: str, prefix: str) -> dict[str, int]:
    return {
        "limit": _number(f"{directory}/{prefix}.limit_in_bytes"),
        "usage": _number(f"{directory}/{prefix}.usage_in_bytes"),
        "max": _number(f"{directory}/{prefix}.max_usage_in_bytes"),
        "failcnt": _number(f"{directory}/{prefix}.failcnt"),
    }
