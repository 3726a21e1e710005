"""The little of RFC 6455 that ``attach/ws`` needs: the handshake, binary messages, ping, close."""

from __future__ import annotations

import asyncio
import base64
import hashlib

from sampan.api.http import HijackedConnection, Request

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_LONGEST = 16 * 1024 * 1024


def accept_headers(request: Request) -> dict[str, str] | None:
    """The fields of the answer to an opening handshake; None when the request is none (section 4.2.1)."""
    key = request.headers.get("sec-websocket-key")
    if request.upgrade.lower() != "websocket" or not key:
        return None
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
    protocol = request.headers.get("sec-websocket-protocol").partition(",")[0].strip()
    if protocol:
        headers["Sec-WebSocket-Protocol"] = protocol
    return headers


def message(kind: int, data: bytes) -> bytes:
    """One unmasked, final frame (section 5.2)."""
    length = len(data)
    if length < 126:
        head = bytes((0x80 | kind, length))
    elif length < 1 << 16:
        head = bytes((0x80 | kind, 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | kind, 127)) + length.to_bytes(8, "big")
    return head + data


def unmask(data: bytes, mask: bytes) -> bytes:
    """Undo the client's masking (section 5.3)."""
    if not data:
        return data
    repeated = (mask * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(len(data), "big")


class Client:
    """An attach client behind a websocket. With ``multiplexed`` output comes in frames, whose heads go."""

    def __init__(self, connection: HijackedConnection, *, multiplexed: bool) -> None:
        self._connection = connection
        self._multiplexed = multiplexed
        self._out = b""
        self._in = b""
        self._closed = False

    @property
    def gone(self) -> asyncio.Event:
        """Set when the connection is lost."""
        return self._connection.gone

    async def read(self) -> bytes:
        """The payload of the next data message; b"" when the client closes."""
        while True:
            frame = await self._frame()
            if frame is None:
                return b""
            if frame[0] == _CLOSE:
                # Answered at once (section 5.5.1); with that the client is gone, whatever the container does.
                await self.close()
                self.gone.set()
                return b""
            kind, data = frame
            if kind == _PING:
                await self._connection.write(message(_PONG, data))
            elif kind in (0, _TEXT, _BINARY) and data:
                return data

    async def _frame(self) -> tuple[int, bytes] | None:
        head = await self._take(2)
        if head is None:
            return None
        length = head[1] & 0x7F
        if length >= 126:
            more = await self._take(2 if length == 126 else 8)
            if more is None:
                return None
            length = int.from_bytes(more, "big")
        mask = await self._take(4) if head[1] & 0x80 else b""
        if mask is None or length > _LONGEST:
            return None
        data = await self._take(length)
        if data is None:
            return None
        return head[0] & 0x0F, unmask(data, mask) if mask else data

    async def _take(self, count: int) -> bytes | None:
        while len(self._in) < count:
            more = await self._connection.read()
            if not more:
                return None
            self._in += more
        taken, self._in = self._in[:count], self._in[count:]
        return taken

    async def write(self, data: bytes) -> None:
        """Send output as binary messages."""
        if not self._multiplexed:
            await self._connection.write(message(_BINARY, data))
            return
        data = self._out + data
        parts = []
        while len(data) >= 8:
            end = 8 + int.from_bytes(data[4:8], "big")
            if len(data) < end:
                break
            parts.append(message(_BINARY, data[8:end]))
            data = data[end:]
        self._out = data
        if parts:
            await self._connection.write(b"".join(parts))

    async def close(self) -> None:
        """Say goodbye (1000, normal closure)."""
        if not self._closed and not self.gone.is_set():
            self._closed = True
            await self._connection.write(message(_CLOSE, (1000).to_bytes(2, "big")))
