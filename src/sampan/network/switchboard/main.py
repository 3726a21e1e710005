"""The switchboard's process: takes sockets and orders from the engine, and goes on when the engine is gone.

Orders are JSON objects, one a packet of a SOCK_SEQPACKET socket, descriptors beside them (SCM_RIGHTS). The
process ends by itself when no engine is connected and no container is left.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sampan.network.switchboard.datagrams import Port
from sampan.network.switchboard.loop import READ, Loop
from sampan.network.switchboard.pins import Pins
from sampan.network.switchboard.resolver import Client, Names, Resolver
from sampan.network.switchboard.streams import Inward, Listener

if TYPE_CHECKING:
    from sampan.network.switchboard.unheard import Unheard

    Way = Listener | Port | Unheard | socket.socket

_PACKET = 1 << 18
_MOST_FDS = 128
_GRACE = 10.0
_MOST_ORDERS = 256


class Member:
    """What the switchboard does for one container."""

    def __init__(self, pidfd: int) -> None:
        self.pidfd = pidfd
        self.ways: dict[str, Way] = {}
        self.resolver: Resolver | None = None
        self.orders: dict[str, Any] = {}


class Switchboard:
    """All members, and the connection to the engine."""

    def __init__(self, listening: socket.socket) -> None:
        self._loop = Loop()
        self._listening = listening
        self._engine: socket.socket | None = None
        self._members: dict[str, Member] = {}
        self._names = Names()
        self._pins = Pins(self._notice)
        self._notices = False
        self._loop.add(listening.fileno(), READ, self._accept)
        self._loop.later(_GRACE, self._maybe_end)

    def run(self) -> None:
        """Serve until there is nothing left to do."""
        self._loop.run()

    def _accept(self, _events: int) -> None:
        engine, _address = self._listening.accept()
        if self._engine is not None:
            self._lose()
        self._engine = engine
        engine.setblocking(False)
        self._loop.add(engine.fileno(), READ, self._receive)

    def _lose(self) -> None:
        assert self._engine is not None
        self._loop.remove(self._engine.fileno())
        self._engine.close()
        self._engine = None
        self._notices = False
        self._loop.later(_GRACE, self._maybe_end)

    def _maybe_end(self) -> None:
        if self._engine is None and not self._members:
            self._loop.running = False

    def _receive(self, _events: int) -> None:
        """Obey all orders that are here: what was ordered first holds for the questions that come after."""
        engine = self._engine
        for _ in range(_MOST_ORDERS):
            if engine is None or engine is not self._engine or not self._next_order(engine):
                return

    def _next_order(self, engine: socket.socket) -> bool:
        try:
            data, fds = _receive_with_fds(engine)
        except BlockingIOError:
            return False
        except OSError:
            data, fds = b"", []
        if not data:
            self._lose()
            return False
        answer = self._obey(json.loads(data), fds)
        for fd in fds:
            os.close(fd)  # what was of use has been duplicated or taken out of the list
        try:
            engine.settimeout(1.0)  # an engine that hasn't read its answers yet is about to
            engine.send(json.dumps(answer).encode())
            engine.setblocking(False)
        except OSError:
            self._lose()
            return False
        return True

    def _obey(self, order: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        actions: dict[str, Callable[[dict[str, Any], list[int]], object]] = {
            "serve": self._serve,
            "drop": lambda order, _fds: self.drop(order["container"]),
            "client": self._client,
            "names": self._put_names,
            "unname": lambda order, _fds: self._names.drop(order["network"], order["endpoint"]),
            "retain": lambda order, _fds: self._names.retain(order["endpoints"]),
            "retarget": self._retarget,
            "notices": lambda _order, _fds: self._begin_notices(),
            "state": lambda _order, _fds: self._state(),
            "refused": lambda order, _fds: self._pins.refused(order["container"]),
            "quit": lambda _order, _fds: self._quit(),
        }
        try:
            return {"ok": True, "result": actions[order["op"]](order, fds)}
        except (OSError, KeyError, ValueError) as failure:
            return {"ok": False, "error": f"{type(failure).__name__}: {failure}"}

    def _serve(self, order: dict[str, Any], fds: list[int]) -> None:
        container = order["container"]
        member = self._members.get(container)
        if member is None:
            try:
                member = self._members[container] = Member(os.pidfd_open(order["pid"]))
            except ProcessLookupError:  # it has ended already: the engine is about to say so
                return
            self._loop.add(member.pidfd, READ, lambda _events: self.drop(container))
        for protocol, host_ip, host_port, target, target_port in order["ports"]:
            sock = socket.socket(fileno=fds.pop(0))
            sock.setblocking(False)
            key = f"{protocol} {host_ip} {host_port}"
            self._close_way(member.ways.pop(key, None))
            member.ways[key] = self._way(protocol, sock, (target, target_port))
        if order.get("resolver"):
            datagrams, streams = (socket.socket(fileno=fds.pop(0)) for _ in range(2))
            netns = os.open(f"/proc/{order['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            for sock in (datagrams, streams):
                sock.setblocking(False)
            if member.resolver is not None:
                member.resolver.close()
            member.resolver = Resolver(self._loop, self._names, datagrams, streams, netns)
        for number in range(order.get("relays", 0)):
            sock = socket.socket(fileno=fds.pop(0))
            self._close_way(member.ways.pop(f"inward {number}", None))
            netns = os.open(f"/proc/{order['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            ports = frozenset(order["inward"])
            member.ways[f"inward {number}"] = Inward(self._loop, sock, netns, ports)
        for number in range(order.get("unheard", 0)):
            sock = socket.socket(fileno=fds.pop(0))
            self._close_way(member.ways.pop(f"unheard {number}", None))
            member.ways[f"unheard {number}"] = self._unheard(order, sock)

    def _unheard(self, order: dict[str, Any], sock: socket.socket) -> Unheard:
        from sampan.network.switchboard.unheard import Unheard  # most containers publish no UDP

        netns = os.open(f"/proc/{order['pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        return Unheard(self._loop, sock, netns, frozenset(order["unheard_ports"]))

    def _way(self, protocol: str, sock: socket.socket, target: tuple[str, int]) -> Way:
        if protocol == "tcp":
            return Listener(self._loop, sock, target)
        if protocol == "udp":
            return Port(self._loop, sock, target)
        return sock  # SCTP: the socket holds the port, nftables alone leads to the container

    @staticmethod
    def _close_way(way: Way | None) -> None:
        if way is not None:
            way.close()

    def _retarget(self, order: dict[str, Any], _fds: list[int]) -> None:
        member = self._members[order["container"]]
        for protocol, host_ip, host_port, target, target_port in order["ports"]:
            way = member.ways.get(f"{protocol} {host_ip} {host_port}")
            if isinstance(way, (Listener, Port)):
                way.target = (target, target_port)

    def _client(self, order: dict[str, Any], _fds: list[int]) -> None:
        member = self._members.get(order["container"])
        resolver = member.resolver if member is not None else None
        if resolver is None:  # a container that has just ended, or that asks its servers itself
            return
        container = order["container"]
        self._pins.control(container, order["table"], order["sources"], order["egress"])
        resolver.allows = lambda name: self._pins.allows(container, name)
        resolver.learn = lambda name, message: self._pins.learn(container, name, message)
        resolver.configure(Client(order["networks"], order["links"], order["servers"], order["inside"]))

    def _put_names(self, order: dict[str, Any], _fds: list[int]) -> None:
        self._names.put(
            order["network"], order["title"], order["endpoint"], order["names"], order["addresses"]
        )

    def drop(self, container: str) -> None:
        """End everything for a container; an unknown one is no error."""
        member = self._members.pop(container, None)
        if member is None:
            return
        self._loop.remove(member.pidfd)
        os.close(member.pidfd)
        for way in member.ways.values():
            way.close()
        if member.resolver is not None:
            member.resolver.close()
        self._pins.release(container)
        if self._engine is None:
            self._loop.later(_GRACE, self._maybe_end)

    def _state(self) -> dict[str, Any]:
        return {
            container: {"ports": sorted(member.ways), "resolver": member.resolver is not None}
            for container, member in self._members.items()
        }

    def _begin_notices(self) -> int:
        """The engine wants to hear what happens here (one of before doesn't know that it could); who we are."""
        self._notices = True
        return os.getpid()

    def _notice(self, container: str, name: str) -> None:
        """Tell the engine that a name was refused; one that is gone or busy misses it."""
        if self._engine is not None and self._notices:
            notice = {"notice": {"container": container, "name": name}}
            with contextlib.suppress(OSError):
                self._engine.send(json.dumps(notice).encode(), socket.MSG_DONTWAIT)

    def _quit(self) -> None:
        for container in list(self._members):
            self.drop(container)
        self._loop.running = False


def _receive_with_fds(sock: socket.socket) -> tuple[bytes, list[int]]:
    fds = array.array("i")
    room = socket.CMSG_SPACE(_MOST_FDS * fds.itemsize)
    data, ancillary, _flags, _address = sock.recvmsg(_PACKET, room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return data, list(fds)


def main() -> None:
    """Run with the listening socket as descriptor 3."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    listening = socket.socket(fileno=int(sys.argv[1]))
    Switchboard(listening).run()


if __name__ == "__main__":
    main()
