"""When the engine starts: take over what runs on, record what ended, remove what was half-made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from pathlib import Path

from sampan import errors
from sampan.engine.containers import (
    cgroups,
    create,
    health,
    initlayer,
    launching,
    launchspec,
    lifecycle,
    remove,
    restart,
    takeover,
)
from sampan.engine.containers.context import Containers, Live
from sampan.engine.containers.record import Container
from sampan.runtime.supervisor import Exit, Process

_log = logging.getLogger(__name__)


_LOST = 137
_LOST_WITH_THE_MACHINE = 255
_AT_ONCE = 4


async def recover(containers: Containers) -> None:
    """Bring records and reality together; containers with a restart policy are started by ``autostart``."""
    containers.recovering = True
    create.undo_unfinished(containers)
    lost = _LOST_WITH_THE_MACHINE if _machine_restarted(containers.config.data_root) else _LOST
    _hold_volumes(containers)
    found = await takeover.find(containers)
    running: dict[str, int] = {}
    for item in found.silent:
        known = await _await_late(containers, item, lost)
        running[item.container.id] = item.process.pid if known else 0
    silent = {item.container.id for item in found.silent}
    ended: list[tuple[Container, Exit]] = []
    for container in containers:
        process = found.processes.get(container.id)
        if process is not None:
            _adopt(containers, container, process)
            running[container.id] = process.pid
        elif container.id not in silent and (container.running or container.state.starting):
            ended.append((container, _exit_of(containers, container, lost)))
    await containers.networks.restore(running)
    _restore_mounts(containers)
    for container, exit_ in ended:
        await _record_end(containers, container, exit_)
    _sweep(containers)


def _machine_restarted(data_root: Path) -> bool:
    """Whether this is the first engine on this data root since the machine was booted."""
    note = data_root / "boot-id"
    now = Path("/proc/sys/kernel/random/boot_id").read_text()
    before = note.read_text() if note.exists() else now
    if before != now or not note.exists():
        note.write_text(now)
    return before != now


def _hold_volumes(containers: Containers) -> None:
    for container in containers:
        for point in container.mounts:
            if point.type == "volume" and point.name in containers.volumes:
                containers.volumes.hold(point.name, container.id)


def _restore_mounts(containers: Containers) -> None:
    users: dict[str, list[str]] = {}
    for container in containers:
        if container.running:
            for point in container.mounts:
                if point.type == "volume":
                    users.setdefault(point.name, []).append(container.id)
    containers.volumes.restore_mounts(users)


def _adopt(containers: Containers, container: Container, process: Process) -> None:
    """The container ran on while no engine did."""
    live = containers.live(container)
    live.process = process
    launching.reopen(containers, container, live)
    state = container.state
    if not container.running:
        state.status = "running"
    if live.cgroup is not None:
        with contextlib.suppress(OSError):
            state.status = "paused" if live.cgroup.frozen() else "running"
    state.pid, state.starting, state.exit_code = process.pid, False, 0
    state.started_ns = process.started_ns
    containers.registry.save(container)
    live.watcher = asyncio.create_task(lifecycle.watch(containers, container, live))
    health.start(containers, container, live, adopted=True)


async def _await_late(containers: Containers, item: takeover.Silent, lost: int) -> bool:
    """Take the container over when its monitor answers; whether it runs until then, as far as is known.

    Where the record says that it doesn't, a start was under way: whoever wants to start it waits. Until it is
    known whether it runs its network is kept.
    """
    live = containers.live(item.container)
    if item.container.running:
        live.process = item.process
        launching.reopen(containers, item.container, live)
    else:
        await live.lock.acquire()
    known = item.container.running and item.process.pid > 0
    containers.background(_take_over_late(containers, item, live, lost, known=known))
    return known


async def _take_over_late(
    containers: Containers, item: takeover.Silent, live: Live, lost: int, *, known: bool
) -> None:
    container = item.container
    locked = not container.running
    try:
        process = await item.answer
        if not locked:
            await live.lock.acquire()
            locked = True
        if container.id not in containers.registry:
            return
        if process is not None:
            _adopt(containers, container, process)
            if not known:
                await containers.networks.resume(container.id, process.pid)
        else:
            live.process = None
            await _end(containers, container, live, _exit_of(containers, container, lost))
    finally:
        if locked:
            live.lock.release()


def _exit_of(containers: Containers, container: Container, lost: int) -> Exit:
    """What the monitor recorded; without a record it was killed, or the machine went down: ``lost``."""
    found = _recorded(containers, container)
    if found is not None:
        return found
    return Exit(code=lost if container.running else 128, oom_killed=False, finished_ns=time.time_ns())


def _recorded(containers: Containers, container: Container) -> Exit | None:
    """The recorded end of the last run, None when there is no record but that of an end known already.

    A start begins with the removal of the former record; the engine may have died before that.
    """
    found = Exit.load(containers.state_dir(container.id))
    return None if found is not None and found.finished_ns == container.state.finished_ns else found


async def _record_end(containers: Containers, container: Container, exit_: Exit) -> None:
    """It ended while no engine ran."""
    live = containers.live(container)
    async with live.lock:
        await _end(containers, container, live, exit_)


async def _end(containers: Containers, container: Container, live: Live, exit_: Exit) -> None:
    launching.reopen(containers, container, live)
    if not container.running:
        # The start had begun; whether the program ever ran only the exit record tells.
        container.state.starting = False
        if _recorded(containers, container) is None:
            await launching.release(containers, container, live)
            containers.registry.save(container)
            return
        container.state.started_ns = container.state.started_ns or exit_.finished_ns
        container.state.status = "running"
    await lifecycle.ended(containers, container, live, exit_)


def _sweep(containers: Containers) -> None:
    """Directories that no record names, and init layers that no container stands on."""
    root = containers.config.data_root / "containers"
    if root.is_dir():
        for entry in root.iterdir():
            if entry.name not in containers.registry:
                shutil.rmtree(entry, ignore_errors=True)
    runs = containers.config.exec_root / "containers"
    if runs.is_dir():
        for entry in runs.iterdir():
            if entry.name not in containers.registry:
                shutil.rmtree(entry, ignore_errors=True)
    used = {initlayer.key(containers.layers.lowers(c.chain) if c.chain else []) for c in containers}
    initlayer.sweep(containers.config.data_root / "init", used)
    for name in containers.cleaner.pending("volume"):  # anonymous, of containers whose removal was cut short
        containers.volumes.discard(name)
    containers.volumes.sweep()
    owners = [("containers", container.id) for container in containers]
    containers.quotas.settle(owners + [("volumes", volume.name) for volume in containers.volumes.all()])


async def autostart(containers: Containers) -> None:
    """Start what the restart policies ask for, some at a time; remove what ``--rm`` left behind.

    A container that uses another's namespaces or links to it comes after it.
    """
    containers.recovering = False
    waves: dict[int, list[Container]] = {}
    for container in containers:
        waves.setdefault(_depth(containers, container, set()), []).append(container)
    at_once = asyncio.Semaphore(_AT_ONCE)
    for _, wave in sorted(waves.items()):
        await asyncio.gather(*(_bring_back(containers, container, at_once) for container in wave))


def _depth(containers: Containers, container: Container, seen: set[str]) -> int:
    """How many others have to run before this one."""
    host = container.host
    modes = (host.network_mode, host.ipc_mode, host.pid_mode)
    needed = [mode.partition(":")[2] for mode in modes if mode.startswith("container:")]
    needed += [link.partition(":")[0] for link in host.links or ()]
    depths = [0]
    for reference in needed:
        with contextlib.suppress(errors.SampanError):
            other = containers.get(reference)
            if other.id not in seen:
                depths.append(1 + _depth(containers, other, seen | {container.id}))
    return max(depths)


async def _bring_back(containers: Containers, container: Container, at_once: asyncio.Semaphore) -> None:
    waiting = container.state.status == "restarting" and containers.live(container).restarter
    if container.running or waiting:
        return
    async with at_once:
        try:
            if container.host.auto_remove and container.state.started_ns:
                await remove.remove(containers, container.id, force=True, volumes=True)
            elif restart.at_engine_start(container):
                await _start_again(containers, container)
        except errors.SampanError as problem:
            _log.warning("container %s: %s", container.short_id, problem.message)


async def _start_again(containers: Containers, container: Container) -> None:
    live = containers.live(container)
    async with live.lock:
        if container.running or live.removing:
            return
        container.state.stopped_by_user = False
        if container.state.status != "restarting":
            container.restart_count = 0
        await lifecycle.run(containers, container, live)


async def stop_all(containers: Containers, timeout: int) -> None:
    """The engine ends and takes its containers along: each gets its stop signal, see ``stop_for_shutdown``."""
    for container in containers:
        lifecycle.cancel_restart(containers.live(container))
    stops = [
        lifecycle.stop_for_shutdown(containers, container, timeout)
        for container in containers
        if container.running
    ]
    await asyncio.gather(*stops, return_exceptions=True)


async def shut_down(containers: Containers) -> None:
    """The engine ends; what still runs goes on without it."""
    containers.closing = True
    for container in containers:
        lifecycle.cancel_restart(containers.live(container))
    await containers.close()


def remove_parent(containers: Containers) -> None:
    """The last of an end: the group of all containers goes when none is left."""
    cgroups.remove_parent(containers.config.cgroup_parent or launchspec.DEFAULT_PARENT)
