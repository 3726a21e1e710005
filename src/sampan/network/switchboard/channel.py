"""The engine's end of the switchboard's socket: orders go out at once, answers come when they come, in order.

The event loop never waits for the other process, however busy that is.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import logging
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)
PACKET = 1 << 18
TIMEOUT = 5.0


class SwitchboardError(OSError):
    """The switchboard can't be started, doesn't answer, or refused an order."""


@dataclass(slots=True)
class Waiting:
    """An order, the sockets that go with it, and who waits for its result (perhaps nobody)."""

    order: Mapping[str, Any]
    socks: tuple[socket.socket, ...]
    future: asyncio.Future[Any]

    def finish(self, result: Any) -> None:
        """Give the result to who waits."""
        for sock in self.socks:
            sock.close()
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, failure: OSError) -> None:
        """Say that it failed."""
        log.warning("switchboard, %s: %s", self.order.get("op"), failure)
        for sock in self.socks:
            sock.close()
        if not self.future.done():
            self.future.set_exception(failure)
            self.future.exception()  # seen: not everybody asks


class Channel:
    """A connection. ``on_end`` is called once when the other end is gone, or silent for too long.

    ``on_notice`` is called with what the other end says unasked.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_end: Callable[[], None],
        on_notice: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self.socket = sock
        sock.setblocking(False)
        self._on_end = on_end
        self._on_notice = on_notice
        self._outgoing: deque[Waiting] = deque()
        self._asked: deque[Waiting] = deque()
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self._open = True
        self._loop.add_reader(sock.fileno(), self._readable)

    def give(self, waiting: Waiting) -> None:
        """Send an order, or have it sent when there is room."""
        self._outgoing.append(waiting)
        self._flush()

    def _flush(self) -> None:
        while self._outgoing and self._open:
            waiting = self._outgoing[0]
            fds = array.array("i", [sock.fileno() for sock in waiting.socks])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds.tobytes())] if fds else []
            try:
                self.socket.sendmsg([json.dumps(waiting.order).encode()], ancillary)
            except BlockingIOError:
                self._loop.add_writer(self.socket.fileno(), self._writable)
                return
            except OSError as failure:
                self._end(SwitchboardError(f"the switchboard doesn't answer: {failure}"))
                return
            self._asked.append(self._outgoing.popleft())
        if self._open and self._asked and self._watch is None:
            self._watch = self._loop.call_later(TIMEOUT, self._still_silent, self._asked[0])

    def _writable(self) -> None:
        self._loop.remove_writer(self.socket.fileno())
        self._flush()

    def _still_silent(self, asked: Waiting) -> None:
        self._watch = None
        if self._asked and self._asked[0] is asked:
            self._end(SwitchboardError("the switchboard doesn't answer"))
        else:
            self._flush()

    def _readable(self) -> None:
        while self._open:
            try:
                raw = self.socket.recv(PACKET)
            except BlockingIOError:
                return
            except OSError:
                raw = b""
            if not raw:
                self._end(SwitchboardError("the switchboard has ended"))
                return
            self._answered(json.loads(raw))

    def _answered(self, answer: Mapping[str, Any]) -> None:
        if "notice" in answer:
            self._on_notice(answer["notice"])
            return
        waiting = self._asked.popleft()
        if answer["ok"]:
            waiting.finish(answer["result"])
        else:
            waiting.fail(SwitchboardError(answer["error"]))

    def _end(self, failure: SwitchboardError) -> None:
        if self._open:
            self.close(failure)
            self._on_end()

    def close(self, failure: SwitchboardError) -> None:
        """Hang up; what has no answer yet fails. A second time does nothing."""
        if not self._open:
            return
        self._open = False
        if self._watch is not None:
            self._watch.cancel()
        self._loop.remove_reader(self.socket.fileno())
        self._loop.remove_writer(self.socket.fileno())
        self.socket.close()
        for waiting in (*self._asked, *self._outgoing):
            waiting.fail(failure)
        self._asked.clear()
        self._outgoing.clear()

    def last_word(self, order: Mapping[str, Any]) -> None:
        """Send a last order and wait until it is obeyed: the engine ends."""
        self._loop.remove_reader(self.socket.fileno())
        with contextlib.suppress(OSError, ValueError):
            self.socket.settimeout(TIMEOUT)
            self.socket.send(json.dumps(order).encode())
            waiting = len(self._asked) + 1
            while waiting and (answer := self.socket.recv(PACKET)):
                waiting -= b'"ok"' in answer[:8]
