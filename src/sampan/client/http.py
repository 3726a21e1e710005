"""A small HTTP/1.1 client for one connection: keep-alive, chunked bodies both ways, upgrades.

:mod:`http.client` costs 33 ms to import (it brings the e-mail parser); an engine's clients need a page
of it. RFC 9112 is the reference. Nothing here knows what is inside the bodies.
"""

from __future__ import annotations

import select

from sampan.client.errors import ClientError, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Protocol

    class Stream(Protocol):
        """What a connection runs on: a socket, a TLS session, an ssh process's stdio."""

        def recv(self, size: int, /) -> bytes:
            """Up to so many bytes, b"" at the end."""
            ...

        def sendall(self, data: bytes, /) -> None:
            """Send everything."""
            ...

        def send_some(self, data: bytes, /) -> int:
            """Send what fits without waiting; how many bytes were taken."""
            ...

        def fileno(self) -> int:
            """What to poll."""
            ...

        def pending(self) -> int:
            """Bytes that are here already."""
            ...

        def close_write(self) -> None:
            """End our side."""
            ...

        def close(self) -> None:
            """Close it."""
            ...


READ_SIZE = 65536
MAX_HEAD = 1 << 20
"""Bytes of status line and headers that are accepted; more is no Engine API server."""


class Connection:
    """One connection: requests follow each other on it, each answer must be read to its end first."""

    def __init__(self, stream: Stream, host: str) -> None:
        self.stream = stream
        self.host = host
        self.buffer = b""
        self.reusable = True

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes] | None = None,
    ) -> Response:
        """Send one request and read the answer's head.

        ``body`` in one piece goes with its length, in pieces (an iterable) chunked. An engine that
        refuses before it has read everything is heard. Raises ProtocolError, ClientError.
        """
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}"]
        lines.extend(f"{name}: {value}" for name, value in (headers or {}).items())
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        elif body is not None:
            lines.append("Transfer-Encoding: chunked")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
        try:
            self._send(head, body)
        except (BrokenPipeError, ConnectionResetError):
            self.reusable = False  # the answer that explains it may already be here
        return self._read_head(method)

    def _send(self, head: bytes, body: bytes | Iterable[bytes] | None) -> None:
        if body is None or isinstance(body, bytes):
            self.stream.sendall(head + (body or b""))
            return
        self.stream.sendall(head)
        for piece in body:
            if piece:
                self.stream.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            if self._refused():
                self.reusable = False
                return
        self.stream.sendall(b"0\r\n\r\n")

    def _refused(self) -> bool:
        """Whether the engine has said no before the body's end; sending on would only be reset.

        An early success is no refusal: progress comes while the archive still goes out. It is kept for the
        reader, so that neither side waits for the other.
        """
        while self.spoken():
            if not self.fill():
                return True
        return bool(self.buffer) and not _may_succeed(self.buffer)

    def spoken(self) -> bool:
        """Whether the other side has said something unasked: that it closes the connection, as a rule."""
        return self.stream.pending() > 0 or bool(select.select([self.stream.fileno()], [], [], 0)[0])

    def fill(self) -> bool:
        """Read more into the buffer; False at the end of the connection."""
        try:
            data = self.stream.recv(READ_SIZE)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def _read_head(self, method: str) -> Response:
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end >= 0:
                head, self.buffer = self.buffer[:end], self.buffer[end + 4 :]
                response = Response(self, method, head)
                if response.status == 100:
                    continue
                return response
            if len(self.buffer) > MAX_HEAD:
                raise ProtocolError("the server's answer has no end of headers")
            if not self.fill():
                raise _cut_off(self.buffer)

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self.reusable = False
        self.stream.close()


def _may_succeed(buffer: bytes) -> bool:
    """Whether an answer's first bytes are those of a status 1xx or 2xx, or too few to tell."""
    return len(buffer) < 10 or buffer[9:10] in b"12"


def _cut_off(buffer: bytes) -> ClientError:
    if not buffer:
        return ClientError("the server closed the connection without an answer")
    if buffer[:5] != b"HTTP/":
        return ProtocolError(
            "the server does not speak HTTP",
            hint="A TLS port answers plain requests this way: set DOCKER_TLS_VERIFY=1 or use --tls.",
        )
    return ProtocolError("the server closed the connection in the middle of its answer")


class Response:
    """An answer whose head is here and whose body is read on demand. Header names are in lower case."""

    def __init__(self, connection: Connection, method: str, head: bytes) -> None:
        self.connection = connection
        lines = head.decode("utf-8", "surrogateescape").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        code, _, self.reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or not code.isdigit():
            raise ProtocolError(f"not an HTTP answer: {lines[0][:80]!r}")
        self.status = int(code)
        self.headers: dict[str, str] = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self._left = self._framing(method)
        self._ended = self._left == 0
        if "close" in self.headers.get("connection", "").lower() or version == "HTTP/1.0":
            connection.reusable = False

    def _framing(self, method: str) -> int | None:
        """Bytes to come: a number, -1 for chunked, None until the connection closes (RFC 9112 6.3)."""
        if method == "HEAD" or self.status in (204, 304):
            return 0
        if self.status == 101:
            return None
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return -1
        length = self.headers.get("content-length")
        if length is None:
            return None
        if not length.isdigit():
            raise ProtocolError(f"bad Content-Length: {length!r}")
        return int(length)

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces, as they arrive."""
        if self._ended:
            return
        if self._left is None:
            self.connection.reusable = False
            yield from self._until_close()
        elif self._left < 0:
            yield from self._chunked()
        else:
            yield from self._counted(self._left)
        self._ended = True

    def _until_close(self) -> Iterator[bytes]:
        connection = self.connection
        while True:
            if connection.buffer:
                data, connection.buffer = connection.buffer, b""
                yield data
            if not connection.fill():
                return

    def _counted(self, left: int) -> Iterator[bytes]:
        connection = self.connection
        while left:
            if not connection.buffer and not connection.fill():
                raise ProtocolError("the server closed the connection in the middle of its answer")
            data, connection.buffer = connection.buffer[:left], connection.buffer[left:]
            left -= len(data)
            yield data

    def _chunked(self) -> Iterator[bytes]:
        while True:
            size_text = self._line().partition(b";")[0].strip()
            try:
                size = int(size_text, 16)
            except ValueError:
                raise ProtocolError(f"bad chunk size: {size_text[:40]!r}") from None
            if size == 0:
                while self._line():  # trailers
                    pass
                return
            yield from self._counted(size)
            self._line()

    def _line(self) -> bytes:
        connection = self.connection
        while (end := connection.buffer.find(b"\r\n")) < 0:
            if not connection.fill():
                raise ProtocolError("the server closed the connection in the middle of its answer")
        line, connection.buffer = connection.buffer[:end], connection.buffer[end + 2 :]
        return line

    def read(self, limit: int | None = None) -> bytes:
        """The whole body. Raises ProtocolError when it is longer than ``limit`` bytes."""
        pieces = []
        size = 0
        for piece in self.chunks():
            pieces.append(piece)
            size += len(piece)
            if limit is not None and size > limit:
                raise ProtocolError(f"the answer is longer than {limit} bytes")
        return b"".join(pieces)

    @property
    def finished(self) -> bool:
        """The body was read to its end, so the connection may carry the next request."""
        return self._ended

    def close(self) -> None:
        """Give up the rest of the body, and with it the connection, if there is any."""
        if not self._ended:
            self.connection.close()
