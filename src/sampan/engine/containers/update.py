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
    """The container's HostConfig with what ``request`` sets. Conflict when memory and swap contradict."""
    host = copy.copy(container.host)
    _check_memory(container, request)
    for field in msgspec.structs.fields(Resources):
        value = getattr(request, field.name)
        if value and (field.name, value) != ("memory_swappiness", -1):
            setattr(host, field.name, value)
    if request.nano_cpus and (host.cpu_quota or host.cpu_period):
        host.cpu_quota = host.cpu_period = 0
    elif (request.cpu_quota or request.cpu_period) and host.nano_cpus:
        host.nano_cpus = 0
    if request.restart_policy.name:
        host.restart_policy = request.restart_policy
    return host


def _check_memory(container: Container, request: UpdateRequest) -> None:
    old = container.host
    prefix = f"Cannot update container {container.id}: "
    if request.nano_cpus and (old.cpu_quota or old.cpu_period) and (request.cpu_quota or request.cpu_period):
        raise errors.Conflict(
            prefix + "Conflicting options: Nano CPUs cannot be updated as CPU Period/Quota has been set"
        )
    if request.memory and not request.memory_swap and 0 < old.memory_swap < request.memory:
        raise errors.Conflict(
            prefix + "Memory limit should be smaller than already set memoryswap limit, "
            "update the memoryswap at the same time"
        )
