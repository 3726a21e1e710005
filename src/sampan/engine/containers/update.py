"""``docker update``: other limits and another restart policy for a container, running or not."""

from __future__ import annotations

import asyncio
import copy

import msgspec

from sampan import errors
from sampan.engine.containers import checks, lifecycle, nulls
from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container
from sampan.runtime.config import HostConfig, Resources, UpdateRequest

_FIXED = frozenset(("cgroup_parent", "devices", "device_cgroup_rules", "device_requests", "ulimits"))


async def update(containers: Containers, reference: str, request: UpdateRequest) -> list[str]:
    """Apply the limits that ``request`` sets (0 and null leave things as they are); warnings.

    InvalidParameter for values that aren't allowed, Conflict when they contradict those already set.
    Nothing is changed unless everything is.
    """
    container = containers.get(reference)
    live = containers.live(container)
    _check_changeable(request)
    nulls.refuse(request)
    warnings = checks.check_resources(request)
    checks.check_restart_policy(request.restart_policy, auto_remove=container.host.auto_remove)
    async with live.lock:
        if container.state.status in ("removing", "dead"):
            raise errors.Conflict(
                'cannot update container: container is marked for removal and cannot be "update"'
            )
        changed = merged(container, request)
        if live.cgroup is not None and container.running:
            try:
                await asyncio.to_thread(live.cgroup.set, changed)
            except OSError as problem:
                raise errors.SystemFailure(f"cannot update container {container.id}: {problem}") from problem
        container.host = changed
        containers.registry.save(container)
        if container.state.status == "restarting" and changed.restart_policy.name in ("", "no"):
            lifecycle.give_up(containers, container, live)
    containers.publish(container, "update")
    return warnings


def _check_changeable(request: UpdateRequest) -> None:
    """Members of Resources that only a new container can have: refused, never taken and forgotten."""
    for field in msgspec.structs.fields(Resources):
        if field.name in _FIXED and getattr(request, field.name):
            raise errors.InvalidParameter(
                f"{field.encode_name} can't be changed by update", hint="Make the container anew."
            )


def merged(container: Container, request: UpdateRequest) -> HostConfig:
    """The container's HostConfig with what ``request`` sets. Conflict with what was set already."""
    host = copy.copy(container.host)
    _check_agreement(container, request)
    for field in msgspec.structs.fields(Resources):
        value = getattr(request, field.name)
        if value and (field.name, value) != ("memory_swappiness", -1):
            setattr(host, field.name, value)
    if request.restart_policy.name:
        host.restart_policy = request.restart_policy
    return host


def _check_agreement(container: Container, request: UpdateRequest) -> None:
    """Processor time is bounded in one of two ways, for the container's whole life; memory by less than swap."""
    old = container.host
    prefix = f"Cannot update container {container.id}: "
    for asked, new, known, name in (
        (request.nano_cpus, "Nano CPUs", old.cpu_period, "CPU Period"),
        (request.nano_cpus, "Nano CPUs", old.cpu_quota, "CPU Quota"),
        (request.cpu_quota, "CPU Quota", old.nano_cpus, "NanoCPUs"),
        (request.cpu_period, "CPU Period", old.nano_cpus, "NanoCPUs"),
    ):
        if asked > 0 and known > 0:
            words = f"Conflicting options: {new} cannot be updated as {name} has already been set"
            raise errors.Conflict(prefix + words)
    if request.memory and not request.memory_swap and 0 < old.memory_swap < request.memory:
        raise errors.Conflict(
            prefix + "Memory limit should be smaller than already set memoryswap limit, "
            "update the memoryswap at the same time"
        )
