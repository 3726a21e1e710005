"""When the engine starts: which monitors of a former engine are there, and what those say that answer late.

A monitor that is stopped (SIGSTOP, a debugger) or gets no processor time keeps its container running but
answers nothing. The engine's start waits for all of them together, and not for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from pathlib import Path

from sampan import errors
from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container
from sampan.runtime.supervisor import Process

_PATIENCE = 3.0  # seconds
_log = logging.getLogger(__name__)


@dataclass
class Silent:
    """A container whose monitor is there but has not answered yet; ``answer`` is what it says at last."""

    container: Container
    process: Process
    answer: asyncio.Task[Process | None]


@dataclass
class Found:
    """Processes by container id, and those of which nothing is known but the record."""

    processes: dict[str, Process] = field(default_factory=dict)
    silent: list[Silent] = field(default_factory=list)


async def find(containers: Containers) -> Found:
    """Ask every monitor for its process; within three seconds."""
    found = Found()
    asked = []
    for container in containers:
        process = containers.supervisor.connect(containers.run_dir(container.id))
        if process is not None:
            asked.append(Silent(container, process, asyncio.create_task(_executed(process))))
    if not asked:
        return found
    await asyncio.wait([item.answer for item in asked], timeout=_PATIENCE)
    for item in asked:
        if not item.answer.done():
            _suppose(item)
            found.silent.append(item)
        elif (process := item.answer.result()) is not None:
            found.processes[item.container.id] = process
    return found


async def _executed(process: Process) -> Process | None:
    """``process`` when its program was executed; None when it has ended, or never got so far."""
    if not await process.answers():
        return None
    if process.started_ns:
        return process
    if process.going:
        with contextlib.suppress(errors.SampanError):
            await process.proceed()
            return process
    # The start was under way: its init waits for a go that never comes.
    await process.abort()
    return None


def _suppose(item: Silent) -> None:
    """What the record says of the process is taken for true where the kernel says nothing else."""
    container = item.container
    _log.warning(
        "container %s: its monitor doesn't answer (is it stopped?); it is taken over when it does",
        container.short_id,
    )
    if container.running and _is_of(container):
        with contextlib.suppress(OSError):
            item.process.suppose(container.state.pid)


def _is_of(container: Container) -> bool:
    """Whether the recorded pid is still a process of this container: its cgroup has the id in its name."""
    try:
        return container.id in Path(f"/proc/{container.state.pid}/cgroup").read_text()
    except OSError:
        return False
