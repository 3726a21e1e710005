"""A process below a monitor, from its start to its end: its streams, the engines that follow it, its exit.

A container's first process (:mod:`sampan.runtime.monitor`) and the execs of a container
(:mod:`sampan.runtime.execs`) are each one. The messages are described in the monitor's module.
"""

from __future__ import annotations

import os
import time

from sampan.kernel import pty, signals
from sampan.runtime import wire
from sampan.runtime.hub import Hub
from sampan.runtime.loop import READABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

    from sampan.runtime.loop import Loop

    Plan = dict[str, Any]

_DRAIN = 2.0  # seconds for which output is awaited that outlives the process, as dockerd does


class Run:
    """The state of one container or exec."""

    def __init__(
        self, loop: Loop, plan: Plan, pid: int, pidfd: int, channel: _socket.socket, control: _socket.socket
    ) -> None:
        """``channel`` leads to the process until it executes, ``control`` to the engine that asked for it."""
        self.loop = loop
        self._plan = plan
        self._pid = pid
        self._pidfd = pidfd
        self._peers: dict[int, _socket.socket] = {}
        self._size: tuple[int, int] | None = None
        self._failure: wire.Message | None = None
        self._going = False
        self._executed = False
        self._started = 0
        self._status: int | None = None
        self._exit: wire.Message | None = None
        self._channel: _socket.socket | None = channel
        self._hub = Hub(self.loop, plan)
        self._hub.engine_connected = lambda: bool(self._peers)
        self._hub.on_silent = self._on_silent
        self._hub.on_unattached = self._stop_if_done
        self._add_peer(control)
        self.loop.watch(channel.fileno(), READABLE, self._on_channel)

    # --- what differs --------------------------------------------------------------------------------------

    def _on_started(self) -> None:
        """The program is executed; the engine isn't told yet."""

    def _unstarted(self) -> wire.Message:
        """What to tell of a process that has ended before its program and has not said why."""
        return ("failed", "killed", 0, self._status, "")

    def _record(self) -> int:
        """Put the exit on record; a descriptor that is still to be synced, or -1."""
        return -1

    def _kill_left_behind(self) -> None:
        """The process has ended: end what it leaves."""

    def _over(self) -> None:
        """Nothing is left to do."""
        raise NotImplementedError

    # --- the engine -------------------------------------------------------------------------------------

    def tell(self, message: wire.Message, fds: tuple[int, ...] = ()) -> None:
        """Send ``message`` to every connected engine; one that is gone doesn't matter."""
        for peer in list(self._peers.values()):
            try:
                wire.send(peer, message, fds)
            except OSError:
                self._drop_peer(peer)

    def _add_peer(self, peer: _socket.socket) -> None:
        self._peers[peer.fileno()] = peer
        self.loop.watch(peer.fileno(), READABLE, lambda _events: self._on_peer(peer))

    def _drop_peer(self, peer: _socket.socket) -> None:
        if self._peers.pop(peer.fileno(), None) is None:
            return
        self.loop.unwatch(peer.fileno())
        peer.close()
        if not self._peers and (not self._going or self._plan.get("bound")):
            self._kill()  # nobody will ever say "go", or wait for what it finds out

    def _on_peer(self, peer: _socket.socket) -> None:
        try:
            message, fds = wire.receive(peer)
        except OSError:
            message, fds = (), []
        if not message:
            self._drop_peer(peer)
            return
        self._obey(message, fds)
        for fd in fds:
            os.close(fd)

    def _obey(self, message: wire.Message, fds: list[int]) -> None:
        kind = message[0]
        if kind == "go":
            self._say_go()
        elif kind == "abort":
            self._kill()
        elif kind == "resize":
            self._resize(message[1], message[2])
        elif kind == "attach":
            self._hub.add_client(fds.pop(), message[1:])
        elif kind == "close_stdin":
            self._hub.end_input()
        elif kind == "sync":
            self._hub.flush_log()
            self.tell(("synced", message[1]))

    def _say_go(self) -> None:
        if self._channel is not None:
            try:
                wire.send(self._channel, ("go",))
            except OSError:
                return  # it failed already, the reason is on its way
            self._going = True

    def _kill(self) -> None:
        if self._pidfd >= 0 and self._status is None:
            try:
                signals.pidfd_send_signal(self._pidfd, signals.SIGKILL)
            except ProcessLookupError:
                return

    def _resize(self, rows: int, columns: int) -> None:
        self._size = (rows, columns)
        if self._hub.terminal >= 0:
            try:
                pty.set_size(self._hub.terminal, rows, columns)
            except OSError:
                return  # the terminal is gone

    # --- the process --------------------------------------------------------------------------------------

    def _on_channel(self, _events: int) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            message, fds = wire.receive(channel)
        except OSError:
            message, fds = (), []
        if not message:
            self.loop.unwatch(channel.fileno())
            channel.close()
            self._channel = None
            if self._failure is None and self._executed:
                self._started = time.time_ns()
                self._on_started()
                self.tell(("started", self._started))
        elif message[0] == "namespaces":
            self.tell(("created", self._pid), (self._pidfd,))
        elif message[0] == "terminal":
            self._hub.use_terminal(fds[0])
            if self._size:
                self._resize(*self._size)
        elif message[0] == "exec":
            self._executed = True
        elif message[0] == "failed":
            self._failure = message

    def on_ended(self, code: int) -> None:
        """The process has ended with ``code``, negative for a signal."""
        self._status = code if code >= 0 else 128 - code
        while self._channel is not None:  # what it said last, before it ended
            self._on_channel(READABLE)
        if not self._started:
            self.tell(self._failure or self._unstarted())
            self._hub.drop_clients(only_idle=False)
            self._over()
            return
        self._kill_left_behind()
        if self._hub.speaking:
            self.loop.after(_DRAIN, self._on_drained)
        else:
            self._conclude()

    def _on_silent(self) -> None:
        if self._status is not None:
            self._conclude()

    def _on_drained(self) -> None:
        if self._hub.held:  # a slow client keeps us from reading: its output isn't lost
            self.loop.after(_DRAIN, self._on_drained)
        else:
            self._conclude()

    def _conclude(self) -> None:
        """All output is in: complete the log, record the exit and tell it."""
        if self._exit is None and self._status is not None:
            self.loop.cancel(self._on_drained)
            now = time.time_ns()
            self._hub.end(now)
            self._exit = ("exit", self._status, self._oom_killed(), now)
            record = self._record()
            self.tell(self._exit)
            if record >= 0:
                os.fsync(record)
                os.close(record)
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        # An exec's background processes may hold its pipes: read on, or they would get SIGPIPE.
        if self._exit is not None and not self._hub.attached and not self._hub.speaking:
            self._over()

    def _oom_killed(self) -> bool:
        for path, key in self._plan.get("oom") or ():
            try:
                with open(path, "rb") as counters:
                    lines = [line.split() for line in counters]
            except OSError:
                continue
            if any(len(line) == 2 and line[0] == key.encode() and int(line[1]) > 0 for line in lines):
                return True
        return False
