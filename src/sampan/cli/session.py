"""An attached container or exec: stdin in, output out, signals and the terminal's size along.

One loop over poll(2) serves everything, without threads: the stream, stdin, signals, and the answer of
``wait``, which may come long after the streams have ended (a process can close its output and go on).
"""

from __future__ import annotations

import os
import select

from sampan.cli import terminal
from sampan.cli.command import write_all
from sampan.client.frames import STDERR, Demultiplexer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.signals import Catcher
    from sampan.client.engine import Upgraded

CHUNK = 65536


class Session:
    """Moves bytes until the stream ends. ``detached`` tells afterwards that the user left by keys."""

    def __init__(
        self,
        stream: Upgraded,
        *,
        tty: bool,
        stdin: bool,
        keys: bytes = b"",
        on_signal: Callable[[int], None] | None = None,
        catcher: Catcher | None = None,
    ) -> None:
        self._stream = stream
        self._demultiplexer = None if tty else Demultiplexer()
        self._stdin = stdin
        self._filter = terminal.DetachFilter(keys if tty and stdin else b"")
        self._on_signal = on_signal
        self._catcher = catcher
        self.detached = False
        self.output_open = True
        self._poll = select.poll()
        self._unsent = b""

    def run(self, until: Callable[[], bool] | None = None, watch: int = -1) -> None:
        """Serve until the stream ends or the user detaches.

        With ``until``, signals are served on after the stream's end, whenever the descriptor ``watch`` is
        readable, until it returns True.
        """
        poll = self._poll
        poll.register(self._stream.fileno(), select.POLLIN)
        if self._stdin:
            self._watch_stdin()
        else:
            self._close_write()
        if self._catcher is not None:
            poll.register(self._catcher.fileno(), select.POLLIN)
        while self.output_open and not self.detached:
            if self._stream.pending():
                self._receive()
                continue
            for descriptor, events in poll.poll():
                self._serve(descriptor, events)
        if until is not None and not self.detached and not until():
            self._linger(until, watch)

    def _watch_stdin(self) -> None:
        try:
            self._poll.register(0, select.POLLIN)
        except (OSError, ValueError):
            self._end_stdin()

    def _serve(self, descriptor: int, events: int) -> None:
        if descriptor == self._stream.fileno():
            if events & select.POLLOUT:
                self._flush()
            if events & ~select.POLLOUT:
                self._receive()
        elif self._catcher is not None and descriptor == self._catcher.fileno():
            self._signals()
        elif not self._unsent:  # of the same round of events
            self._read_stdin()

    def _signals(self) -> None:
        assert self._catcher is not None
        for number in self._catcher.take():
            if self._on_signal is not None:
                self._on_signal(number)

    def _receive(self) -> None:
        data = self._stream.recv()
        if not data:
            self.output_open = False
            return
        if self._demultiplexer is None:
            write_all(1, data)
            return
        for stream, piece in self._demultiplexer.feed(data):
            write_all(2 if stream == STDERR else 1, piece)

    def _read_stdin(self) -> None:
        try:
            data = os.read(0, CHUNK)
        except OSError:
            data = b""
        if not data:
            self._end_stdin()
            return
        self._unsent, self.detached = self._filter.feed(data)
        self._flush()

    def _flush(self) -> None:
        """Send without waiting: the other side may be waiting for us to read its output first."""
        try:
            while self._unsent:
                taken = self._stream.send_some(self._unsent)
                self._unsent = self._unsent[taken:]
                if not taken:
                    break
        except (BrokenPipeError, ConnectionResetError):
            self._unsent = b""
            self._end_stdin()
            return
        self._poll.modify(self._stream.fileno(), select.POLLIN | (select.POLLOUT if self._unsent else 0))
        if self._stdin and self._unsent:
            # Not merely without events: a pipe's hang-up is told all the same, and would be read too early.
            self._forget_stdin()
        elif self._stdin:
            self._poll.register(0, select.POLLIN)

    def _end_stdin(self) -> None:
        self._stdin = False
        self._forget_stdin()
        self._close_write()

    def _forget_stdin(self) -> None:
        try:  # noqa: SIM105 - contextlib costs start-up time
            self._poll.unregister(0)
        except (KeyError, ValueError, OSError):
            pass

    def _close_write(self) -> None:
        try:  # noqa: SIM105
            self._stream.close_write()
        except OSError:
            pass

    def _linger(self, until: Callable[[], bool], watch: int) -> None:
        """The output has ended, the process perhaps not: go on passing signals until it has."""
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        if self._catcher is not None:
            poll.register(self._catcher.fileno(), select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor != watch:
                    self._signals()
                elif until():
                    return
