"""From a record to a running process: mounts, joined namespaces, network, cgroup, specification, launch."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from sampan import errors
from sampan.engine.containers import attach, launchspec, logdriver
from sampan.engine.containers.cgroups import Cgroup
from sampan.engine.containers.context import Containers, Live
from sampan.engine.containers.record import Container, MountPoint
from sampan.engine.networks.types import Prepared, SandboxRequest
from sampan.kernel import paths
from sampan.runtime.supervisor import Process

if TYPE_CHECKING:
    from sampan.engine.containers.devicerequests import Granted

_log = logging.getLogger(__name__)


async def launch(containers: Containers, container: Container, live: Live) -> Process:
    """Start the container's process; all that was made on the way is taken back when that fails.

    StartFailure, or whatever mounts and networks refuse.
    """
    async with AsyncExitStack() as undo:
        ends = attach.take_pending(live)
        undo.callback(attach.close_ends, ends)
        undo.push_async_callback(containers.networks.release, container.id)
        joined = launchspec.joined_namespaces(containers, container)
        granted = await _granted(containers, container)
        if container.host.log_config.type not in ("", "json-file", "local", "none"):
            await asyncio.to_thread(logdriver.probe, container)
        await _mount_volumes(containers, container, undo)
        # Meanwhile: it takes a millisecond, or long when somebody else changes groups.
        making = asyncio.create_task(
            asyncio.to_thread(launchspec.make_cgroup, containers, container, granted)
        )
        undo.push_async_callback(_destroy_made, making)
        prepared = await containers.networks.prepare(SandboxRequest.of(container))
        write_files(containers, container, prepared)
        _make_run_dir(containers, container, undo)
        cgroup = launchspec.open_cgroup(containers, container)
        spec, plan = launchspec.build(containers, container, cgroup, joined, granted=granted)
        await asyncio.shield(making)
        process = await containers.supervisor.launch(plan, ends)
        undo.push_async_callback(process.abort)
        try:
            await containers.networks.attach(container.id, process.pid)
        except errors.SampanError:
            # It mounts meanwhile; had that failed, its words say what the network's don't.
            await process.raise_failure()
            raise
        await process.proceed()
        undo.pop_all()
    live.process, live.cgroup, live.spec = process, cgroup, spec
    return process


async def _granted(containers: Containers, container: Container) -> Granted | None:
    """What device requests bring, None without any. SystemFailure."""
    if not container.host.device_requests:
        return None
    from sampan.engine.containers.devicerequests import grant  # seldom needed

    directories = containers.config.cdi_directories()
    return await asyncio.to_thread(grant, container.host.device_requests, directories)


async def _mount_volumes(containers: Containers, container: Container, undo: AsyncExitStack) -> None:
    for point in container.mounts:
        if point.type == "bind":
            _check_bind(point)
        elif point.type == "volume":
            await containers.volumes.mount(point.name, container.id)
            undo.callback(containers.volumes.unmount, point.name, container.id)
            containers.events.publish(
                "volume",
                "mount",
                point.name,
                {
                    "container": container.id,
                    "destination": point.destination,
                    "driver": point.driver,
                    "propagation": point.propagation,
                    "read/write": str(point.rw).lower(),
                },
            )
            if point.subpath:
                _check_subpath(Path(point.source), point.subpath)


def _check_bind(point: MountPoint) -> None:
    """``-v`` makes a missing source as a directory; ``--mount`` wants it there."""
    if os.path.lexists(point.source):
        return
    if not point.create_source:
        raise errors.InvalidParameter(
            f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
        )
    try:
        os.makedirs(point.source, mode=0o755, exist_ok=True)
    except OSError as problem:
        raise errors.SystemFailure(
            f"error while creating mount source path '{point.source}': "
            f"mkdir {point.source}: {os.strerror(problem.errno or 0).lower()}"
        ) from problem


def _check_subpath(root: Path, subpath: str) -> None:
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(paths.open_in_root(top, subpath, os.O_PATH))
    except OSError as problem:
        reason = os.strerror(problem.errno or 0).lower()
        raise errors.NotFound(
            f"cannot access path {root / subpath}: lstat {root / subpath}: {reason}"
        ) from None
    finally:
        os.close(top)


def write_files(containers: Containers, container: Container, prepared: Prepared) -> None:
    """hosts, resolv.conf and hostname, written anew at every start."""
    state = containers.state_dir(container.id)
    texts = {
        "hosts": prepared.hosts,
        "resolv.conf": prepared.resolv_conf,
        "hostname": f"{container.config.hostname or container.short_id}\n",
    }
    for name, text in texts.items():
        # In place: a bind mount in a process that still runs keeps seeing it.
        fd = os.open(f"{state}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(fd, 0o644)
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _make_run_dir(containers: Containers, container: Container, undo: AsyncExitStack) -> None:
    directory = containers.run_dir(container.id)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    undo.callback(shutil.rmtree, directory, ignore_errors=True)


async def _destroy_made(making: asyncio.Task[Cgroup]) -> None:
    await asyncio.wait((making,))
    if not making.exception():  # nothing is left of one that failed
        await _destroy(making.result())


async def _destroy(cgroup: Cgroup) -> None:
    try:
        await asyncio.to_thread(cgroup.destroy)
    except OSError as problem:
        _log.warning("cgroup %s stays: %s", cgroup, problem)


async def release(containers: Containers, container: Container, live: Live) -> None:
    """The process has ended: give back network and mounts; safe to call again."""
    await containers.networks.release(container.id)
    for point in container.mounts:
        if point.type == "volume":
            containers.volumes.unmount(point.name, container.id)
            containers.events.publish(
                "volume", "unmount", point.name, {"container": container.id, "driver": point.driver}
            )


async def drop_cgroup(live: Live) -> None:
    """Remove the ended run's cgroup; the caller holds the lock, so no new run can have it yet."""
    cgroup, live.cgroup, live.spec = live.cgroup, None, None
    if cgroup is not None:
        await _destroy(cgroup)


def reopen(containers: Containers, container: Container, live: Live) -> None:
    """After an engine restart: the cgroup of a container that was started before."""
    live.cgroup = launchspec.open_cgroup(containers, container)
    live.spec = launchspec.load_spec(containers, container)
