"""One client's connection, served by one thread: heads in, bodies through one buffer, answers out.

Uploads and downloads are what a registry does, and both are loops over system calls that release the
interpreter lock (recv, hash, write; sendfile): a thread a connection uses all cores, and memory is bounded by
its one buffer. Heads are read by the API's parser; its own connections are asyncio's and made for streams.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from sampan.api import wire
from sampan.api.body import BadBody, FixedDecoder
from sampan.api.http import Headers
from sampan.api.query import Query
from sampan.registryd.content import Blob
from sampan.registryd.names import Span
from sampan.registryd.refusals import Refusal

MAX_HEAD = 32 * 1024
_BUFFER = 256 * 1024
_HEAD_READ = 64 * 1024
_DRAIN = 1 << 20  # bytes of a refused body that are read to keep the connection
_LINGER = 5.0  # seconds for more of a body that nobody wants: nginx waits as long
_SENDFILE = 1 << 30

Fields: TypeAlias = Mapping[str, str]


class Gone(Exception):
    """The client is gone, or too slow, or speaks no HTTP: there is nothing to answer."""


@dataclass
class Timeouts:
    """Seconds: for a head to come, for any byte of a body to move, for the next request."""

    head: float = 30.0
    body: float = 60.0
    idle: float = 120.0


@dataclass
class Reply:
    """An answer. The body is bytes, or a blob's span."""

    status: int = 200
    fields: Fields = field(default_factory=dict)
    body: bytes = b""
    blob: Blob | None = None
    span: Span | None = None
    close: bool = False


class Incoming:
    """The body of a request: an iterable of memoryviews, each valid until the next one."""

    def __init__(self, connection: Connection, head: wire.Head, rest: bytes) -> None:
        self._connection, self._decoder = connection, head.decoder
        self._rest = rest
        self._continue = head.headers.get("expect").lower() == "100-continue" and not rest
        self.length = head.decoder.remaining if isinstance(head.decoder, FixedDecoder) else None

    @property
    def done(self) -> bool:
        """Whether nothing is left to read."""
        return self._decoder.done

    @property
    def silent(self) -> bool:
        """Whether the client waits for a word before it sends anything."""
        return self._continue and not self.done

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """The pieces. Gone when the client breaks off."""
        while not self._decoder.done:
            if piece := self._next():
                yield piece

    def _next(self) -> bytes | memoryview:
        decoder = self._decoder
        if self._continue:
            self._continue = False
            self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._rest:
            data, self._rest = self._rest, b""
        elif isinstance(decoder, FixedDecoder):
            piece = self._connection.receive(decoder.remaining)
            decoder.remaining -= len(piece)
            decoder.done = not decoder.remaining
            return piece
        else:
            data = bytes(self._connection.receive(_BUFFER))
        try:
            part, after = decoder.feed(data)
        except BadBody as bad:
            raise Refusal("BLOB_UPLOAD_INVALID", str(bad)) from bad
        if decoder.done:
            self._connection.pending = after
        return part

    def read(self, limit: int) -> bytes:
        """All of it (413 when it is longer than ``limit`` bytes)."""
        if self.length is not None and self.length > limit:
            raise _too_large(limit)
        parts, size = [], 0
        for piece in self:
            parts.append(bytes(piece))
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
        return b"".join(parts)

    def drain(self) -> bool:
        """Read the little that nobody wanted; False when it isn't little."""
        if self.done:
            return True
        if self._continue or self.length is None or self.length > _DRAIN:
            return False
        for _ in self:
            pass
        return True


def _too_large(limit: int) -> Refusal:
    return Refusal("SIZE_INVALID", f"more than the {limit} bytes that are accepted here", status=413)


@dataclass
class Request:
    """One request. The application fills in the decoded ``path`` and ``query``, and who asks: ``user``.

    ``interrupt`` ends its connection from another thread.
    """

    method: str
    target: str
    headers: Headers
    body: Incoming
    peer: str
    secure: bool
    interrupt: Callable[[], None]
    path: str = ""
    query: Query = field(default_factory=Query)
    user: str = ""


class Connection:
    """A connected socket, plain or TLS. ``handle`` answers requests; everything happens in ``serve``."""

    def __init__(
        self, sock: socket.socket, peer: str, timeouts: Timeouts, handle: Callable[[Request], Reply]
    ) -> None:
        self._sock, self._peer, self._timeouts, self._handle = sock, peer, timeouts, handle
        self._tls = isinstance(sock, ssl.SSLSocket)
        self._date = wire.DateField()
        self._buffer: bytearray | None = None
        self.pending = b""
        self.busy = False
        self.ending = False

    def serve(self) -> None:
        """Answer requests until either side ends it."""
        with contextlib.suppress(Gone, OSError):
            while not self.ending and self._one():
                self._buffer = None
        self._buffer = None

    def interrupt(self) -> None:
        """End the connection from another thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def shut_down(self) -> None:
        """The server ends: at once when idle, else after the present request."""
        self.ending = True
        if not self.busy:
            self.interrupt()

    # -- requests ---------------------------------------------------------------------------------------

    def _one(self) -> bool:
        """Read and answer one request; whether the connection can take another."""
        data = self._read_head()
        if data is None:
            return False
        self.busy = True
        try:
            head = wire.Head(data)
        except wire.BadHead as bad:
            self._refuse(bad)
            return False
        rest, self.pending = self.pending, b""
        incoming = Incoming(self, head, rest)
        if incoming.done:
            self.pending = rest
        self._set_timeout(self._timeouts.body)
        reply = self._answer(head, incoming)
        try:
            keep = self._send_reply(head, incoming, reply)
        finally:
            if reply.blob is not None:
                reply.blob.close()
        if not keep:
            self._linger()
        self.busy = False
        return keep

    def _answer(self, head: wire.Head, incoming: Incoming) -> Reply:
        request = Request(
            head.method, head.target, head.headers, incoming, self._peer, self._tls, self.interrupt
        )
        return self._handle(request)

    def _read_head(self) -> bytes | None:
        """A head up to its blank line; None when the client ended between requests."""
        data = self.pending
        self._set_timeout(self._timeouts.head if data else self._timeouts.idle)
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > MAX_HEAD:
                self._refuse(wire.BadHead(431))
                return None
            more = self._recv_bytes()
            if not more:
                return None
            if not data:
                self._set_timeout(self._timeouts.head)
            data = (data + more).lstrip(b"\r\n") if not data else data + more
            if data and not data[:1].isalpha():  # TLS perhaps: clients try that first, and wait for an answer
                self._refuse(wire.BadHead(400, "this port speaks plain HTTP"))
                return None
        if end > MAX_HEAD:
            self._refuse(wire.BadHead(431))
            return None
        self.pending = data[end + 4 :]
        return data[: end + 4]

    # -- bytes ------------------------------------------------------------------------------------------

    def _set_timeout(self, seconds: float) -> None:
        """Plain sockets leave it to the kernel: one system call a read instead of two (socket(7))."""
        if self._tls:
            self._sock.settimeout(seconds)
            return
        value = struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def _recv_bytes(self) -> bytes:
        return self._sock.recv(_HEAD_READ)

    def receive(self, limit: int) -> memoryview:
        """At least one byte of a body, at most ``limit``, in the connection's buffer (Gone)."""
        if self._buffer is None:
            self._buffer = bytearray(_BUFFER)
        view = memoryview(self._buffer)[: min(limit, _BUFFER)]
        try:
            size = self._sock.recv_into(view)
            while self._tls and 0 < size < len(view) and self._sock.pending():  # type: ignore[attr-defined]
                size += self._sock.recv_into(view[size:])
        except OSError as error:
            raise Gone from error
        if not size:
            raise Gone
        return view[:size]

    def send(self, data: bytes | memoryview) -> None:
        """Send all of it (Gone)."""
        try:
            self._sock.sendall(data)
        except OSError as error:
            raise Gone from error

    # -- answers ----------------------------------------------------------------------------------------

    def _send_reply(self, head: wire.Head, incoming: Incoming, reply: Reply) -> bool:
        """Send the answer; whether the connection can go on."""
        keep = head.keep_alive and not reply.close and not self.ending
        if keep and not incoming.done:
            keep = incoming.drain()
        blob = reply.blob
        length = len(reply.body)
        if blob is not None:
            length = (reply.span or Span(0, blob.size)).length
        lines = [wire.status_line(reply.status), wire.field_block(reply.fields), self._date.line()]
        if reply.status not in (204, 304):
            lines.append(b"Content-Length: %d\r\n" % length)
        if not keep:
            lines.append(b"Connection: close\r\n")
        elif head.http_version == "1.0":
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        if head.method == "HEAD" or reply.status in (204, 304):
            self.send(b"".join(lines))
        elif blob is None:
            self.send(b"".join(lines) + reply.body)
        else:
            self._send_blob(b"".join(lines), blob, reply.span or Span(0, blob.size))
        return keep

    def _send_blob(self, head: bytes, blob: Blob, span: Span) -> None:
        if self._tls or blob.descriptor < 0:
            self.send(head)
            self._send_pieces(blob.pieces(span), span.length)
            return
        try:
            self._sock.send(head, socket.MSG_MORE)  # the head shares a packet with the file's beginning
            self._send_file(blob.descriptor, span)
        except OSError as error:
            raise Gone from error

    def _send_pieces(self, pieces: Iterable[bytes | memoryview], left: int) -> None:
        for piece in pieces:
            self.send(piece)
            left -= len(piece)
        if left:
            raise Gone

    def _send_file(self, descriptor: int, span: Span) -> None:
        """sendfile(2): the file's pages go to the network without passing through this process."""
        position, end = span.start, span.start + span.length
        while position < end:
            sent = os.sendfile(self._sock.fileno(), descriptor, position, min(end - position, _SENDFILE))
            if not sent:
                raise Gone
            position += sent

    def _refuse(self, bad: wire.BadHead) -> None:
        """Answer a head that can't be understood."""
        line = wire.status_line(bad.status)
        text = line[9:].rstrip() + (b": " + bad.reason.encode() if bad.reason else b"")
        fields = b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        self.send(line + fields % len(text) + text)
        self._linger()

    def _linger(self) -> None:
        """Close without a reset: end our side, then swallow for a moment what still comes."""
        with contextlib.suppress(OSError, ValueError):
            self._sock.shutdown(socket.SHUT_WR)
            self._sock.settimeout(_LINGER)
            waiting = select.poll()
            waiting.register(self._sock, select.POLLIN)
            for _ in range(64):
                if not waiting.poll(_LINGER * 1000) or not self._sock.recv(_BUFFER):
                    return
