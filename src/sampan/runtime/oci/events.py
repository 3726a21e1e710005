"""``events``: figures of a container's cgroup in runc's form, and its out-of-memory kills."""

from __future__ import annotations

import os
import select
import time

from sampan import jsontext
from sampan.errors import Conflict, InvalidParameter
from sampan.runtime.cgroups import figures
from sampan.runtime.cgroups.files import read, table
from sampan.runtime.oci import store
from sampan.runtime.oci.running import one_id
from sampan.runtime.oci.showing import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.oci.cgroup import Group
    from sampan.runtime.oci.context import Context

_DEFAULT_INTERVAL = 5.0
_LOOK = 0.5  # seconds between looks at the counter of kills
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


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
    counter = figures.oom_counter(group.directories)
    return table(read(counter[0])).get(counter[1], 0) if counter else 0


def stats(group: Group) -> dict[str, Any]:
    """``cpu``, ``memory`` and ``pids`` as runc prints them; times in nanoseconds, sizes in bytes."""
    raw = figures.memory_parts(group.directories)
    current, limit = figures.pids(group.directories)
    return {
        "cpu": _cpu(group),
        "memory": {
            "cache": raw.get("file" if group.v2 else "cache", 0),
            "usage": _memory(figures.memory(group.directories), peaks=not group.v2),
            "swap": _memory(figures.swap(group.directories), peaks=not group.v2),
            "raw": raw,
        },
        "pids": {"current": current, "limit": limit or 0},
    }


def _cpu(group: Group) -> dict[str, Any]:
    cpu = figures.Cpu(group.directories)
    usage: dict[str, Any] = {"total": cpu.total, "kernel": cpu.kernel, "user": cpu.user}
    if not group.v2:
        usage["percpu"] = cpu.per_cpu
    return {
        "usage": usage,
        "throttling": {
            "periods": cpu.periods,
            "throttledPeriods": cpu.throttled,
            "throttledTime": cpu.throttled_time,
        },
    }


def _memory(memory: figures.Memory, *, peaks: bool) -> dict[str, int]:
    found = {"limit": memory.limit or 0, "usage": memory.usage}
    return found | {"max": memory.peak, "failcnt": memory.failures} if peaks else found
