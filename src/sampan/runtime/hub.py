"""Where a container's output goes and its input comes from: the log, attach clients, stdin.

Output is read whenever there is some, whatever clients do; a client that reads slowly has a backlog, and
only when that exceeds its limit is the container made to wait. Input is read from clients only as fast as
the container takes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time

from sampan.kernel import memory
from sampan.runtime import logwriter, streams
from sampan.runtime.loop import GONE, READABLE, WRITABLE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Wants = tuple[bool, bool, bool]

_LARGE_PIPE = 1 << 20  # bytes; the most that needs no privilege
_LARGE_CHUNK = 1 << 17  # twice that makes records that are out of the processor's cache
_KEPT = 4 << 20
_REST = 5.0  # seconds without large pieces after which memory is given back
_IDLE_FLUSH = 1.0  # seconds after which an unfinished line is logged as it is
_LEFT_GRACE = 0.1  # seconds to find out whether a client left or the engine died


def _yes() -> bool:
    return True


def _nothing() -> None:
    return None


class Hub:
    """Outputs, log, clients and stdin of one process."""

    def __init__(self, loop: Loop, plan: dict[str, Any]) -> None:
        self._log: logwriter.Log | None = None  # opened with the first output
        self.engine_connected: Callable[[], bool] = _yes
        self.on_silent: Callable[[], None] = _nothing  # the last output has ended
        self.on_unattached: Callable[[], None] = _nothing  # after the end: a client has got everything
        self._loop = loop
        self._log_options = plan.get("log")
        self._tty: bool = plan["tty"]
        self._stdin: bool = plan["stdin"]
        # With a terminal a client's end is not the container's.
        self._stdin_once = plan.get("stdin_once", False) and not self._tty
        self._spill: str = plan.get("state_dir") or plan.get("run_dir") or "/tmp"
        self._chunk = streams.CHUNK
        self._enlarged: set[int] = set()
        self._outputs: dict[int, int] = {}  # descriptor -> stream number
        self._clients: dict[int, streams.Client] = {}
        self._input: streams.Input | None = None
        self._master = -1
        self._held = False  # outputs are not read: a client's backlog is too long
        self._ended = False

    # --- output -----------------------------------------------------------------------------------------

    @property
    def speaking(self) -> bool:
        """Whether an output is still open."""
        return bool(self._outputs)

    @property
    def held(self) -> bool:
        """Whether a client makes the container wait."""
        return self._held

    @property
    def attached(self) -> bool:
        """Whether clients are there."""
        return bool(self._clients)

    def add_output(self, fd: int, stream: int) -> None:
        """Read stdout (1) or stderr (2) from pipe ``fd``."""
        self._outputs[fd] = stream
        self._loop.watch(fd, READABLE, lambda _events: self._on_output(fd, stream))

    def use_terminal(self, master: int) -> None:
        """Output, and input if there is any, by way of a pty's non-blocking master."""
        self._master = master
        self.add_output(master, 1)
        if self._stdin:
            self._input = streams.Input(master, lambda: None)

    @property
    def terminal(self) -> int:
        """The pty's master, -1 when there is none (any more)."""
        return self._master

    def end(self, now: int) -> None:
        """Complete the log; clients go when they have got everything."""
        self._ended = True
        self._loop.cancel(self.flush_log)
        self._loop.cancel(self._on_left)
        if self._log is not None:
            self._log.close(now)
        self._log = logwriter.NoLog()
        if self._input is not None:
            self._input.close()
        self.drop_clients(only_idle=True)

    def part(self) -> None:
        """Nothing will happen any more. What refers to each other would stay: a monitor collects no garbage."""
        self.engine_connected = _yes
        self.on_silent = self.on_unattached = _nothing
        self._input = None

    def drop_clients(self, *, only_idle: bool) -> None:
        """End the connections of clients, with ``only_idle`` of those that have got everything."""
        for client in list(self._clients.values()):
            if not only_idle or not client.backlog:
                self._drop(client)

    def _on_output(self, fd: int, stream: int) -> None:
        try:
            data = os.read(fd, self._chunk)
        except BlockingIOError:
            self._on_input_ready(fd)
            return
        except OSError as error:
            if error.errno != errno.EIO:  # EIO is a terminal's end: no process has it open
                raise
            data = b""
        if not data:
            self._end_output(fd)
            return
        if len(data) >= streams.CHUNK:
            self._hurry(fd)
        self._write_log(stream, data)
        for client in list(self._clients.values()):
            self._feed(client, stream, data)
        if fd == self._master and self._input is not None and self._input.full:
            self._on_input_ready(fd)

    def _hurry(self, fd: int) -> None:
        """There is much to read from ``fd``: in larger pieces, from a larger pipe, with memory at hand."""
        self._loop.after(_REST, self._rest)
        if fd in self._enlarged:
            return
        self._enlarged.add(fd)
        self._chunk = _LARGE_CHUNK
        memory.keep(_KEPT)
        try:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
        except OSError:
            return  # a terminal, or the user's pipe quota is used up

    def _rest(self) -> None:
        self._chunk = streams.CHUNK
        self._enlarged.clear()
        memory.trim()

    def _write_log(self, stream: int, data: bytes) -> None:
        if self._log is None:
            self._log = self._open_log()
        self._log.write(stream, data, time.time_ns())
        if self._log.pending():
            self._loop.after(_IDLE_FLUSH, self.flush_log)
        else:
            self._loop.cancel(self.flush_log)

    def _open_log(self) -> logwriter.Log:
        """The first process has opened it before; what has gone wrong since must not end the container."""
        try:
            return logwriter.open_log(self._log_options)
        except OSError:
            return logwriter.NoLog()

    def flush_log(self) -> None:
        """Write unfinished lines to the log."""
        if self._log is not None:
            self._log.flush(time.time_ns())

    def _end_output(self, fd: int) -> None:
        del self._outputs[fd]
        if fd == self._master:
            self._master = -1
            if self._input is not None:
                self._input.fd = -1
        self._loop.close(fd)
        if not self._outputs:
            self.on_silent()

    def _feed(self, client: streams.Client, stream: int, data: bytes) -> None:
        try:
            client.feed(stream, data)
        except OSError:
            self._hold()  # no room to spill: the container waits, as it would for a full pipe
        if len(client.backlog) > streams.LIMIT:
            self._hold()
        self._follow(client)

    def _hold(self) -> None:
        self._held = True
        for fd in self._outputs:
            self._loop.change(fd, 0)

    def _release(self) -> None:
        if self._held and all(len(client.backlog) < streams.LIMIT for client in self._clients.values()):
            self._held = False
            for fd in self._outputs:
                self._loop.change(fd, READABLE)

    # --- clients ----------------------------------------------------------------------------------------

    def add_client(self, fd: int, wants: Wants) -> None:
        """Serve the stream socket ``fd``, which wants (stdin, stdout, stderr)."""
        if self._ended:
            os.close(fd)
            return
        client = streams.Client(fd, (wants[0] and self._stdin, *wants[1:]), self._tty, self._spill)
        self._clients[fd] = client
        self._follow(client)

    def _follow(self, client: streams.Client) -> None:
        """Listen for what can be done for ``client`` now."""
        if client.gone and not client.wants_input:
            self._drop(client)
        if client.gone:
            return
        if not self._loop.watches(client.fd):
            self._loop.watch(client.fd, 0, lambda events: self._on_client(client, events))
        reading = client.wants_input and not (self._input is not None and self._input.full)
        self._loop.change(client.fd, (READABLE if reading else 0) | (WRITABLE if client.backlog else 0))

    def _on_client(self, client: streams.Client, events: int) -> None:
        if events & WRITABLE and not client.gone:
            client.flush()
            self._release()
        if events & GONE and not client.gone:
            client.drop_output()
            self._release()
        if client.wants_input and events & (READABLE | GONE):
            self._take_input(client, left=bool(events & GONE))
        if self._ended and not client.backlog:
            self._drop(client)
        elif client.fd in self._clients:
            self._follow(client)

    def _drop(self, client: streams.Client) -> None:
        if self._clients.pop(client.fd, None) is not None:
            self._loop.unwatch(client.fd)
            client.close()
            self._release()
            if self._ended:
                self.on_unattached()

    # --- input ------------------------------------------------------------------------------------------

    def open_input(self, writer: int) -> None:
        """Stdin is the non-blocking pipe end ``writer``."""
        self._input = streams.Input(writer, lambda: self._loop.close(writer))

    def end_input(self) -> None:
        """End of file for the container; a terminal has none."""
        if self._input is not None and not self._tty:
            self._input.close()

    def _take_input(self, client: streams.Client, *, left: bool) -> None:
        sink = self._input
        if sink is not None and sink.full:
            if left:
                self._loop.unwatch(client.fd)  # a hang-up can't be masked; what it sent waits to be read
            return
        data = client.receive()
        if data is None:
            return
        if data:
            if sink is not None:
                sink.write(data)
                self._await_input(sink)
            return
        client.wants_input = False
        if self._stdin_once and left:
            # Perhaps it is the engine that died; then the container keeps its stdin.
            self._loop.after(_LEFT_GRACE, self._on_left)
        elif self._stdin_once:
            self.end_input()

    def _on_left(self) -> None:
        if self.engine_connected():
            self.end_input()

    def _await_input(self, sink: streams.Input) -> None:
        """While the container doesn't read, clients are not read either."""
        if sink.fd < 0 or not sink.full:
            return
        fd = sink.fd
        if fd == self._master:
            self._loop.change(fd, WRITABLE | (0 if self._held else READABLE))
        elif not self._loop.watches(fd):
            self._loop.watch(fd, WRITABLE, lambda _events: self._on_input_ready(fd))
        for client in list(self._clients.values()):
            self._follow(client)

    def _on_input_ready(self, fd: int) -> None:
        sink = self._input
        if sink is None or fd != sink.fd:
            return
        sink.flush()
        if sink.full:
            return
        if fd == self._master:
            self._loop.change(fd, 0 if self._held else READABLE)
        else:
            self._loop.unwatch(fd)
        for client in list(self._clients.values()):
            if client.gone and client.wants_input:
                self._take_input(client, left=True)
            self._follow(client)
