"""Health checks: a command run in the container at intervals, its verdict kept in the record."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from sampan import errors
from sampan.engine.containers import restart
from sampan.engine.containers.record import Container, Health, HealthResult
from sampan.runtime.config import HealthConfig

if TYPE_CHECKING:
    from sampan.engine.containers.context import Containers, Live

INTERVAL = 30.0
TIMEOUT = 30.0
START_INTERVAL = 5.0
RETRIES = 3
LONGEST_OUTPUT = 4096
KEPT = 5
_log = logging.getLogger(__name__)


def command(container: Container) -> list[str] | None:
    """The check's command line, None when the container has no check."""
    check = container.config.healthcheck
    if check is None or not check.test or check.test[0] == "NONE":
        return None
    kind, *words = check.test
    if kind == "CMD":
        return words or None
    if kind == "CMD-SHELL":
        shell = container.config.shell or ["/bin/sh", "-c"]
        return [*shell, *words]
    return None


def seconds(nanoseconds: int, default: float) -> float:
    """A duration of the configuration, ``default`` where it is 0."""
    return nanoseconds / 1e9 if nanoseconds else default


def start(containers: Containers, container: Container, live: Live, *, adopted: bool = False) -> None:
    """Begin checking the container that has just started; one that ran on without engine keeps its verdict."""
    words = command(container)
    if words is None:
        return
    if live.health is not None:
        live.health.cancel()
    before = container.health or Health()
    container.health = before if adopted else Health(log=before.log)
    live.health = asyncio.create_task(
        _check_for_ever(containers, container, words), name=f"health {container.short_id}"
    )


def stop(live: Live) -> None:
    """The run is over: no more checks."""
    if live.health is not None:
        live.health.cancel()
        live.health = None


def mark_stopped(container: Container) -> None:
    """Docker shows a stopped container with a check as unhealthy."""
    if container.health is not None and container.health.status != "unhealthy":
        container.health.status = "unhealthy"


async def _check_for_ever(containers: Containers, container: Container, words: list[str]) -> None:
    check = container.config.healthcheck or HealthConfig()
    began = time.monotonic() - max(0, time.time_ns() - container.state.started_ns) / 1e9
    grace = seconds(check.start_period, 0.0)
    while True:
        starting = container.health is not None and container.health.status == "starting"
        in_grace = starting and time.monotonic() - began < grace
        pause = (
            seconds(check.start_interval, START_INTERVAL) if in_grace else seconds(check.interval, INTERVAL)
        )
        await asyncio.sleep(pause)
        if container.state.status != "running":
            continue
        try:
            result = await _probe(containers, container, words, seconds(check.timeout, TIMEOUT))
            in_grace = time.monotonic() - began < grace
            await record(containers, container, result, check.retries or RETRIES, in_grace=in_grace)
        except Exception:  # a full disk, no descriptors left: that passes, and the checks must go on
            _log.exception("health check of %s", container.short_id)


async def _probe(
    containers: Containers, container: Container, words: list[str], timeout: float
) -> HealthResult:
    """Run the check once; -1 as exit code means that it didn't end in time or couldn't be run."""
    result = HealthResult(start_ns=time.time_ns())
    output = bytearray()

    def collect(_stream: int, data: bytes) -> None:
        if len(output) <= LONGEST_OUTPUT:
            output.extend(data)

    try:
        result.exit_code = await containers.run_probe(container, words, collect, timeout)
    except TimeoutError:
        result.exit_code = -1
        output[:0] = _overdue(timeout, said=bool(output)).encode()
    except errors.SampanError as problem:
        result.exit_code = -1
        output[:] = problem.message.encode()
    result.end_ns = time.time_ns()
    text = output.decode("utf-8", "replace")
    result.output = text if len(text) <= LONGEST_OUTPUT else text[:LONGEST_OUTPUT] + "..."
    return result


def _overdue(timeout: float, *, said: bool) -> str:
    from sampan.build.durations import format_duration

    words = f"Health check exceeded timeout ({format_duration(round(timeout * 1e9))})"
    return f"{words}: " if said else words


async def record(
    containers: Containers, container: Container, result: HealthResult, retries: int, *, in_grace: bool
) -> None:
    """Add a result; publish the change when the verdict is another one; restart where that is asked for."""
    health = container.health
    if health is None:
        return
    before = health.status
    health.log = [*health.log, result][-KEPT:]
    if result.exit_code == 0:
        health.failing_streak = 0
        health.status = "healthy"
    elif not (in_grace and before == "starting"):
        health.failing_streak += 1
        if health.failing_streak >= retries:
            health.status = "unhealthy"
    containers.registry.save(container)
    if health.status == before:
        return
    containers.publish(container, f"health_status: {health.status}")
    if health.status == "unhealthy" and restart.wants_healing(container):
        _restart_soon(containers, container)


def _restart_soon(containers: Containers, container: Container) -> None:
    """In a task of its own: the restart cancels the one that checks."""
    from sampan.engine.containers import lifecycle

    async def heal() -> None:
        try:
            await lifecycle.restart_container(containers, container.id, counted=True)
        except errors.SampanError as problem:
            _log.warning("restart of unhealthy container %s: %s", container.short_id, problem.message)

    containers.background(heal())
