"""Request bodies: counted by us (never by the head's parser), streamed to the handler with backpressure."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from sampan import errors

HIGH_WATER = 256 * 1024
LOW_WATER = 64 * 1024
_MAX_LINE = 4096
_MAX_TRAILERS = 64 * 1024
_HEX = frozenset(b"0123456789abcdefABCDEF")


class BadBody(Exception):
    """The framing of the body is broken; the connection can't be used any further."""


class FixedDecoder:
    """A body of a known number of bytes."""

    def __init__(self, length: int) -> None:
        self.remaining = length
        self.done = length == 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Split ``data`` into what belongs to the body and what follows it."""
        if len(data) < self.remaining:
            self.remaining -= len(data)
            return data, b""
        part, rest = data[: self.remaining], data[self.remaining :]
        self.remaining, self.done = 0, True
        return part, rest


class ChunkedDecoder:
    """A body in HTTP/1.1 chunks (RFC 9112 section 7.1). Extensions and trailers are read and dropped."""

    def __init__(self) -> None:
        self.done = False
        self._line = bytearray()
        self._left = 0
        self._state = self._size
        self._trailers = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Split ``data`` into decoded body bytes and what follows the body. BadBody when malformed."""
        out: list[bytes] = []
        position = 0
        while position < len(data) and not self.done:
            position = self._state(data, position, out)
        return (out[0] if len(out) == 1 else b"".join(out)), data[position:]

    def _take_line(self, data: bytes, position: int) -> tuple[bytes | None, int]:
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        self._line += data[position:stop]
        if len(self._line) > _MAX_LINE:
            raise BadBody("header line too long")
        if end < 0:
            return None, stop
        line = bytes(self._line)
        self._line.clear()
        if not line.endswith(b"\r\n"):
            raise BadBody("malformed chunked encoding")
        return line[:-2], stop

    def _size(self, data: bytes, position: int, out: list[bytes]) -> int:
        line, position = self._take_line(data, position)
        if line is None:
            return position
        digits = line.partition(b";")[0].rstrip(b" \t")
        if not digits or len(digits) > 15 or not _HEX.issuperset(digits):
            raise BadBody("invalid byte in chunk length")
        self._left = int(digits, 16)
        self._state = self._data if self._left else self._trailer
        return position

    def _data(self, data: bytes, position: int, out: list[bytes]) -> int:
        part = data[position : position + self._left]
        out.append(part)
        self._left -= len(part)
        if not self._left:
            self._state = self._data_end
        return position + len(part)

    def _data_end(self, data: bytes, position: int, out: list[bytes]) -> int:
        line, position = self._take_line(data, position)
        if line is not None:
            if line:
                raise BadBody("malformed chunked encoding")
            self._state = self._size
        return position

    def _trailer(self, data: bytes, position: int, out: list[bytes]) -> int:
        line, position = self._take_line(data, position)
        if line is not None:
            self._trailers += len(line)
            if self._trailers > _MAX_TRAILERS:
                raise BadBody("http: suspiciously long trailer after chunked body")
            self.done = not line
        return position


Decoder = FixedDecoder | ChunkedDecoder


class Body:
    """The incoming body of one request: an async iterator of byte chunks.

    The connection feeds it; ``pause``/``resume`` stop and start reading from the socket, so a slow handler
    slows the client down instead of filling memory. ``on_first_read`` sends ``100 Continue``.
    """

    def __init__(self, pause: Callable[[], None], resume: Callable[[], None]) -> None:
        self.complete = False
        self.on_first_read: Callable[[], None] | None = None
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._error: str | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._pause = pause
        self._resume = resume
        self._paused = False

    def feed(self, data: bytes) -> None:
        """Bytes from the wire."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._paused:
            self._paused = True
            self._pause()
        self._wake()

    def finish(self) -> None:
        """The body is complete."""
        self.complete = True
        self._wake()

    def fail(self, reason: str) -> None:
        """The body will never be complete: readers get InvalidParameter."""
        if not self.complete:
            self._error = self._error or reason
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Body:
        return self

    async def __anext__(self) -> bytes:
        """The next bytes. StopAsyncIteration at the end, InvalidParameter when the client broke off."""
        if self.on_first_read is not None:
            hook, self.on_first_read = self.on_first_read, None
            hook()
        while not self._chunks:
            if self.complete:
                raise StopAsyncIteration
            if self._error is not None:
                raise errors.InvalidParameter(self._error)
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._chunks.popleft()
        self._size -= len(data)
        if self._paused and self._size < LOW_WATER:
            self._paused = False
            self._resume()
        return data

    def discard(self) -> None:
        """Forget what nobody wants to read, and let the rest come."""
        self._chunks.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._resume()

    @property
    def empty(self) -> bool:
        """True when there was no body at all or all of it has been read."""
        return self.complete and not self._chunks
