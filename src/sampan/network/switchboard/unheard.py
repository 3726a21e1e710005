"""UDP for apps on a container's loopback: what finds no socket of the app's comes here (network.fallback).

The kernel hands over packets as they are (TPROXY), so that one socket of each IP version serves every published
port and no flow is bound to this way: every packet is led anew, and an app that opens its socket later is found.
Answers leave by a raw socket, from the address and port that were asked. Where no app listens the asker is told
so by ICMP, as the kernel would have done.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import time

from sampan.network.switchboard.inside import socket_inside
from sampan.network.switchboard.loop import READ, Loop

_IDLE = 90.0
_MOST = 1024
_BURST = 64
_LARGEST = 65535
_CLOSED = 0.2
_REFUSALS = 100.0
_IPV6_RECVORIGDSTADDR = 74  # linux/in6.h
_IP_ORIGDSTADDR = 20  # linux/in.h: to ask for it, and what it is called
_IP_PKTINFO = 8
_IPV6_CHECKSUM = 7
_SO_ATTACH_FILTER = 26
_TARGETS = ("::1", "127.0.0.1")
_NONE = struct.pack("HBBI", 0x06, 0, 0, 0)  # a filter (BPF) that lets nothing in

Place = tuple[str, int]


class Raw:
    """Sends with any port and one of the container's own addresses; hears nothing."""

    def __init__(self, netns: int, family: int) -> None:
        self._six = family == socket.AF_INET6
        icmp = socket.IPPROTO_ICMPV6 if self._six else socket.IPPROTO_ICMP
        self._udp = socket_inside(netns, family, socket.SOCK_RAW, socket.IPPROTO_UDP)
        self._icmp = socket_inside(netns, family, socket.SOCK_RAW, icmp)
        for sock in (self._udp, self._icmp):
            _deafen(sock)
        if self._six:
            self._udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_CHECKSUM, 6)

    def close(self) -> None:
        """Close both sockets."""
        self._udp.close()
        self._icmp.close()

    def answer(self, own: Place, asker: Place, data: bytes) -> None:
        """A datagram from ``own`` to ``asker``. OSError. Over IPv4 without a checksum (RFC 768)."""
        head = struct.pack("!4H", own[1], asker[1], 8 + len(data), 0)
        self._send(self._udp, own, asker, head + data)

    def refuse(self, own: Place, asker: Place, size: int) -> None:
        """Tell an asker that nobody listens (RFC 792, RFC 4443: port unreachable). OSError."""
        family = socket.AF_INET6 if self._six else socket.AF_INET
        source, target = (socket.inet_pton(family, one[0]) for one in (asker, own))
        udp = struct.pack("!4H", asker[1], own[1], 8 + size, 0)
        if self._six:
            packet = struct.pack("!IHBB", 6 << 28, 8 + size, socket.IPPROTO_UDP, 64) + source + target
            message = struct.pack("!BBHI", 1, 4, 0, 0) + packet + udp
        else:
            packet = struct.pack("!BBHHHBBH", 0x45, 0, 28 + size, 0, 0, 64, socket.IPPROTO_UDP, 0)
            packet += source + target
            packet = packet[:10] + _checksum(packet) + packet[12:]
            message = struct.pack("!BBHI", 3, 3, 0, 0) + packet + udp
            message = message[:2] + _checksum(message) + message[4:]
        self._send(self._icmp, own, asker, message)

    def _send(self, sock: socket.socket, own: Place, asker: Place, data: bytes) -> None:
        if self._six:
            address = socket.inet_pton(socket.AF_INET6, own[0])
            source = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, address + bytes(4))
        else:
            source = (socket.SOL_IP, _IP_PKTINFO, struct.pack("=I4s4x", 0, socket.inet_aton(own[0])))
        sock.sendmsg([data], [source], socket.MSG_DONTWAIT, (asker[0], 0))


def _deafen(sock: socket.socket) -> None:
    """Nothing is to be heard on a socket that only sends: SO_ATTACH_FILTER, socket(7)."""
    code = array.array("B", _NONE)
    program = struct.pack(
        "HxxxxxxP", 1, code.buffer_info()[0]
    )  # struct sock_fprog: one instruction, where it is
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _checksum(data: bytes) -> bytes:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


class Flow:
    """What one asker says to one port. ``last`` is the datagram that is tried again at the next target."""

    def __init__(self, own: Place, asker: Place) -> None:
        self.own = own
        self.asker = asker
        self.targets = list(_TARGETS)
        self.socket: socket.socket | None = None
        self.last = b""
        self.used = time.monotonic()


class Unheard:
    """The packets of one IP version that no app of a container takes at its address."""

    def __init__(self, loop: Loop, sock: socket.socket, netns: int, ports: frozenset[int]) -> None:
        """``sock`` is where the kernel hands them over; ``netns`` is closed with this."""
        self._loop = loop
        self._socket = sock
        self._netns = netns
        self._ports = ports
        self._flows: dict[tuple[Place, Place], Flow] = {}
        self._closed: dict[int, float] = {}
        self._refusals, self._counted = _REFUSALS, time.monotonic()
        self._open = True
        sock.setblocking(False)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR, 1)
        else:
            sock.setsockopt(socket.SOL_IP, _IP_ORIGDSTADDR, 1)
        self._raw = Raw(netns, sock.family)
        loop.add(sock.fileno(), READ, self._receive)
        loop.later(_IDLE / 3, self._tidy)

    def close(self) -> None:
        """Forget all askers."""
        self._open = False
        self._loop.remove(self._socket.fileno())
        self._socket.close()
        for flow in list(self._flows.values()):
            self._drop(flow)
        self._raw.close()
        os.close(self._netns)

    def _receive(self, _events: int) -> None:
        for _ in range(_BURST):
            try:
                data, ancillary, _flags, asker = self._socket.recvmsg(_LARGEST, 128)
            except OSError:
                return
            own = _destination(ancillary)
            if own is not None and own[1] in self._ports:
                self._handle(own, (asker[0], asker[1]), data)

    def _handle(self, own: Place, asker: Place, data: bytes) -> None:
        if self._closed.get(own[1], 0.0) > time.monotonic():
            self._refuse(own, asker, len(data))
            return
        flow = self._flows.get((asker, own))
        if flow is None:
            if len(self._flows) >= _MOST:
                self._drop(min(self._flows.values(), key=lambda item: item.used))
            flow = self._flows[asker, own] = Flow(own, asker)
        flow.used = time.monotonic()
        self._say(flow, data)

    def _say(self, flow: Flow, data: bytes) -> None:
        """Say something to the app; where the present target refuses, to the next one; then to nobody."""
        flow.last = data
        while True:
            try:
                if flow.socket is None:
                    if not flow.targets:
                        break
                    self._connect(flow, flow.targets.pop(0))
                assert flow.socket is not None
                flow.socket.send(data)
                return
            except BlockingIOError:
                return
            except OSError:
                self._hang_up(flow)
        self._drop(flow)
        self._closed[flow.own[1]] = time.monotonic() + _CLOSED
        self._refuse(flow.own, flow.asker, len(data))

    def _connect(self, flow: Flow, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket_inside(self._netns, family, socket.SOCK_DGRAM)
        try:
            sock.connect((host, flow.own[1]))
        except OSError:
            sock.close()
            raise
        flow.socket = sock
        self._loop.add(sock.fileno(), READ, lambda _events: self._hear(flow, sock))

    def _hear(self, flow: Flow, sock: socket.socket) -> None:
        for _ in range(_BURST):
            if flow.socket is not sock:
                return
            try:
                data = sock.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                self._hang_up(flow)
                self._say(flow, flow.last)
                return
            flow.used, flow.last = time.monotonic(), b""
            with contextlib.suppress(OSError):
                self._raw.answer(flow.own, flow.asker, data)

    def _hang_up(self, flow: Flow) -> None:
        if flow.socket is not None:
            self._loop.remove(flow.socket.fileno())
            flow.socket.close()
            flow.socket = None

    def _refuse(self, own: Place, asker: Place, size: int) -> None:
        now = time.monotonic()
        self._refusals = min(_REFUSALS, self._refusals + (now - self._counted) * _REFUSALS)
        self._counted = now
        if self._refusals >= 1:
            self._refusals -= 1
            with contextlib.suppress(OSError):
                self._raw.refuse(own, asker, size)

    def _drop(self, flow: Flow) -> None:
        self._hang_up(flow)
        self._flows.pop((flow.asker, flow.own), None)

    def _tidy(self) -> None:
        if not self._open:
            return
        before = time.monotonic() - _IDLE
        for flow in [item for item in self._flows.values() if item.used < before]:
            self._drop(flow)
        self._loop.later(_IDLE / 3, self._tidy)


def _destination(ancillary: list[tuple[int, int, bytes]]) -> Place | None:
    """Where a packet was sent to: sockaddr_in or sockaddr_in6 beside it."""
    for level, kind, data in ancillary:
        if level == socket.SOL_IP and kind == _IP_ORIGDSTADDR:
            return socket.inet_ntoa(data[4:8]), int.from_bytes(data[2:4], "big")
        if level == socket.IPPROTO_IPV6 and kind == _IPV6_RECVORIGDSTADDR:
            return socket.inet_ntop(socket.AF_INET6, data[8:24]), int.from_bytes(data[2:4], "big")
    return None
