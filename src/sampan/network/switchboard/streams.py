"""Relaying TCP: bytes go from socket to pipe to socket by splice(2) and never through Python."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable

from sampan.network.switchboard.inside import socket_inside
from sampan.network.switchboard.loop import READ, WRITE, Loop

Target = tuple[str, int]

_CHUNK = 1 << 16
_FLAGS = 0x01 | 0x02  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends a reset
_PAUSE = 0.1
_SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h, and the same for IPv6


class Listener:
    """One published TCP port: accepts, connects to the target, relays."""

    def __init__(self, loop: Loop, sock: socket.socket, target: Target) -> None:
        self._loop = loop
        self._socket = sock
        self.target = target
        self._relays: set[Relay] = set()
        loop.add(sock.fileno(), READ, self._accept)

    def close(self) -> None:
        """Give the port up and end its connections."""
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        for relay in list(self._relays):
            relay.close()

    def _accept(self, _events: int) -> None:
        for _ in range(64):
            try:
                client, _address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as failure:
                if failure.errno in (errno.EMFILE, errno.ENFILE):
                    self._pause()
                    return
                continue
            self._start(client)

    def _pause(self) -> None:
        """Out of descriptors: leave the connections in the queue for a moment."""
        number = self._socket.fileno()
        self._loop.remove(number)
        self._loop.later(_PAUSE, lambda: self._resume(number))

    def _resume(self, number: int) -> None:
        if self._socket.fileno() == number:
            self._loop.add(number, READ, self._accept)

    def _start(self, client: socket.socket) -> None:
        try:
            self._relays.add(Relay(self._loop, client, self.targets(client), self._relays, self.outgoing))
        except OSError:
            _reset(client)

    def targets(self, client: socket.socket) -> list[Target]:
        """Where a connection goes: the first of these that takes it. OSError when it may go nowhere."""
        return [self.target]

    def outgoing(self, family: int) -> socket.socket:
        """A new socket towards a target."""
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


class Inward(Listener):
    """A relay in a container's namespace: leads published ports to apps on its loopback (network.fallback)."""

    def __init__(self, loop: Loop, sock: socket.socket, netns: int, ports: frozenset[int]) -> None:
        super().__init__(loop, sock, ("::1", 0))
        self._netns = netns
        self._ports = ports

    def targets(self, client: socket.socket) -> list[Target]:
        """The port that was asked for, on ::1 and 127.0.0.1; nobody gets another one."""
        family, room = (socket.IPPROTO_IPV6, 28) if client.family == socket.AF_INET6 else (socket.SOL_IP, 16)
        (port,) = struct.unpack_from("!H", client.getsockopt(family, _SO_ORIGINAL_DST, room), 2)
        if port not in self._ports:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        return [("::1", port), ("127.0.0.1", port)]

    def outgoing(self, family: int) -> socket.socket:
        """A socket of the container's."""
        return socket_inside(self._netns, family, socket.SOCK_STREAM)

    def close(self) -> None:
        """End the relay and its connections."""
        super().close()
        os.close(self._netns)


class Relay:
    """One connection: two directions, each with a pipe of its own."""

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        targets: list[Target],
        peers: set[Relay],
        outgoing: Callable[[int], socket.socket],
    ) -> None:
        self._loop = loop
        self._peers = peers
        self._client = client
        self._targets = targets
        self._outgoing = outgoing
        self._ways: tuple[_Way, _Way] | None = None
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._server = self._connect()

    def _connect(self) -> socket.socket:
        """Begin to connect to the next target. OSError when there is none left."""
        status = errno.ECONNREFUSED
        while self._targets:
            target = self._targets.pop(0)
            server = self._outgoing(socket.AF_INET6 if ":" in target[0] else socket.AF_INET)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            status = server.connect_ex(target)
            if status in (0, errno.EINPROGRESS):
                self._loop.add(server.fileno(), WRITE, self._connected)
                return server
            server.close()
        raise OSError(status, os.strerror(status))

    def _connected(self, _events: int) -> None:
        self._loop.remove(self._server.fileno())
        if self._server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._server.close()
            try:
                self._server = self._connect()
            except OSError:
                self.close(reset=True)
            return
        try:
            self._ways = (_Way(self._client, self._server), _Way(self._server, self._client))
        except OSError:
            self.close(reset=True)
            return
        self._loop.add(self._client.fileno(), READ, self._ready)
        self._loop.add(self._server.fileno(), READ, self._ready)

    def _ready(self, _events: int) -> None:
        ways = self._ways
        if ways is None:
            return
        try:
            for way in ways:
                way.move()
        except OSError:
            self.close(reset=True)
            return
        if ways[0].done and ways[1].done:
            self.close()
            return
        self._loop.change(self._client.fileno(), ways[0].wants_read | ways[1].wants_write)
        self._loop.change(self._server.fileno(), ways[1].wants_read | ways[0].wants_write)

    def close(self, *, reset: bool = False) -> None:
        """End both sides; a second time does nothing."""
        self._peers.discard(self)
        for sock in (self._client, self._server):
            if sock.fileno() >= 0:
                self._loop.remove(sock.fileno())
        if reset:
            _reset(self._client)
        self._client.close()
        self._server.close()
        for way in self._ways or ():
            way.close()
        self._ways = None


class _Way:
    """One direction: from ``source`` through a pipe to ``sink``."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self._source, self._sink = source, sink
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._held = 0
        self._ended = False
        self.done = False

    @property
    def wants_read(self) -> int:
        return READ if not self._held and not self._ended else 0

    @property
    def wants_write(self) -> int:
        return WRITE if self._held else 0

    def move(self) -> None:
        """Move what can be moved now. OSError when a side is broken."""
        while not self.done:
            if self._held and not self._flush():
                return
            if self._ended:
                self.done = True
                with_shutdown(self._sink)
                return
            if not self._fill():
                return

    def _fill(self) -> bool:
        try:
            count = os.splice(self._source.fileno(), self._in, _CHUNK, flags=_FLAGS)
        except BlockingIOError:
            return False
        self._held += count
        self._ended = count == 0
        return True

    def _flush(self) -> bool:
        while self._held:
            try:
                self._held -= os.splice(self._out, self._sink.fileno(), self._held, flags=_FLAGS)
            except BlockingIOError:
                return False
        return True

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)


def with_shutdown(sock: socket.socket) -> None:
    """Tell the peer that no more comes; one that has gone is no error."""
    try:
        sock.shutdown(socket.SHUT_WR)
    except OSError as failure:
        if failure.errno != errno.ENOTCONN:
            raise


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()
