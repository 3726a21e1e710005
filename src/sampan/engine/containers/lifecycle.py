"""Start, stop, kill, restart, pause, unpause, and what happens when a container's process ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time

from sampan import errors
from sampan.engine.containers import health, launching, restart, signals, states, waits
from sampan.engine.containers.context import Containers, Live
from sampan.engine.containers.record import Container
from sampan.runtime.supervisor import Exit

DEFAULT_STOP_TIMEOUT = 10
_KILL_PATIENCE = 10.0
_DONOR_LOOK = 0.2  # seconds between looks at a container that another one waits for
_SILENCE = 1.0  # seconds after SIGKILL until the monitor may be one that somebody has stopped
_log = logging.getLogger(__name__)


async def start(containers: Containers, reference: str) -> Container:
    """Start a container. NotModified when it runs; Conflict when paused or being removed; StartFailure."""
    container = containers.get(reference)
    live = containers.live(container)
    async with live.lock:
        check_startable(container, live)
        cancel_restart(live)
        _begin_anew(container, live)
        await run(containers, container, live)
    return container


def _begin_anew(container: Container, live: Live) -> None:
    """Somebody wants it to run: for the restart policy nothing has happened yet."""
    container.state.stopped_by_user = False
    container.restart_count = 0
    live.back_off = 0.0


def check_startable(container: Container, live: Live) -> None:
    """Raise what forbids a start in the present state."""
    status = container.state.status
    if status == "paused":
        raise errors.Conflict("cannot start a paused container, try unpause instead")
    if status == "running":
        raise errors.NotModified(f"container {container.id} is already running")
    if status in ("removing", "dead") or live.removing:
        raise errors.Conflict("container is marked for removal and cannot be started")


async def run(containers: Containers, container: Container, live: Live) -> None:
    """Launch under the caller's lock; on failure the container stays as it was, the error in its state."""
    state = container.state
    live.launches += 1
    state.starting, state.error = True, ""
    containers.registry.save(container)
    try:
        process = await launching.launch(containers, container, live)
    except errors.SampanError as problem:
        _note_failure(containers, container, live, problem)
        raise
    except BaseException:
        state.starting = False
        containers.registry.save(container)
        raise
    with containers.db.transaction():
        containers.networks.announce(container.id)
        began(containers, container, live, process.pid, process.started_ns or time.time_ns())
    containers.publish(container, "start")
    live.watcher = asyncio.create_task(watch(containers, container, live), name=f"watch {container.short_id}")
    health.start(containers, container, live)


def _note_failure(
    containers: Containers, container: Container, live: Live, problem: errors.SampanError
) -> None:
    state = container.state
    state.starting = False
    state.error = problem.message
    state.exit_code = failure_code(problem)
    if state.status == "restarting":
        state.status = "exited"
    containers.registry.save(container)
    waits.tell_exit(live, state.exit_code, final=True)
    if container.host.auto_remove:
        live.removing = True
        containers.background(_auto_remove(containers, container))


def failure_code(problem: errors.SampanError) -> int:
    """The exit code of a start that failed: 127, 126 or 128, as inspect then shows it."""
    if isinstance(problem, errors.StartFailure) and problem.exit_code in (126, 127):
        return problem.exit_code
    return 128


def began(containers: Containers, container: Container, live: Live, pid: int, started_ns: int) -> None:
    """Note that the process runs."""
    state = container.state
    state.status = states.after("start", state.status)
    state.pid, state.exit_code, state.oom_killed = pid, 0, False
    state.started_ns, state.starting = started_ns, False
    live.run_over.clear()
    containers.registry.save(container)


async def watch(containers: Containers, container: Container, live: Live) -> None:
    """Wait for the end of the present run and act on it."""
    process = live.process
    assert process is not None
    try:
        exit_ = await process.wait()
    except errors.SystemFailure as lost:
        # The monitor was killed, and its container with it.
        container.state.error = lost.message
        exit_ = Exit(code=137, oom_killed=False, finished_ns=time.time_ns())
    async with live.lock:
        if live.process is process:
            await ended(containers, container, live, exit_)


async def ended(containers: Containers, container: Container, live: Live, exit_: Exit) -> None:
    """The process has ended: release what it held, record it, tell everybody, perhaps start it again.

    The caller holds the container's lock.
    """
    state = container.state
    health.stop(live)
    health.mark_stopped(container)
    live.process = None
    await launching.release(containers, container, live)
    state.status = states.after("exit", state.status)
    state.pid, state.exit_code, state.oom_killed = 0, exit_.code, exit_.oom_killed
    state.finished_ns = exit_.finished_ns
    ours = not live.restarts and not (containers.closing and live.stopping)
    wait_before = restart.decide(container, live, ours=ours)
    if wait_before is not None:
        state.status = "restarting"
        container.restart_count += 1
    containers.registry.save(container)
    live.run_over.set()
    if exit_.oom_killed:
        containers.publish(container, "oom")
    if live.stopping:
        # Docker tells "stop" before "die".
        live.stopping = False
        containers.publish(container, "stop")
    duration = max(0, exit_.finished_ns - state.started_ns) // 1_000_000_000
    containers.publish(container, "die", execDuration=str(duration), exitCode=str(exit_.code))
    waits.tell_exit(live, exit_.code, final=wait_before is None)
    if wait_before is not None and not (containers.recovering or containers.closing):
        live.restarter = asyncio.create_task(_restart_later(containers, container, live, wait_before))
    elif container.host.auto_remove and not live.removing and not live.restarts:
        live.removing = True
        await _remove_ended(containers, container, live)
    if container.id in containers.registry:  # else the clean-up queue has it
        # Nobody waits for this; a new run does, by the lock.
        await launching.drop_cgroup(live)


async def _restart_later(containers: Containers, container: Container, live: Live, delay: float) -> None:
    await asyncio.sleep(delay)
    while _donor_comes_back(containers, container):
        await asyncio.sleep(_DONOR_LOOK)
    async with live.lock:
        if container.state.status != "restarting" or live.removing or containers.closing:
            return
        live.restarter = None
        try:
            await run(containers, container, live)
        except errors.SampanError as problem:
            _log.warning("restart of container %s failed: %s", container.short_id, problem.message)


def _donor_comes_back(containers: Containers, container: Container) -> bool:
    """Whether a container whose namespace is to be joined is about to run again: in vain before."""
    host = container.host
    for mode in (host.network_mode, host.pid_mode, host.ipc_mode):
        if mode.startswith("container:"):
            with contextlib.suppress(errors.SampanError):
                state = containers.get(mode.removeprefix("container:")).state
                if state.status == "restarting" or state.starting:
                    return True
    return False


def cancel_restart(live: Live) -> None:
    """Forget a restart that is due."""
    if live.restarter is not None:
        live.restarter.cancel()
        live.restarter = None


async def _auto_remove(containers: Containers, container: Container) -> None:
    live = containers.live(container)
    async with live.lock:
        await _remove_ended(containers, container, live)


async def _remove_ended(containers: Containers, container: Container, live: Live) -> None:
    from sampan.engine.containers import remove

    try:
        await remove.remove_stopped(containers, container, live, volumes=True)
    except errors.SampanError as problem:
        _log.warning("removing container %s after its end failed: %s", container.short_id, problem.message)


async def kill(containers: Containers, reference: str, signal_text: str = "") -> None:
    """Send a signal (KILL when none is named). Conflict when the container doesn't run."""
    try:
        number = signals.parse(signal_text or "KILL")
        container = containers.get(reference)
        signals.check_supported(number)
        live = containers.live(container)
        if container.state.status != "restarting":
            check_running(container)
    except errors.SampanError as problem:
        problem.message = f"cannot kill container: {reference}: {problem.message}"
        raise
    if container.state.status == "restarting":
        if await _stop_restarting(containers, container, live):
            return
        check_running(container)
    if number == 9:
        container.state.stopped_by_user = True
        await kill_and_wait(containers, container, live)
        return
    if number == stop_signal(container, ""):
        container.state.stopped_by_user = True
        containers.registry.save(container)
    send(containers, container, live, number)


def check_running(container: Container) -> None:
    """Conflict in Docker's words when no process lives."""
    if not container.running:
        raise errors.Conflict(f"container {container.id} is not running")


def send(containers: Containers, container: Container, live: Live, number: int) -> None:
    """Send a signal to the first process and publish it."""
    containers.publish(container, "kill", signal=str(number))
    if live.process is not None:
        with contextlib.suppress(ProcessLookupError):
            live.process.signal(number)


async def kill_and_wait(containers: Containers, container: Container, live: Live) -> None:
    """SIGKILL; return when the end is recorded. SystemFailure when the kernel doesn't let it die."""
    containers.publish(container, "kill", signal="9")
    await destroy_and_wait(container, live)


async def destroy_and_wait(container: Container, live: Live) -> None:
    """SIGKILL without an event, thawing a paused container on the way."""
    process, over = live.process, live.run_over
    if process is None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.signal(9)
    if container.state.status == "paused" and live.cgroup is not None:
        await asyncio.to_thread(live.cgroup.thaw)
    # A monitor that is stopped has the end of a killed process still to tell.
    waking = asyncio.get_running_loop().call_later(_SILENCE, process.wake_monitor)
    try:
        await asyncio.wait_for(over.wait(), _KILL_PATIENCE)
    except TimeoutError:
        raise errors.SystemFailure(
            f"tried to kill container, but did not receive an exit event: {container.id}",
            hint="A process in uninterruptible sleep can't be killed (see /proc/<pid>/stack).",
        ) from None
    finally:
        waking.cancel()


def stop_signal(container: Container, asked: str) -> int:
    """The signal that ends this container: the request's, the container's, else TERM."""
    return signals.parse(asked or container.config.stop_signal or "TERM")


def stop_timeout(container: Container, asked: int | None) -> int:
    """Seconds of grace: the request's, the container's, else ten; negative means for ever."""
    if asked is not None:
        return asked
    if container.config.stop_timeout is not None:
        return container.config.stop_timeout
    return DEFAULT_STOP_TIMEOUT


async def stop(
    containers: Containers, reference: str, *, timeout: int | None = None, signal: str = ""
) -> None:
    """Stop a container: its signal, ``timeout`` s of grace, then KILL. NotModified when it is stopped."""
    container = containers.get(reference)
    live = containers.live(container)
    if container.state.status == "restarting" and await _stop_restarting(containers, container, live):
        return
    if not container.running:
        raise errors.NotModified(f"container {container.id} is already stopped")
    try:
        await stop_running(containers, container, live, timeout=timeout, signal=signal)
    except errors.InvalidParameter as problem:
        raise errors.SystemFailure(f"cannot stop container: {reference}: {problem.message}") from None


async def _stop_restarting(containers: Containers, container: Container, live: Live) -> bool:
    """Call off the restart that is due; False when it came first, and there is something to stop."""
    async with live.lock:
        if container.state.status != "restarting":
            return False
        container.state.stopped_by_user = True
        give_up(containers, container, live)
        containers.publish(container, "stop")
        return True


def give_up(containers: Containers, container: Container, live: Live) -> None:
    """The restart that is due won't come; the caller holds the container's lock."""
    cancel_restart(live)
    container.state.status = "exited"
    containers.registry.save(container)
    waits.tell_exit(live, container.state.exit_code, final=True)


async def stop_running(
    containers: Containers,
    container: Container,
    live: Live,
    *,
    timeout: int | None = None,
    signal: str = "",
    by_user: bool = True,
) -> None:
    """Stop what runs and return when its end is recorded; ``by_user`` keeps the restart policy out.

    A container whose own stop signal is none of Linux's (``--stop-signal 99``) is killed, as by dockerd.
    """
    number = stop_signal(container, signal)
    if signal:
        signals.check_supported(number)
    grace = stop_timeout(container, timeout)
    if by_user:
        container.state.stopped_by_user = True
        containers.registry.save(container)
    over, live.stopping = live.run_over, True
    if not signals.supported(number):
        await kill_and_wait(containers, container, live)
        return
    send(containers, container, live, number)
    if container.state.status == "paused" and live.cgroup is not None:
        # A frozen process takes its signal only when thawed; Docker thaws it, too.
        await asyncio.to_thread(live.cgroup.thaw)
    try:
        await asyncio.wait_for(over.wait(), None if grace < 0 else grace)
    except TimeoutError:
        await kill_and_wait(containers, container, live)


async def restart_container(
    containers: Containers,
    reference: str,
    *,
    timeout: int | None = None,
    signal: str = "",
    counted: bool = False,
) -> None:
    """Stop when it runs, then start; the restart policy takes no part, unless this is its work: ``counted``.

    On return it runs by a start that began after the call: of several at once those that come while the
    container is stopped share one, those that come while it is started do it again.
    NotFound; SystemFailure "Cannot restart container …" for all else that goes wrong, as dockerd has it.
    """
    container = containers.get(reference)
    try:
        await _restart(containers, container, timeout, signal, counted=counted)
    except errors.SampanError as problem:
        words = f"Cannot restart container {reference}: {problem.message}"
        raise errors.SystemFailure(words, hint=problem.hint) from problem


async def _restart(
    containers: Containers, container: Container, timeout: int | None, signal: str, *, counted: bool
) -> None:
    live = containers.live(container)
    before = live.launches
    while True:
        if container.running:
            await _stop_to_restart(containers, container, live, timeout, signal)
        async with live.lock:
            cancel_restart(live)
            if container.state.status == "restarting":
                container.state.status = "exited"
            if not container.running:
                check_startable(container, live)
                count = container.restart_count
                _begin_anew(container, live)
                container.restart_count = count + 1 if counted else 0
                await run(containers, container, live)
                break
            if live.launches > before:
                break
    containers.publish(container, "restart")


async def _stop_to_restart(
    containers: Containers, container: Container, live: Live, timeout: int | None, signal: str
) -> None:
    """Stop what runs; neither ``--rm`` nor the restart policy acts on that.

    Nobody wants it stopped: should the engine die now, the policy brings it back with the next one.
    """
    live.restarts += 1
    try:
        await stop_running(containers, container, live, timeout=timeout, signal=signal, by_user=False)
    finally:
        live.restarts -= 1


async def stop_for_shutdown(containers: Containers, container: Container, timeout: int) -> None:
    """Stop a container because the engine ends: for its restart policy nobody stopped it.

    It has its own stop timeout, where it says one; else ten seconds, or ``timeout`` if that is less (and no -1).
    """
    grace = stop_timeout(container, None)
    if container.config.stop_timeout is None and timeout >= 0:
        grace = min(grace, timeout)
    await stop_running(containers, container, containers.live(container), timeout=grace, by_user=False)


async def resize(containers: Containers, reference: str, rows: int, columns: int) -> None:
    """Set the terminal's size; one without a terminal says that it was, as with Docker. Conflict."""
    container = containers.get(reference)
    check_running(container)
    process = containers.live(container).process
    if process is not None:
        await process.resize(rows, columns)
    containers.publish(container, "resize", height=str(rows), width=str(columns))


async def pause(containers: Containers, reference: str) -> None:
    """Freeze all processes. Conflict when it doesn't run or is frozen already."""
    container = containers.get(reference)
    live = containers.live(container)
    async with live.lock:
        check_running(container)
        if container.state.status == "paused":
            raise errors.Conflict(f"container {container.id} is already paused")
        assert live.cgroup is not None
        await asyncio.to_thread(live.cgroup.freeze)
        container.state.status = states.after("pause", container.state.status)
        containers.registry.save(container)
    containers.publish(container, "pause")


async def unpause(containers: Containers, reference: str) -> None:
    """Let frozen processes go on. SystemFailure (500, as dockerd has it) when it isn't paused."""
    container = containers.get(reference)
    live = containers.live(container)
    async with live.lock:
        if container.state.status != "paused" or live.cgroup is None:
            raise errors.SystemFailure(f"Container {container.id} is not paused")
        await asyncio.to_thread(live.cgroup.thaw)
        container.state.status = states.after("unpause", container.state.status)
        containers.registry.save(container)
    containers.publish(container, "unpause")
