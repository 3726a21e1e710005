"""``update``: other limits for a container that exists."""

from __future__ import annotations

import os

from sampan.errors import Conflict, InvalidParameter, Unsupported
from sampan.runtime.cgroups import figures
from sampan.runtime.oci import store
from sampan.runtime.oci.bundle import parse
from sampan.runtime.oci.cgroup import Group
from sampan.runtime.oci.document import Node
from sampan.runtime.oci.resources import Resources
from sampan.runtime.oci.running import one_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.oci.context import Context

_FIELDS = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "cpu-share": ("cpu", "shares"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-period": ("cpu", "period"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "cpu-idle": ("cpu", "idle"),
    "blkio-weight": ("blockIO", "weight"),
    "pids-limit": ("pids", "limit"),
}


def update(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``update ID``."""
    container = store.load(context.root, one_id(rest, "update"))
    for name in ("l3-cache-schema", "mem-bw-schema"):
        if options[name]:
            raise Unsupported(f"--{name}: Intel RDT isn't supported")
    wanted = Resources(Node(_resources(options), "resources"))
    if wanted.devices:
        raise Unsupported("resources.devices: device rules can't be changed by update")
    if container.status() == "stopped":
        raise Conflict("cannot update a stopped container")
    group = container.group
    if not group.directories:
        raise Conflict("the container has no cgroup (it was made without the rights to)")
    _check_usage(group, wanted)
    group.limit(wanted)
    group.limit_pids(wanted)
    return 0


def _resources(options: dict[str, Any]) -> dict[str, Any]:
    path = options["resources"]
    if path:
        fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            return parse(file.read(), path)
    found: dict[str, Any] = {}
    for name, (section, field) in _FIELDS.items():
        if options[name] not in (None, ""):
            found.setdefault(section, {})[field] = options[name]
    if not found:
        raise InvalidParameter("update: no limit given", hint="See sampan-runtime update --help.")
    return found


def _check_usage(group: Group, wanted: Resources) -> None:
    limit = wanted.limits.memory or 0
    if not (wanted.check_before_update and limit > 0 and group.v2):
        return
    usage = figures.memory(group.directories).usage
    if usage > limit:
        raise Conflict(f"resources.memory.limit: {limit} is below the present usage of {usage} bytes")
