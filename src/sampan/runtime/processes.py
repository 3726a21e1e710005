"""The engine's side of one running process: what its monitor tells, and what is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan.errors import Conflict, StartFailure, SystemFailure
from sampan.runtime import execs, handover, silence, wire
from sampan.runtime.failures import start_failure

_LAST_WORDS = 0.5  # seconds that a dying process has to say why
_SYNC_PATIENCE = 2.0  # seconds for a monitor to write what it has
_ABORT_PATIENCE = 5.0  # seconds for a monitor to kill its process


@dataclass(frozen=True)
class Exit:
    """How a process ended: its code (128 + n after signal n), out of memory or not, wall clock in ns."""

    code: int
    oom_killed: bool
    finished_ns: int

    @classmethod
    def load(cls, state_dir: Path) -> Exit | None:
        """What the monitor recorded in ``state_dir``; None when it has recorded nothing (it was killed)."""
        try:
            record = json.loads((state_dir / handover.EXIT_RECORD).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return cls(record["code"], record["oom_killed"], record["finished_ns"])


@dataclass(frozen=True)
class AttachEnd:
    """A connected stream socket for the monitor to serve; it belongs to the supervisor once handed over."""

    sock: socket.socket
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True

    @classmethod
    def pair(
        cls, *, stdin: bool = False, stdout: bool = True, stderr: bool = True
    ) -> tuple[AttachEnd, socket.socket]:
        """An end to hand to the monitor, and ours: it carries Docker's wire format out and raw stdin in."""
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        return cls(theirs, stdin, stdout, stderr), ours


class MonitorLost(SystemFailure):
    """A monitor ended without a word; its container was ended with it."""


class NotDirectly(SystemFailure):
    """A container's monitor could not start an exec; a monitor of its own says why, or can."""


class Process:
    """A container's or exec's process, known through its monitor."""

    def __init__(self, kind: str, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.kind = kind
        self.pid = 0
        self.monitor_pid = 0
        self.started_ns = 0
        # Adopted after "go" was said, perhaps before the program was executed.
        self.going = False
        # Its monitor starts execs too; it is one of those, below its container's monitor.
        self.serves_execs = self.guest = False
        self._loop = loop
        self._control = control
        self._pidfd = -1
        self._open = True
        self._hello: asyncio.Future[None] = loop.create_future()
        self._created: asyncio.Future[None] = loop.create_future()
        self._started: asyncio.Future[None] = loop.create_future()
        self._exit: asyncio.Future[Exit] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._syncs: dict[int, asyncio.Future[None]] = {}
        control.setblocking(False)
        loop.add_reader(control.fileno(), self._on_readable)

    # --- what callers do ---------------------------------------------------------------------------------

    async def answers(self) -> bool:
        """Return when the monitor has told about the process; False when there is none any more."""
        try:
            await asyncio.shield(self._created)
        except (MonitorLost, StartFailure):
            return False
        return True

    def suppose(self, pid: int) -> None:
        """Take ``pid`` for the process while the monitor is silent. OSError when there is no such process."""
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid

    async def proceed(self) -> None:
        """Let the waiting process execute its program; returns when it has. Raises StartFailure."""
        if not self._started.done():
            self._tell(("go",))
        await self._said(self._started)

    async def raise_failure(self) -> None:
        """Raise the StartFailure of a process that has ended before its program; nothing if it hasn't."""
        ends: list[asyncio.Future[Any]] = [self._started, self._closed]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED, timeout=_LAST_WORDS)
        if self._started.done():
            self._started.result()

    async def executed(self) -> None:
        """Return when the program of a process that needs no "go" is executed. Raises StartFailure."""
        try:
            await self._said(self._started)
        except asyncio.CancelledError:
            with contextlib.suppress(OSError):
                self.send(("abort",))
            self.forget()
            raise

    async def created(self) -> None:
        """Return when the process and its namespaces are there. Raises StartFailure."""
        await self._said(self._created)

    async def _said(self, word: asyncio.Future[None]) -> None:
        """Wait for a word of the monitor; SystemFailure when it is silent for too long, it is ended then."""
        if not await silence.answered(word, self._wake):
            self._kill_monitor()
            raise silence.too_long(f"the container's monitor (process {self.monitor_pid})")
        word.result()

    def _wake(self) -> None:
        """Before the program is executed: let go on what a signal has stopped."""
        with contextlib.suppress(OSError):
            if self._open:
                silence.wake(self.monitor_pid)
            if self._pidfd >= 0 and silence.stopped(self.pid):
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)

    def _kill_monitor(self) -> None:
        with contextlib.suppress(OSError):
            if self.guest:  # with the monitor the container would go
                self._wake()
                self.signal(signal.SIGKILL)
            elif self._open and self.monitor_pid:
                os.kill(self.monitor_pid, signal.SIGKILL)

    async def abort(self) -> None:
        """Kill the process; returns when it is gone. Nothing happens if it is gone already."""
        with contextlib.suppress(OSError):
            self.send(("abort",))
        ends: list[asyncio.Future[Any]] = [self._exit, self._closed]
        if not (await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED, timeout=_ABORT_PATIENCE))[0]:
            self._kill_monitor()  # a stopped one doesn't hear; its child ends with it
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    async def wait(self) -> Exit:
        """Its end; by then the log is complete. Raises MonitorLost when the monitor was killed."""
        return await asyncio.shield(self._exit)

    @property
    def exit(self) -> Exit | None:
        """How it ended, None while it runs."""
        if self._exit.done() and not self._exit.cancelled() and self._exit.exception() is None:
            return self._exit.result()
        return None

    @property
    def pidfd(self) -> int:
        """The pidfd of the process (its owner is this object), -1 before it exists."""
        return self._pidfd

    def signal(self, number: int) -> None:
        """Send a signal. Raises ProcessLookupError when the process has ended."""
        if self._pidfd < 0:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        signal.pidfd_send_signal(self._pidfd, number)

    def wake_monitor(self) -> None:
        """Let a monitor go on that a signal has stopped; nothing for one that runs."""
        with contextlib.suppress(OSError, IndexError):
            # One that has been silent since it was connected to is known as the process's parent only.
            monitor = self.monitor_pid or silence.parent(self.pid)
            if self._open:
                os.kill(monitor, signal.SIGCONT)

    async def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size in characters; without a terminal nothing happens."""
        self._tell(("resize", rows, columns))

    async def close_stdin(self) -> None:
        """End of file on the process's stdin (not with a terminal)."""
        self._tell(("close_stdin",))

    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> socket.socket:
        """A new attach client's socket, from now on. Raises Conflict when the process has ended."""
        end, ours = AttachEnd.pair(stdin=stdin, stdout=stdout, stderr=stderr)
        try:
            self.hand_over(end)
        except BaseException:
            ours.close()
            raise
        return ours

    def hand_over(self, end: AttachEnd) -> None:
        """Let the monitor serve ``end``'s socket as an attach client. Raises Conflict when it has ended."""
        try:
            self._tell(("attach", end.stdin, end.stdout, end.stderr), (end.sock.fileno(),))
        finally:
            end.sock.close()

    async def sync_log(self) -> None:
        """Returns when all output that the monitor has read is in the log file, or the monitor is silent.

        One that has gone has completed the log.
        """
        if self._exit.done():
            return
        token = len(self._syncs)
        while token in self._syncs:
            token += 1
        self._syncs[token] = self._loop.create_future()
        try:
            with contextlib.suppress(OSError):
                self.send(("sync", token))
                await asyncio.wait([self._syncs[token]], timeout=_SYNC_PATIENCE)
        finally:
            self._syncs.pop(token, None)

    def forget(self) -> None:
        """Drop the connection to the monitor, which goes on."""
        self._close()

    # --- the monitor's messages ----------------------------------------------------------------------------

    def _tell(self, message: wire.Message, fds: Sequence[int] = ()) -> None:
        try:
            self.send(message, fds)
        except OSError as error:
            raise Conflict("the process has ended") from error

    def send(self, message: wire.Message, fds: Sequence[int] = ()) -> None:
        """Send a message of the monitor's protocol. OSError when it is gone or can't take it now."""
        if not self._open:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        wire.send(self._control, message, fds)

    def _on_readable(self) -> None:
        while self._open:
            try:
                message, fds = wire.receive(self._control)
            except BlockingIOError:
                return
            except OSError:
                message, fds = (), []
            if not message:
                self._end_orphan()
                self._close()
                return
            self._on_message(message, fds)

    def _on_message(self, message: wire.Message, fds: list[int]) -> None:
        match message:
            case ("hello", monitor_pid, pid, started):
                self.monitor_pid = monitor_pid
                _settle(self._hello)
                if pid:
                    self._learn(pid, started, fds)
            case ("going",):
                self.going = True
            case ("serves", "exec"):
                self.serves_execs = True
            case ("created", pid):
                self._learn(pid, 0, fds)
            case ("started", started):
                self.started_ns = started
                _settle(self._started)
            case ("failed", execs.DIRECTLY, *_):
                self._fail(NotDirectly("the exec could not be started by its container's monitor"))
            case ("failed", step, number, detail, text):
                self._fail(start_failure(self.kind, step, number, detail, text))
            case ("exit", code, oom_killed, finished):
                if not self._exit.done():
                    self._exit.set_result(Exit(code, oom_killed, finished))
            case ("synced", token):
                _settle(self._syncs.get(token))

    def _learn(self, pid: int, started: int, fds: list[int]) -> None:
        self.pid = pid
        if fds and self._pidfd < 0:
            self._pidfd = fds.pop()
        for fd in fds:
            os.close(fd)
        if started:
            self.started_ns = started
            _settle(self._started)
        _settle(self._created)

    def _fail(self, failure: Exception) -> None:
        for future in (self._hello, self._created, self._started, self._exit):
            if not future.done():
                future.set_exception(failure)
                future.exception()  # whoever waits gets it; that nobody does is no fault

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        lost = MonitorLost(
            "the container's monitor ended unexpectedly", hint="Its container was ended with it."
        )
        self._fail(lost)
        for future in self._syncs.values():
            _settle(future)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        _settle(self._closed)

    def _end_orphan(self) -> None:
        """The monitor's end has killed its child, unless that has changed credentials since: make sure."""
        if not self._exit.done() and self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


def _settle(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
