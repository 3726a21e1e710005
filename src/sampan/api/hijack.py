"""The raw byte stream that a connection becomes after an ``Upgrade``."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import termios
from collections import deque
from collections.abc import Awaitable, Callable

HIGH_WATER = 256 * 1024
LOW_WATER = 64 * 1024
# Seconds between looks whether the head has been read: often at first, then for a client that gets no processor.
_LOOKS = (*[0.001] * 100, *[0.01] * 190)


class Hijacked:
    """Both directions of a hijacked connection, with backpressure both ways.

    The client's half-close and its disappearance are different things here: ``docker run`` without ``-i``
    ends its side at once and still wants all the output.
    """

    def __init__(self, transport: asyncio.Transport, send: Callable[[bytes], Awaitable[None]]) -> None:
        self.gone = asyncio.Event()
        self._transport = transport
        self._send = send
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._eof = False
        self._paused = False
        self._begun = False
        self._arrival = asyncio.Event()

    @property
    def transport(self) -> asyncio.Transport:
        """The transport below, for handlers that pass its socket on."""
        return self._transport

    def feed(self, data: bytes) -> None:
        """Bytes from the client (called by the connection)."""
        self._chunks.append(data)
        self._size += len(data)
        self._arrival.set()
        if self._size > HIGH_WATER and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def feed_eof(self) -> None:
        """The client ended its side (called by the connection)."""
        self._eof = True
        self._arrival.set()

    def lost(self) -> None:
        """The connection is gone (called by the connection)."""
        self.gone.set()
        self.feed_eof()

    async def read(self) -> bytes:
        """The next bytes from the client; b"" at its end of file."""
        while not self._chunks:
            if self._eof:
                return b""
            self._arrival.clear()
            await self._arrival.wait()
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._paused and self._size < LOW_WATER:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send, waiting while the client is slow. ConnectionResetError when it is gone."""
        if not self._begun:
            self._begun = True
            await self._head_read()
        await self._send(data)

    async def _head_read(self) -> None:
        """Wait a moment for a client on a unix socket to read the answer's head.

        docker-py reads that through a buffer, and the stream past the buffer: what it got with the head is lost.
        """
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family != socket.AF_UNIX:
            return
        for pause in _LOOKS:
            if self.gone.is_set() or not _unread(sock.fileno()):
                return
            await asyncio.sleep(pause)

    def write_eof(self) -> None:
        """End our side only; the client may go on sending."""
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def close(self) -> None:
        """Send what is written, then close."""
        self._transport.close()


def _unread(fd: int) -> bool:
    """Whether the peer of a unix socket has something to read. tcp(7), SIOCOUTQ; unix sockets have it too."""
    return fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)) != bytes(4)
