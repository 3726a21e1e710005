"""The resolver at 127.0.0.11: names of the container's networks from memory, all else from its servers."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections.abc import Callable, Mapping, Sequence

from sampan.network.switchboard import wire
from sampan.network.switchboard.inside import socket_inside
from sampan.network.switchboard.loop import READ, WRITE, Loop

_TRY = 4.0
_BURST = 32
_MOST_WAITING = 100
_MOST_STREAMS = 32
_STREAM_IDLE = 30.0
_LARGEST = 65535
_OURS = (wire.A, wire.AAAA, wire.MX, wire.ANY)

Reply = Callable[[bytes], None]


class Names:
    """Who is called what on each network."""

    def __init__(self) -> None:
        self._by_name: dict[str, dict[str, dict[str, list[str]]]] = {}
        self._by_address: dict[str, dict[str, str]] = {}
        self.titles: dict[str, str] = {}

    def put(self, network: str, title: str, endpoint: str, names: list[str], addresses: list[str]) -> None:
        """Know an endpoint; what was known of it is replaced."""
        self.drop(network, endpoint)
        self.titles[network] = title
        for name in names:
            self._by_name.setdefault(network, {}).setdefault(name.lower(), {})[endpoint] = addresses
        if names:
            for address in addresses:
                self._by_address.setdefault(network, {})[address] = names[0]

    def drop(self, network: str, endpoint: str) -> None:
        """Forget an endpoint."""
        table = self._by_name.get(network, {})
        for name in [name for name, holders in table.items() if endpoint in holders]:
            for address in table[name].pop(endpoint):
                self._by_address.get(network, {}).pop(address, None)
            if not table[name]:
                del table[name]

    def retain(self, endpoints: list[str]) -> None:
        """Forget all other endpoints."""
        known = set(endpoints)
        for network, table in list(self._by_name.items()):
            gone = {endpoint for holders in table.values() for endpoint in holders} - known
            for endpoint in gone:
                self.drop(network, endpoint)

    def find(self, network: str, name: str) -> list[str] | None:
        """The addresses behind a name (or name.network) on a network; None when nobody is called that."""
        table = self._by_name.get(network, {})
        holders = table.get(name)
        if holders is None and self.ends_with_title(network, name):
            holders = table.get(name[: -len(self.titles[network]) - 1])
        if holders is None:
            return None
        return [address for addresses in holders.values() for address in addresses]

    def ends_with_title(self, network: str, name: str) -> bool:
        """Whether a name ends with its network's."""
        title = self.titles.get(network, "")
        return bool(title) and name.endswith("." + title.lower())

    def owner(self, network: str, address: str) -> str:
        """The full name of an address; "" when nobody has it."""
        name = self._by_address.get(network, {}).get(address, "")
        return f"{name}.{self.titles[network]}" if name else ""


class Client:
    """What a container may ask and of whom. No dataclass: their module takes over a megabyte."""

    __slots__ = ("inside", "links", "networks", "servers")

    def __init__(
        self,
        networks: Sequence[str] = (),
        links: Mapping[str, list[str]] | None = None,
        servers: Sequence[str] = (),
        inside: bool = False,
    ) -> None:
        self.networks = list(networks)
        self.links = dict(links or {})
        self.servers = list(servers)
        self.inside = inside


class Resolver:
    """The two sockets of one container."""

    def __init__(
        self, loop: Loop, names: Names, datagrams: socket.socket, streams: socket.socket, netns: int
    ) -> None:
        self._loop = loop
        self._names = names
        self._datagrams = datagrams
        self._streams = streams
        self._netns = netns
        self._open: set[_Stream | _Forward] = set()
        self.client = Client()
        self._listening = False
        # Whether a name may be asked for, and what to do with an answer before it is given (egress control).
        self.allows: Callable[[str], bool] = lambda _name: True
        self.learn: Callable[[str, bytes], None] = lambda _name, _answer: None

    def configure(self, client: Client) -> None:
        """Say what may be asked, and of whom; until then questions wait in the sockets."""
        self.client = client
        if not self._listening:
            self._listening = True
            self._loop.add(self._datagrams.fileno(), READ, self._receive)
            self._loop.add(self._streams.fileno(), READ, self._accept)

    def close(self) -> None:
        """End everything; the namespace's last references of ours go with it."""
        for sock in (self._datagrams, self._streams):
            self._loop.remove(sock.fileno())
            sock.close()
        for item in list(self._open):
            item.close()
        os.close(self._netns)

    def _receive(self, _events: int) -> None:
        for _ in range(_BURST):  # then others get their turn
            try:
                data, asker = self._datagrams.recvfrom(_LARGEST)
            except OSError:
                return
            self._handle(data, self._reply_to(asker), stream=False)

    def _reply_to(self, asker: tuple[str, int]) -> Reply:
        def reply(message: bytes) -> None:
            with contextlib.suppress(OSError):
                self._datagrams.sendto(message, asker)

        return reply

    def _accept(self, _events: int) -> None:
        try:
            connection, _address = self._streams.accept()
        except OSError:
            return
        if len(self._open) >= _MOST_STREAMS + _MOST_WAITING:
            connection.close()
            return
        self._open.add(_Stream(self._loop, connection, self._handle, self._open))

    def _handle(self, data: bytes, reply: Reply, *, stream: bool) -> None:
        try:
            question = wire.parse_query(data)
        except ValueError:
            message = wire.failure(data, wire.FORMERR)
            if message:
                reply(message)
            return
        limit = _LARGEST if stream else question.size
        known = self._known(question, limit)
        if known is not None:
            reply(known)
            return
        if not self.allows(question.name):
            reply(wire.answer(question, code=wire.REFUSED))
            return
        self._forward(data, question, reply, stream)

    def _known(self, question: wire.Question, limit: int) -> bytes | None:
        if question.kind == wire.PTR:
            return self._reverse(question)
        found = self.client.links.get(question.name)
        local = False
        for network in self.client.networks:
            if found is None:
                found = self._names.find(network, question.name)
                local = self._names.ends_with_title(network, question.name)
        if found is None or (question.kind not in _OURS and self._elsewhere(question.name, local)):
            return None
        records = [wire.address_record(address) for address in found]
        wanted = [item for item in records if item[0] == question.kind or question.kind == wire.ANY]
        if len(wanted) > 1:
            turn = random.randrange(len(wanted))
            wanted = wanted[turn:] + wanted[:turn]
        return wire.answer(question, wanted, limit=limit)

    def _elsewhere(self, name: str, local: bool) -> bool:
        """Whether a container's name may be one of the Internet, too: what else is said of it is found there.

        Of all other names we know that there is nothing else. Who was told instead that there is no such name
        would not ask for its address any more (RFC 8020).
        """
        return "." in name and not local and bool(self.client.servers)

    def _reverse(self, question: wire.Question) -> bytes | None:
        address = wire.reverse_address(question.name)
        for network in self.client.networks if address else ():
            owner = self._names.owner(network, address)
            if owner:
                return wire.answer(question, [(wire.PTR, wire.encode_name(owner))])
        return None

    def _forward(self, data: bytes, question: wire.Question, reply: Reply, stream: bool) -> None:
        waiting = sum(1 for item in self._open if isinstance(item, _Forward))
        if not self.client.servers or waiting >= _MOST_WAITING:
            reply(wire.answer(question, code=wire.SERVFAIL))
            return

        def deliver(message: bytes) -> None:
            if message:
                self.learn(question.name, message)
            reply(message or wire.answer(question, code=wire.SERVFAIL))

        job = _Forward(self, data, list(self.client.servers), deliver, stream)
        self._open.add(job)
        job.next_server()

    def outgoing(self, server: str, kind: int) -> socket.socket:
        """A socket towards a server: in the host's namespace, or the container's for servers it was given."""
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        if not self.client.inside:
            return socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        return socket_inside(self._netns, family, kind)

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Have the loop call back."""
        self._loop.add(fd, events, handler)

    def unwatch(self, fd: int) -> None:
        """No more."""
        self._loop.remove(fd)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Have the loop call back later."""
        self._loop.later(seconds, call)

    def finished(self, item: _Forward) -> None:
        """A question is answered."""
        self._open.discard(item)


class _Forward:
    """A question on its way to the servers, one after the other."""

    def __init__(
        self, owner: Resolver, data: bytes, servers: list[str], deliver: Reply, stream: bool
    ) -> None:
        self._owner = owner
        self._stream = stream
        # Not the asker's own id: who guesses that one shall not be able to answer in the server's place.
        self._identity = data[:2]
        self._asked = os.urandom(2) + data[2:]
        self._servers = servers
        self._deliver = deliver
        self._socket: socket.socket | None = None
        self._received = b""
        self._failure = b""
        self._turn = 0

    def next_server(self) -> None:
        """Ask the next server; when there is none left, the failure one has told stands, else SERVFAIL."""
        self._hang_up()
        if not self._servers:
            self._finish(self._failure)
            return
        server, turn = self._servers.pop(0), self._turn
        try:
            kind = socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM
            self._socket = self._owner.outgoing(server, kind)
            self._socket.connect_ex((server, 53))
            if self._stream:
                self._owner.watch(self._socket.fileno(), WRITE, self._connected)
            else:
                self._socket.send(self._asked)
                self._owner.watch(self._socket.fileno(), READ, self._received_datagram)
        except OSError:
            self.next_server()
            return
        self._owner.after(_TRY, lambda: self.next_server() if self._turn == turn else None)

    def _received_datagram(self, _events: int) -> None:
        assert self._socket is not None
        try:
            message = self._socket.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            self.next_server()
            return
        if message[:2] == self._asked[:2]:
            self._answered(message)

    def _answered(self, message: bytes) -> None:
        """Deliver an answer; where a server can't or doesn't want to give one, the next may."""
        answer = self._identity + message[2:]
        if len(message) > 3 and message[3] & 15 in (wire.SERVFAIL, wire.REFUSED):
            self._failure = answer
            self.next_server()
        else:
            self._finish(answer)

    def _connected(self, _events: int) -> None:
        assert self._socket is not None
        number = self._socket.fileno()
        self._owner.unwatch(number)
        try:
            self._socket.send(struct.pack("!H", len(self._asked)) + self._asked)
        except OSError:
            self.next_server()
            return
        self._owner.watch(number, READ, self._received_stream)

    def _received_stream(self, _events: int) -> None:
        assert self._socket is not None
        try:
            chunk = self._socket.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self._received += chunk
        if not chunk:
            self.next_server()
        elif len(self._received) >= 2:
            (length,) = struct.unpack_from("!H", self._received)
            if len(self._received) >= length + 2:
                self._answered(self._received[2 : length + 2])

    def _hang_up(self) -> None:
        self._turn += 1
        self._received = b""
        if self._socket is not None:
            self._owner.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _finish(self, message: bytes) -> None:
        self.close()
        self._deliver(message)

    def close(self) -> None:
        self._hang_up()
        self._owner.finished(self)


class _Stream:
    """A TCP connection of an asker: messages with their length before them."""

    def __init__(
        self, loop: Loop, sock: socket.socket, handle: Callable[..., None], peers: set[_Stream | _Forward]
    ) -> None:
        self._loop, self._socket, self._handle, self._peers = loop, sock, handle, peers
        self._pending = b""
        sock.setblocking(False)
        loop.add(sock.fileno(), READ, self._read)
        loop.later(_STREAM_IDLE, self.close)

    def _read(self, _events: int) -> None:
        try:
            chunk = self._socket.recv(_LARGEST)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self.close()
            return
        self._pending += chunk
        while len(self._pending) >= 2:
            (length,) = struct.unpack_from("!H", self._pending)
            if len(self._pending) < length + 2:
                return
            message, self._pending = self._pending[2 : length + 2], self._pending[length + 2 :]
            self._handle(message, self._reply, stream=True)

    def _reply(self, message: bytes) -> None:
        with contextlib.suppress(OSError):
            self._socket.send(struct.pack("!H", len(message)) + message)

    def close(self) -> None:
        self._peers.discard(self)
        if self._socket.fileno() >= 0:
            self._loop.remove(self._socket.fileno())
            self._socket.close()
