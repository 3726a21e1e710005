"""SSH agents of clients, lent to the steps of their builds (``RUN --mount=type=ssh``).

A client holds one upgraded connection (`AgentLink`) that carries any number of conversations with its agents; a
step sees nothing of it but a socket. Frames both ways: conversation (u32), kind (u8), length (u32), content.
The engine opens (content: the agent's id) and asks, the client answers; either may close.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from sampan import errors
from sampan.engine.containers.attach import Connection

HEADER = struct.Struct("!IBI")
OPEN, MESSAGE, CLOSE = 1, 2, 3
MAX_MESSAGE = 256 << 10
"""Bytes of one message of the agent's protocol, as OpenSSH bounds it."""
MAX_CONVERSATIONS = 64
"""Of one client at a time; a step that wants more is hung up on."""


class AgentLink:
    """A client's connection, and the conversations that it carries. ``ids`` name its agents."""

    def __init__(self, connection: Connection, ids: Iterable[str]) -> None:
        self.ids = frozenset(ids)
        self._connection = connection
        self._asked: dict[int, asyncio.Future[bytes | None]] = {}
        self._open: set[int] = set()
        self._number = 0
        self._lost = False

    async def serve(self) -> None:
        """Take the client's answers until it leaves, or sends what can't be one."""
        buffer = bytearray()
        try:
            while data := await self._connection.read():
                buffer += data
                if not self._take(buffer):
                    return
        finally:
            self._lost = True
            for future in self._asked.values():
                _settle(future, None)

    def _take(self, buffer: bytearray) -> bool:
        while len(buffer) >= HEADER.size:
            number, kind, length = HEADER.unpack_from(buffer)
            if length > MAX_MESSAGE:
                return False
            if len(buffer) < HEADER.size + length:
                return True
            content = bytes(buffer[HEADER.size : HEADER.size + length])
            del buffer[: HEADER.size + length]
            # What nobody asked for is let go.
            if number in self._asked:
                _settle(self._asked[number], content if kind == MESSAGE else None)
        return True

    async def _send(self, number: int, kind: int, content: bytes = b"") -> None:
        await self._connection.write(HEADER.pack(number, kind, len(content)) + content)

    async def converse(self, agent: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one conversation of a step with ``agent`` until either side ends it."""
        if self._lost or len(self._open) >= MAX_CONVERSATIONS:
            return
        self._number = number = (self._number + 1) & 0xFFFFFFFF
        self._open.add(number)
        try:
            await self._send(number, OPEN, agent.encode())
            while (question := await _message(reader)) is not None:
                answer = await self._ask(number, question)
                if answer is None:
                    return
                writer.write(len(answer).to_bytes(4, "big") + answer)
                await writer.drain()
        except ConnectionError:
            return  # the client's or the step's: the conversation is over
        finally:
            self._open.discard(number)
            if not self._lost:
                with contextlib.suppress(ConnectionError):
                    await self._send(number, CLOSE)

    async def _ask(self, number: int, question: bytes) -> bytes | None:
        if self._lost:
            return None
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            await self._send(number, MESSAGE, question)
            return await future
        finally:
            del self._asked[number]

    @contextlib.asynccontextmanager
    async def socket(self, directory: Path, agent: str, uid: int, gid: int, mode: int) -> AsyncIterator[Path]:
        """A socket in ``directory`` that leads to ``agent``, gone with all its conversations at the end."""
        path = directory / secrets.token_hex(8)
        talks: set[asyncio.Task[None]] = set()

        async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            talks.add(task)
            try:
                await self.converse(agent, reader, writer)
            finally:
                talks.discard(task)
                writer.close()

        server = await asyncio.start_unix_server(met, sock=_bound(path))
        try:
            os.chown(path, uid, gid)
            os.chmod(path, mode)
            yield path
        finally:
            server.close()
            path.unlink(missing_ok=True)
            for task in talks:
                task.cancel()
            await asyncio.gather(*talks, return_exceptions=True)


async def _message(reader: asyncio.StreamReader) -> bytes | None:
    """A step's next question without its length; None at the end, or for one that is none."""
    try:
        length = int.from_bytes(await reader.readexactly(4), "big")
        message: bytes | None = await reader.readexactly(length) if 0 < length <= MAX_MESSAGE else None
    except asyncio.IncompleteReadError:
        return None
    return message


def _bound(path: Path) -> socket.socket:
    """A listening socket at ``path``, which may be longer than the 107 bytes of an address."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(f"/proc/self/fd/{fd}/{path.name}")
    except OSError:
        sock.close()
        raise
    finally:
        os.close(fd)
    return sock


def _settle(future: asyncio.Future[bytes | None], answer: bytes | None) -> None:
    if not future.done():
        future.set_result(answer)


class AgentLinks:
    """The clients that lend their agents now, by the random names that their builds know them by."""

    def __init__(self) -> None:
        self._links: dict[str, AgentLink] = {}

    async def serve(self, name: str, ids: Iterable[str], connection: Connection) -> None:
        """Serve a client until it leaves; its builds find it as ``name`` meanwhile."""
        link = self._links[name] = AgentLink(connection, ids)
        try:
            await link.serve()
        finally:
            del self._links[name]

    def get(self, name: str) -> AgentLink:
        """The client called ``name``. Raises InvalidParameter when there is none (any more)."""
        link = self._links.get(name)
        if link is None:
            raise errors.InvalidParameter(
                "ssh: no such agent connection",
                hint="It is opened by POST /build/agents, and has to stay open as long as the build runs.",
            )
        return link
