"""``docker rm``, ``rename`` and ``prune``: taking containers and their names away."""

from __future__ import annotations

import time
from collections.abc import Callable

from sampan import errors
from sampan.engine import names
from sampan.engine.containers import launchspec, lifecycle, sizes, waits
from sampan.engine.containers.context import Containers, Live
from sampan.engine.containers.record import Container


async def remove(
    containers: Containers, reference: str, *, force: bool = False, volumes: bool = False, link: bool = False
) -> None:
    """Remove a container; ``force`` kills it first, ``volumes`` takes its anonymous volumes along.

    Conflict when it runs and ``force`` isn't set.
    """
    if link:
        _remove_link(containers, reference)
        return
    container = containers.get(reference)
    live = containers.live(container)
    if live.removing and container.id not in containers.registry:
        raise errors.NotFound(f"No such container: {reference}")
    _check_removable(container, reference, force)
    async with live.lock:
        _check_removable(container, reference, force)  # it may have been started meanwhile
        lifecycle.cancel_restart(live)
        live.removing = True
    try:
        if container.running:
            await lifecycle.kill_and_wait(containers, container, live)
        async with live.lock:
            if container.id in containers.registry:
                await remove_stopped(containers, container, live, volumes=volumes)
    except BaseException:
        live.removing = False
        raise


def _check_removable(container: Container, reference: str, force: bool) -> None:
    status = container.state.status
    if force or status not in ("running", "paused", "restarting"):
        return
    advice = {
        "running": "container is running: stop the container before removing or force remove",
        "paused": "container is paused and must be unpaused first",
        "restarting": "container is restarting: stop the container before removing or force remove",
    }[status]
    raise errors.Conflict(f'cannot remove container "{container.name}": {advice}')


def _remove_link(containers: Containers, reference: str) -> None:
    parent, _, alias = reference.removeprefix("/").partition("/")
    container = containers.get(parent)
    if not alias:
        raise errors.SystemFailure("Conflict, cannot remove the default link name of the container")
    if container.links.pop(alias, None) is None:
        raise errors.NotFound(f"No such link: {reference}")
    container.host.links = [
        spec for spec in container.host.links or () if (spec.partition(":")[2] or spec) != alias
    ]
    containers.registry.save(container)


async def remove_stopped(
    containers: Containers, container: Container, live: Live, *, volumes: bool = False
) -> None:
    """Take a stopped container away under its lock: the answer needs its row and name gone, no more.

    Directories are deleted by the clean-up queue, which survives a crash.
    """
    if container.state.status == "restarting":
        container.state.status = "exited"
    code = container.state.exit_code
    container.state.status = "removing"
    await containers.networks.release(container.id)
    with containers.db.transaction() as tx:
        containers.registry.forget(container, tx)
        containers.cleaner.add(tx, "cgroup", launchspec.cgroup_token(containers, container))
        containers.cleaner.add(tx, "tree", str(containers.run_dir(container.id)))
        containers.cleaner.add(tx, "tree", str(containers.state_dir(container.id)))
        if containers.quotas.release("containers", container.id, tx):
            containers.cleaner.add(tx, "project", container.id)
        for name in _anonymous(container) if volumes else ():
            containers.cleaner.add(tx, "volume", name)
        containers.leases.release(f"container:{container.id}")
    containers.registry.drop(container)
    containers.cleaner.wake()
    _release_volumes(containers, container, volumes)
    containers.publish(container, "destroy")
    waits.tell_removed(live, code)
    containers.forget(container)


def _anonymous(container: Container) -> list[str]:
    return [point.name for point in container.mounts if point.type == "volume" and point.anonymous]


def _release_volumes(containers: Containers, container: Container, remove_anonymous: bool) -> None:
    """Take anonymous volumes out at once; the clean-up queue deletes them, and does both after a crash."""
    for point in container.mounts:
        if point.type == "volume":
            containers.volumes.release(point.name, container.id)
            if remove_anonymous and point.anonymous:
                containers.volumes.discard(point.name)


def rename(containers: Containers, reference: str, name: str) -> None:
    """Give a container another name. InvalidParameter for the same or a bad one, Conflict for a taken one."""
    container = containers.get(reference)
    if not name:
        raise errors.InvalidParameter("Neither old nor new names may be empty")
    if name.removeprefix("/") == container.name:
        raise errors.InvalidParameter("Renaming a container with the same name as its current name")
    shown = name if name.startswith("/") else f"/{name}"
    old = container.name
    try:
        containers.registry.rename(container, names.check(name, shown=shown))
    except (errors.InvalidParameter, errors.Conflict) as problem:
        problem.message = f"Error when allocating new name: {problem.message}"
        raise
    containers.networks.renamed(container, old)
    containers.publish(container, "rename", oldName=f"/{old}")


async def prune(
    containers: Containers, *, until_ns: int = 0, keep: Callable[[Container], bool] = lambda _: False
) -> tuple[list[str], int]:
    """Remove all stopped containers, made before ``until_ns`` (0: any) and not kept: ids and bytes."""
    limit = until_ns or time.time_ns()
    ids: list[str] = []
    reclaimed = 0
    for container in list(containers):
        if container.running or container.state.status == "restarting":
            continue
        if container.created_ns >= limit or keep(container):
            continue
        size = await sizes.writable(containers, container)
        try:
            await remove(containers, container.id)
        except (errors.Conflict, errors.NotFound):
            continue
        ids.append(container.id)
        reclaimed += size
    containers.events.publish("container", "prune", "", {"reclaimed": str(reclaimed)})
    return ids, reclaimed
