"""Relaying UDP: one socket for every client of a published port, forgotten when it is silent."""

from __future__ import annotations

import socket
import struct
import time

from sampan.network.switchboard.loop import READ, Loop

_IDLE = 90.0
_MOST = 1024
_BURST = 64
_LARGEST = 65535
_IP_PKTINFO = 8  # linux/in.h
_ROOM = socket.CMSG_SPACE(20)  # for the larger one, struct in6_pktinfo

Asker = tuple[tuple[str, int], bytes]
"""A client, and the address of ours that it asked, as the kernel has it (struct in_pktinfo, in6_pktinfo)."""


class Flow:
    """What one client says and hears."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.used = time.monotonic()


def own_address(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """Where a datagram was sent to, in the form in which an answer is said to come from there."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_IP, _IP_PKTINFO):
            return bytes(4) + data[4:8] + bytes(4)  # from whatever interface leads to the client
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            (interface,) = struct.unpack_from("=I", data, 16)
            link_local = data[0] == 0xFE and data[1] & 0xC0 == 0x80
            return data[:16] + struct.pack("=I", interface if link_local else 0)
    return b""


class Port:
    """One published UDP port."""

    def __init__(self, loop: Loop, sock: socket.socket, target: tuple[str, int]) -> None:
        self._loop = loop
        self._socket = sock
        self.target = target
        self._flows: dict[Asker, Flow] = {}
        self._open = True
        # An answer has to come from the address that was asked, and a host has many.
        if sock.family == socket.AF_INET6:
            self._level, self._kind = socket.IPPROTO_IPV6, socket.IPV6_PKTINFO
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            self._level, self._kind = socket.SOL_IP, _IP_PKTINFO
            sock.setsockopt(socket.SOL_IP, _IP_PKTINFO, 1)
        loop.add(sock.fileno(), READ, self._receive)
        loop.later(_IDLE / 3, self._tidy)

    def close(self) -> None:
        """Give the port up and forget its clients."""
        self._open = False
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        for asker in list(self._flows):
            self._drop(asker)

    def _receive(self, _events: int) -> None:
        for _ in range(_BURST):
            try:
                data, ancillary, _flags, client = self._socket.recvmsg(_LARGEST, _ROOM)
                asker = (client, own_address(ancillary))
                flow = self._flows.get(asker) or self._flow(asker)
                flow.used = time.monotonic()
                flow.socket.send(data)
            except BlockingIOError:
                return
            except OSError:
                continue  # the target refused, or the client's address can't be answered

    def _flow(self, asker: Asker) -> Flow:
        if len(self._flows) >= _MOST:
            self._drop(min(self._flows, key=lambda item: self._flows[item].used))
        family = socket.AF_INET6 if ":" in self.target[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(self.target)
        except OSError:
            sock.close()
            raise
        flow = self._flows[asker] = Flow(sock)
        self._loop.add(sock.fileno(), READ, lambda _events: self._answer(asker, flow))
        return flow

    def _answer(self, asker: Asker, flow: Flow) -> None:
        client, own = asker
        source = [(self._level, self._kind, own)] if own else []
        for _ in range(_BURST):
            try:
                self._socket.sendmsg([flow.socket.recv(_LARGEST)], source, 0, client)
                flow.used = time.monotonic()
            except BlockingIOError:
                return
            except OSError:
                return

    def _drop(self, asker: Asker) -> None:
        flow = self._flows.pop(asker)
        self._loop.remove(flow.socket.fileno())
        flow.socket.close()

    def _tidy(self) -> None:
        if not self._open:
            return
        before = time.monotonic() - _IDLE
        for asker in [item for item, flow in self._flows.items() if flow.used < before]:
            self._drop(asker)
        self._loop.later(_IDLE / 3, self._tidy)
