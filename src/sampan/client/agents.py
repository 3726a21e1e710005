"""The client's SSH agents, lent to one build over an upgraded connection (docs/build.md, "SSH agents")."""

from __future__ import annotations

import select
import socket
import struct

from sampan.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.client.engine import Client, Upgraded

HEADER = struct.Struct("!IBI")
OPEN, MESSAGE, CLOSE = 1, 2, 3
MAX_MESSAGE = 256 << 10
# What a build may ask of an agent: which keys it has, and signatures; not to add, remove or lock (RFC draft
# "SSH Agent Protocol", message numbers).
_ALLOWED = (11, 13)
_FAILURE = b"\x05"


class Relay:
    """Carries questions of build steps to the agents' sockets (``sockets``: paths by id), and answers back."""

    def __init__(self, client: Client, sockets: Mapping[str, str]) -> None:
        self._sockets = sockets
        self._stream: Upgraded = client.upgrade("/build/agents", {"id": list(sockets)})
        self.name = self._stream.headers.get("x-sampan-agents", "")
        """What the build's query names as ``ssh``."""
        if not self.name:
            self._stream.close()
            raise ClientError("this engine takes no SSH agents", hint="Its POST /build/agents names none.")
        self._buffer = bytearray()
        self._agents: dict[int, socket.socket] = {}
        self._numbers: dict[int, int] = {}
        self._answers: dict[int, bytearray] = {}
        self._poll = select.poll()

    def run(self) -> None:
        """Serve until the engine closes the connection, or :meth:`close` does."""
        self._poll.register(self._stream.fileno(), select.POLLIN)
        try:
            while self._serve():
                pass
        except OSError:
            return  # the connection is gone, and with it the build
        finally:
            for number in list(self._agents):
                self._end(number)

    def close(self) -> None:
        """End the service: the engine hangs up, and :meth:`run` returns."""
        try:  # noqa: SIM105 - contextlib costs start-up time
            self._stream.close_write()
        except OSError:
            pass

    def _serve(self) -> bool:
        ready = [descriptor for descriptor, _ in self._poll.poll(0 if self._stream.pending() else None)]
        if self._stream.pending() or self._stream.fileno() in ready:
            data = self._stream.recv()
            if not data:
                return False
            self._buffer += data
            self._take()
        for descriptor in ready:
            if descriptor in self._numbers:
                self._receive(self._numbers[descriptor])
        return True

    def _take(self) -> None:
        buffer = self._buffer
        while len(buffer) >= HEADER.size:
            number, kind, length = HEADER.unpack_from(buffer)
            if len(buffer) < HEADER.size + length:
                return
            content = bytes(buffer[HEADER.size : HEADER.size + length])
            del buffer[: HEADER.size + length]
            if kind == OPEN:
                self._open(number, content.decode("utf-8", "replace"))
            elif kind == MESSAGE:
                self._ask(number, content)
            elif kind == CLOSE:
                self._end(number)

    def _send(self, number: int, kind: int, content: bytes = b"") -> None:
        self._stream.sendall(HEADER.pack(number, kind, len(content)) + content)

    def _open(self, number: int, agent: str) -> None:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self._sockets[agent])
        except (OSError, KeyError):
            sock.close()
            self._send(number, CLOSE)
            return
        self._agents[number] = sock
        self._numbers[sock.fileno()] = number
        self._answers[number] = bytearray()
        self._poll.register(sock.fileno(), select.POLLIN)

    def _ask(self, number: int, question: bytes) -> None:
        agent = self._agents.get(number)
        if agent is None:
            self._send(number, CLOSE)
        elif question[:1] not in [bytes((one,)) for one in _ALLOWED]:
            self._send(number, MESSAGE, _FAILURE)
        else:
            try:
                agent.sendall(len(question).to_bytes(4, "big") + question)
            except OSError:
                self._hang_up(number)

    def _receive(self, number: int) -> None:
        try:
            data = self._agents[number].recv(65536)
        except OSError:
            data = b""
        answer = self._answers[number]
        answer += data
        length = int.from_bytes(answer[:4], "big")
        if not data or length > MAX_MESSAGE:
            self._hang_up(number)
        elif len(answer) >= 4 + length:
            self._answers[number] = answer[4 + length :]
            self._send(number, MESSAGE, bytes(answer[4 : 4 + length]))

    def _hang_up(self, number: int) -> None:
        self._end(number)
        self._send(number, CLOSE)

    def _end(self, number: int) -> None:
        agent = self._agents.pop(number, None)
        if agent is not None:
            del self._numbers[agent.fileno()], self._answers[number]
            self._poll.unregister(agent.fileno())
            agent.close()
