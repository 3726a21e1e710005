"""``docker exec``: more processes in a running container.

An exec lives in memory, as with Docker: it is known until a while after its end, or until its container
stops; an engine that restarts has forgotten it, its process runs on in the container.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sampan import errors
from sampan.engine.containers import attach, execplan
from sampan.engine.containers.context import Containers
from sampan.engine.containers.lifecycle import check_running
from sampan.engine.containers.record import Container
from sampan.engine.containers.registry import new_id
from sampan.runtime.config import ExecConfig, ExecStart
from sampan.runtime.supervisor import Process

FORGET_AFTER = 300.0
_FRESH = 1.0  # seconds for which the user is who it was found to be

Prepared = tuple[dict[str, Any], bytes | None]
"""A plan, and the program for it if there is one."""


@dataclass(eq=False)
class Exec:
    """One exec instance. ``exit_code`` is None until it has ended."""

    id: str
    container_id: str
    config: ExecConfig
    detach_keys: bytes = b""
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    pid: int = 0
    ended_at: float = 0.0
    process: Process | None = None
    # What a start that comes soon needs.
    preparing: asyncio.Task[Prepared | None] | None = None
    # A health check: with the engine that waits for it, it ends.
    bound: bool = False
    # Set when the program executes or its start has failed: a resize that came first waits for it.
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def command_line(self) -> str:
        """The command as it stands in events: program, a blank, the arguments."""
        words = self.config.cmd or [""]
        return f"{words[0]} {' '.join(words[1:])}"


class Execs:
    """The exec instances of an engine."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._execs: dict[str, Exec] = {}
        self._running: dict[str, Exec] = {}
        self._ended: deque[Exec] = deque()  # in the order of their ends
        self._tasks: set[asyncio.Task[Any]] = set()
        containers.exec_ids, containers.run_probe = self.ids, self.run_probe

    def ids(self, container: Container) -> list[str]:
        """Instances that run in the container."""
        return [e.id for e in self._running.values() if e.container_id == container.id]

    def get(self, exec_id: str) -> Exec:
        """NotFound "No such exec instance: x"."""
        found = self._execs.get(exec_id)
        if found is None or found.container_id not in self._containers.registry:
            raise errors.NotFound(f"No such exec instance: {exec_id}")
        return found

    def create(self, reference: str, config: ExecConfig, *, bound: bool = False) -> Exec:
        """Prepare an exec. Conflict unless the container runs; InvalidParameter without a command.

        One that is ``bound`` ends with its engine.
        """
        container = self._containers.get(reference)
        if not config.cmd:
            raise errors.InvalidParameter("No exec command specified")
        self._check_state(container, reference)
        keys = attach.parse_keys(config.detach_keys or attach.DEFAULT_KEYS)
        self._forget_old()
        exec_ = Exec(new_id(), container.id, config, keys if config.tty else b"", bound=bound)
        execplan.check(self._containers, container, config)
        self._execs[exec_.id] = exec_
        self._prepare_soon(exec_, container)
        self._containers.publish(container, f"exec_create: {exec_.command_line()}", execID=exec_.id)
        return exec_

    @staticmethod
    def _check_state(container: Container, reference: str) -> None:
        if container.state.status == "restarting":
            raise errors.Conflict(
                f"Container {container.id} is restarting, wait until the container is running"
            )
        check_running(container)
        if container.state.status == "paused":
            raise errors.Conflict(f"Container {reference} is paused, unpause the container before exec")

    def _forget_old(self) -> None:
        limit = time.monotonic() - FORGET_AFTER
        while self._ended and self._ended[0].ended_at < limit:
            del self._execs[self._ended.popleft().id]

    def check_start(self, exec_id: str) -> tuple[Exec, Container]:
        """The instance and its container, both fit for a start."""
        exec_ = self.get(exec_id)
        container = self._containers.get(exec_.container_id)
        self._check_state(container, container.name)
        return exec_, container

    async def start(self, exec_id: str, request: ExecStart, client: attach.Connection | None = None) -> Exec:
        """Run it. With a ``client`` return when its streams have ended, without one when it executes.

        StartFailure when there is no such program; Conflict when it has run already.
        """
        exec_, container = self.check_start(exec_id)
        if exec_.started:
            raise errors.Conflict(f"exec command {exec_.id} has already run")
        exec_.started = True
        options = self._streams(exec_, client)
        ends: list[attach.AttachEnd] = []
        ours = None
        if options is not None:
            end, ours = attach.AttachEnd.pair(
                stdin=options.stdin, stdout=options.stdout, stderr=options.stderr
            )
            ends.append(end)
        self._containers.publish(container, f"exec_start: {exec_.command_line()}", execID=exec_.id)
        try:
            await self._run(exec_, container, request, ends)
        except BaseException:
            if ours is not None:
                ours.close()
            raise
        if ours is not None and client is not None and options is not None:
            ended = await attach.pump(ours, client, options)
            if ended == "keys":
                self._containers.publish(container, "exec_detach", execID=exec_.id)
            elif ended == "output":
                # The output has ended; the exit code is asked for next.
                await self._wait_for_end(exec_)
        return exec_

    @staticmethod
    async def _wait_for_end(exec_: Exec) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(exec_.over.wait(), 2)

    @staticmethod
    def _streams(exec_: Exec, client: attach.Connection | None) -> attach.AttachOptions | None:
        if client is None:
            return None
        config = exec_.config
        return attach.AttachOptions(
            config.attach_stdin, config.attach_stdout, config.attach_stderr, config.tty, exec_.detach_keys
        )

    async def _run(
        self, exec_: Exec, container: Container, request: ExecStart, ends: list[attach.AttachEnd]
    ) -> None:
        live = self._containers.live(container)
        if live.process is None:
            attach.close_ends(ends)
            raise errors.Conflict(f"container {container.id} is not running")
        size = request.console_size or exec_.config.console_size
        try:
            plan = execplan.build(self._containers, container, live, exec_, size, attached=bool(ends))
            program = await self._program(exec_, container, plan)
            process = await self._containers.supervisor.exec(live.process, plan, ends, program)
        except errors.SampanError as problem:
            exec_.exit_code = problem.exit_code if isinstance(problem, errors.StartFailure) else 126
            self._note_end(exec_)
            exec_.settled.set()
            exec_.over.set()
            raise
        exec_.process, exec_.pid, exec_.running = process, process.pid, True
        self._running[exec_.id] = exec_
        exec_.settled.set()
        task = asyncio.create_task(self._watch(exec_, container, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, exec_: Exec, container: Container, process: Process) -> None:
        try:
            exec_.exit_code = (await process.wait()).code
        except errors.SampanError:
            exec_.exit_code = 137
        exec_.running, exec_.process = False, None
        del self._running[exec_.id]
        self._note_end(exec_)
        self._containers.publish(container, "exec_die", execID=exec_.id, exitCode=str(exec_.exit_code))
        exec_.over.set()

    def _note_end(self, exec_: Exec) -> None:
        exec_.ended_at = time.monotonic()
        self._ended.append(exec_)

    def _prepare_soon(self, exec_: Exec, container: Container) -> None:
        """While the client takes note that the exec is made: how it would be started if it were now."""
        task = exec_.preparing = asyncio.create_task(self._prepare(exec_, container))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        asyncio.get_running_loop().call_later(_FRESH, setattr, exec_, "preparing", None)

    async def _prepare(self, exec_: Exec, container: Container) -> Prepared | None:
        live, config = self._containers.live(container), exec_.config
        attached = bool(config.attach_stdin or config.attach_stdout or config.attach_stderr)
        try:
            plan = execplan.build(
                self._containers, container, live, exec_, config.console_size, attached=attached
            )
            return plan, await execplan.program(container, plan)
        except (errors.SampanError, OSError):
            return None  # the start will say it

    async def _program(self, exec_: Exec, container: Container, plan: dict[str, Any]) -> bytes | None:
        preparing, exec_.preparing = exec_.preparing, None
        prepared = await asyncio.shield(preparing) if preparing is not None else None
        if prepared is not None and prepared[0] == plan:
            return prepared[1]
        return await execplan.program(container, plan)

    async def resize(self, exec_id: str, rows: int, columns: int) -> None:
        """Set the terminal's size; waits for a start that is under way. InvalidParameter if it failed."""
        exec_ = self.get(exec_id)
        if exec_.started:
            await exec_.settled.wait()
        if exec_.process is None:
            if exec_.started and exec_.pid:
                raise errors.NotFound(f"NotFound: process does not exist {exec_.id}: not found")
            raise errors.InvalidParameter("exec process is not started")
        await exec_.process.resize(rows, columns)

    def document(self, exec_id: str) -> dict[str, Any]:
        """``GET /exec/{id}/json``."""
        exec_ = self.get(exec_id)
        config = exec_.config
        words = config.cmd or [""]
        process: dict[str, Any] = {
            "tty": config.tty,
            "entrypoint": words[0],
            "arguments": words[1:],
            "privileged": config.privileged,
        }
        if config.user:
            process["user"] = config.user
        return {
            "ID": exec_.id,
            "Running": exec_.running,
            "ExitCode": exec_.exit_code,
            "ProcessConfig": process,
            "OpenStdin": config.attach_stdin,
            "OpenStderr": config.attach_stderr,
            "OpenStdout": config.attach_stdout,
            "CanRemove": False,
            "ContainerID": exec_.container_id,
            "DetachKeys": exec_.detach_keys.decode("latin-1") if config.detach_keys else "",
            "Pid": exec_.pid,
        }

    async def close(self) -> None:
        """Stop watching; the processes run on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def run_probe(
        self, container: Container, words: list[str], collect: Callable[[int, bytes], None], timeout: float
    ) -> int:
        """Run a health check to its end: its exit code. TimeoutError after ``timeout`` s: killed."""
        config = ExecConfig(cmd=words, attach_stdout=True, attach_stderr=True)
        exec_ = self.create(container.id, config, bound=True)
        client = Collector(collect)
        start = asyncio.ensure_future(self.start(exec_.id, ExecStart(), client))
        try:
            await asyncio.wait_for(asyncio.shield(start), timeout)
        except TimeoutError:
            if exec_.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    exec_.process.signal(9)
            await asyncio.wait({start}, timeout=5)
            raise
        finally:
            start.cancel()
            with contextlib.suppress(BaseException):
                await start
        return exec_.exit_code if exec_.exit_code is not None else -1


class Collector:
    """A client that hands the output to a function and never sends or leaves."""

    def __init__(self, collect: Callable[[int, bytes], None]) -> None:
        self._collect = collect
        self._rest = b""
        self.gone = asyncio.Event()

    async def read(self) -> bytes:
        """No input."""
        return b""

    async def write(self, data: bytes) -> None:
        """Take frames apart."""
        data = self._rest + data
        while len(data) >= 8:
            length = int.from_bytes(data[4:8], "big")
            if len(data) < 8 + length:
                break
            self._collect(data[0], data[8 : 8 + length])
            data = data[8 + length :]
        self._rest = data
