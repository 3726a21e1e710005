"""Relaying UDP: one socket for every client of a published port, forgotten when it is silent."""

from __future__ import annotations

import socket
import time

from sampan.network.switchboard.loop import READ, Loop

_IDLE = 90.0
_MOST = 1024
_BURST = 64
_LARGEST = 65535


class Flow:
    """What one client says and hears."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.used = time.monotonic()


class Port:
    """One published UDP port."""

    def __init__(self, loop: Loop, sock: socket.socket, target: tuple[str, int]) -> None:
        self._loop = loop
        self._socket = sock
        self.target = target
        self._flows: dict[tuple[str, int], Flow] = {}
        self._open = True
        loop.add(sock.fileno(), READ, self._receive)
        loop.later(_IDLE / 3, self._tidy)

    def close(self) -> None:
        """Give the port up and forget its clients."""
        self._open = False
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        for client in list(self._flows):
            self._drop(client)

    def _receive(self, _events: int) -> None:
        for _ in range(_BURST):
            try:
                data, client = self._socket.recvfrom(_LARGEST)
                flow = self._flows.get(client) or self._flow(client)
                flow.used = time.monotonic()
                flow.socket.send(data)
            except BlockingIOError:
                return
            except OSError:
                continue  # the target refused, or the client's address can't be answered

    def _flow(self, client: tuple[str, int]) -> Flow:
        if len(self._flows) >= _MOST:
            self._drop(min(self._flows, key=lambda item: self._flows[item].used))
        family = socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(self.target)
        except OSError:
            sock.close()
            raise
        flow = self._flows[client] = Flow(sock)
        self._loop.add(sock.fileno(), READ, lambda _events: self._answer(client, flow))
        return flow

    def _answer(self, client: tuple[str, int], flow: Flow) -> None:
        for _ in range(_BURST):
            try:
                self._socket.sendto(flow.socket.recv(_LARGEST), client)
                flow.used = time.monotonic()
            except BlockingIOError:
                return
            except OSError:
                return

    def _drop(self, client: tuple[str, int]) -> None:
        flow = self._flows.pop(client)
        self._loop.remove(flow.socket.fileno())
        flow.socket.close()

    def _tidy(self) -> None:
        if not self._open:
            return
        before = time.monotonic() - _IDLE
        for client in [item for item, flow in self._flows.items() if flow.used < before]:
            self._drop(client)
        self._loop.later(_IDLE / 3, self._tidy)
