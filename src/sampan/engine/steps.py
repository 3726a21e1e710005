"""One process over given layers, for the builder's RUN: the launch path of containers without a container.

Nothing is recorded: a step that a crash of the engine interrupts is killed and swept at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan.engine.containers import attach, checks, initlayer, launching, launchspec
from sampan.engine.containers.context import Containers
from sampan.engine.containers.create import complete_host
from sampan.engine.containers.merge import command
from sampan.engine.containers.record import Container, State
from sampan.engine.containers.registry import new_id
from sampan.engine.exec import Collector
from sampan.engine.networks import SandboxRequest
from sampan.kernel import mounts
from sampan.runtime.config import ContainerConfig, HostConfig

_ABORT_PATIENCE = 3.0  # seconds
_log = logging.getLogger(__name__)
_MARK = "step"
"""A file in a step's run directory; its text says which control groups are the step's."""
Output = Callable[[int, bytes], None]


@dataclass(frozen=True)
class Step:
    """What to run: ``lowers`` topmost first, ``upper`` takes what is written; mounts in the plan's form."""

    lowers: Sequence[Path]
    upper: Path
    work: Path
    config: ContainerConfig
    host: HostConfig
    network: str = "default"
    extra_mounts: list[list[Any]] = field(default_factory=list)
    container_id: str = ""


def bind_mount(source: str, target: str, *, readonly: bool) -> list[Any]:
    """A bind mount of a step."""
    make = "dir" if Path(source).is_dir() else "file"
    flags = mounts.MS_RDONLY if readonly else 0
    return ["bind", source, target, flags, True, mounts.MS_PRIVATE | mounts.MS_REC, make]


def tmpfs_mount(target: str, size: int = 0) -> list[Any]:
    """A tmpfs of a step; ``size`` in bytes, 0 for the kernel's default."""
    data = "mode=1777" + (f",size={size}" if size else "")
    return ["fs", "tmpfs", "tmpfs", target, mounts.MS_NOSUID | mounts.MS_NODEV, data]


def overlay_mount(target: str, lowers: Sequence[str], upper: tuple[str, str] | None) -> list[Any]:
    """Layers mounted inside a step: read-only, or with an upper and a work directory."""
    data = f"lowerdir={':'.join(lowers)}"
    if upper is not None:
        data += f",upperdir={upper[0]},workdir={upper[1]}"
    return ["fs", "overlay", "overlay", target, 0 if upper else mounts.MS_RDONLY, data]


async def run_step(containers: Containers, step: Step, output: Output) -> int:
    """Run to the end: its exit code. ``output(stream, data)`` gets what it prints, in order.

    InvalidParameter for a limit that can't be; StartFailure when the program can't be started. Cancelling
    kills it; nothing of it is left.
    """
    checks.check_host(step.host)
    for warning in checks.check_resources(step.host):
        output(1, f" ---> [Warning] {warning}\n".encode())
    container = _record(containers, step)
    async with AsyncExitStack() as undo:
        state, run = containers.state_dir(container.id), containers.run_dir(container.id)
        for directory in (state, run):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            undo.callback(shutil.rmtree, directory, ignore_errors=True)
        token = launchspec.cgroup_token(containers, container)
        (run / _MARK).write_text(token)
        init = state / "init"
        await asyncio.to_thread(initlayer.build, init, step.lowers)
        undo.push_async_callback(containers.networks.release, container.id)
        prepared = await containers.networks.prepare(SandboxRequest.of(container))
        launching.write_files(containers, container, prepared)
        cgroup = await asyncio.to_thread(launchspec.make_cgroup, containers, container)
        undo.push_async_callback(asyncio.to_thread, cgroup.destroy)
        lowers = [str(init), *map(str, step.lowers)]
        _, plan = launchspec.build(
            containers, container, cgroup, [], ["overlay", lowers, str(step.upper), str(step.work)]
        )
        plan["mounts"] = [*plan["mounts"], *step.extra_mounts]
        end, ours = attach.AttachEnd.pair()
        undo.callback(ours.close)
        process = await containers.supervisor.launch(plan, [end])
        undo.push_async_callback(process.abort)
        await containers.networks.attach(container.id, process.pid)
        await process.proceed()
        client = Collector(output)
        await attach.pump(ours, client, attach.AttachOptions(stdout=True, stderr=True))
        return (await process.wait()).code


async def sweep(containers: Containers) -> None:
    """At the engine's start: end the steps that a crash left running. Their files and links go with the
    directories and sandboxes that nothing stands for, in `recovery.recover`, which comes next.
    """
    root = containers.config.exec_root / "containers"
    for mark in root.glob(f"*/{_MARK}"):
        process = containers.supervisor.connect(mark.parent)
        if process is not None:
            with contextlib.suppress(TimeoutError):  # a monitor that is stopped
                await asyncio.wait_for(process.abort(), _ABORT_PATIENCE)
        try:
            await asyncio.to_thread(launchspec.destroy_cgroup, mark.read_text())
        except OSError as problem:
            _log.warning("step %s: %s", mark.parent.name[:12], problem)


def _record(containers: Containers, step: Step) -> Container:
    host = complete_host(containers, step.host)
    host.network_mode = "bridge" if step.network in ("", "default") else step.network
    host.log_config.type = "none"
    path, args = command(step.config)
    identity = step.container_id or new_id()
    container = Container(
        id=identity,
        name=f"build-{identity[:12]}",
        created_ns=time.time_ns(),
        image="",
        path=path,
        args=args,
        config=step.config,
        host=host,
        state=State(),
    )
    if not step.config.hostname:
        step.config.hostname = container.short_id
    return container
