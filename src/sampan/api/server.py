"""The HTTP server's connection: one asyncio protocol that reads heads, feeds bodies and writes answers.

States of a connection: *idle* (collecting a head), *busy* (a request's handler runs; its body may still be
coming in) and *hijacked* (the bytes belong to a handler). Requests are answered one after the other: what
a client pipelines waits, with reading paused once it is more than a head's worth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, cast

from sampan import errors
from sampan.api import wire
from sampan.api.body import BadBody, Body
from sampan.api.hijack import Hijacked
from sampan.api.http import Answer, Request, Response, StreamResponse, Upgrade, error_response

log = logging.getLogger("sampan.api")

MAX_HEAD = 64 * 1024
HEAD_SECONDS = 60.0
MAX_UNREAD = 256 * 1024
LINGER_SECONDS = 0.5


class Application(Protocol):
    """What answers requests."""

    def at_once(self, request: Request) -> Response | None:
        """The answer to a request without a body for which nothing has to be waited, None for others."""

    def __call__(self, request: Request) -> Coroutine[Any, Any, Answer]:
        """The answer; ``sampan.errors`` for everything that goes wrong."""


class Connection(asyncio.Protocol):
    """One client's connection. ``application`` answers requests; ``connections`` is the server's register."""

    def __init__(
        self,
        application: Application,
        connections: set[Connection],
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        self._application = application
        self._answered = answered
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._pending = bytearray()
        self._head: wire.Head | None = None
        self._request: Request | None = None
        self._task: asyncio.Task[None] | None = None
        self._hijacked: Hijacked | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._eof = False
        self._lost = False
        self._lingering = False
        self._closing = False
        self._streaming = False
        self._held = 0
        self._date = wire.DateField()

    # asyncio's side -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client: of a hijacked stream, of the body that is due, or of the next head."""
        if self._hijacked is not None:
            self._hijacked.feed(data)
        elif self._lingering:
            return
        elif self._request is not None:
            self._feed_body(data)
        else:
            self._pending += data
            self._next_request()

    def eof_received(self) -> bool:
        """The client closed its sending side. True keeps ours open: answers and streams still go out."""
        self._eof = True
        if self._hijacked is not None:
            self._hijacked.feed_eof()
        elif self._lingering or self._request is None:
            self._transport.close()
        else:
            self._request.body.fail("unexpected EOF")
            if not self._request.upgrade:
                self._gone(self._request)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, both ways."""
        self._lost = True
        self._connections.discard(self)
        self._stop_timer()
        self._can_write.set()
        if self._hijacked is not None:
            self._hijacked.lost()
        if self._request is not None:
            self._request.body.fail("unexpected EOF")
            self._gone(self._request)

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """The client caught up."""
        self._can_write.set()

    # heads and bodies -----------------------------------------------------------------------------------

    def _next_request(self) -> None:
        """Take a complete head off the pending bytes and start its handler."""
        while self._pending[:2] == b"\r\n":  # RFC 9112 2.2: empty lines before a request are ignored
            del self._pending[:2]
        end = self._pending.find(b"\r\n\r\n", 0, MAX_HEAD)
        if end < 0:
            if len(self._pending) >= MAX_HEAD:
                self._refuse(wire.BadHead(431))
            elif self._pending and self._timer is None:
                self._timer = self._loop.call_later(HEAD_SECONDS, self._refuse, wire.BadHead(408))
            return
        self._stop_timer()
        data = bytes(self._pending[: end + 4])
        rest = bytes(self._pending[end + 4 :])
        self._pending.clear()
        try:
            head = wire.Head(data)
        except wire.BadHead as bad:
            self._refuse(bad)
            return
        self._start(head, rest)

    def _start(self, head: wire.Head, rest: bytes) -> None:
        body = Body(self._hold, self._release)
        request = Request(head.method, head.target, head.headers, body, asyncio.Event())
        if head.headers.get("expect").lower() == "100-continue" and not rest:
            body.on_first_read = self._continue
        self._head, self._request = head, request
        if head.decoder.done:
            body.finish()
            answer = None if rest else self._application.at_once(request)
            if answer is not None:
                self._send_response(head, request, answer)
                self._finish(head, request)
                self._answered()
                return
        self._task = self._loop.create_task(self._serve(head, request))
        if rest:
            self._feed_body(rest)

    def _feed_body(self, data: bytes) -> None:
        assert self._head is not None
        assert self._request is not None
        if not self._request.body.complete:
            try:
                part, data = self._head.decoder.feed(data)
            except BadBody as bad:
                self._request.body.fail(str(bad))
                self._closing = True
                return
            if part:
                self._request.body.feed(part)
            if self._head.decoder.done:
                self._request.body.finish()
        if data:
            self._pending += data
            if len(self._pending) > MAX_HEAD and not self._held:
                self._hold()

    def _continue(self) -> None:
        if self._request is not None and not self._request.body.complete:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _hold(self) -> None:
        self._held += 1
        self._transport.pause_reading()

    def _release(self) -> None:
        self._held = 0
        if not self._lost:
            self._transport.resume_reading()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, bad: wire.BadHead) -> None:
        """Answer a head that can't be understood and hang up."""
        self._timer = None
        line = wire.status_line(bad.status)
        text = line[9:].rstrip() + (b": " + bad.reason.encode() if bad.reason else b"")
        fields = b"Content-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
        self._transport.write(line + fields + text)
        self._linger()

    def _gone(self, request: Request) -> None:
        request.disconnected.set()

    # answers --------------------------------------------------------------------------------------------

    async def _serve(self, head: wire.Head, request: Request) -> None:
        try:
            answer = await self._answer(request)
            await self._send(head, request, answer)
        except (ConnectionError, asyncio.CancelledError):
            self._transport.abort()
        except Exception:
            log.exception("answering %s %s", request.method, request.target)
            self._transport.abort()
        finally:
            if self._hijacked is None:
                self._finish(head, request)
            self._answered()

    async def _answer(self, request: Request) -> Answer:
        try:
            return await self._application(request)
        except errors.SampanError as error:
            return error_response(error)
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("%s %s", request.method, request.target)
            return error_response(errors.SystemFailure(f"{type(error).__name__}: {error}"))

    async def _send(self, head: wire.Head, request: Request, answer: Answer) -> None:
        if isinstance(answer, Upgrade):
            await self._hijack(answer)
        elif isinstance(answer, StreamResponse):
            await self._stream(head, request, answer)
        else:
            self._send_response(head, request, answer)

    def _keeps(self, head: wire.Head, request: Request) -> bool:
        """Whether the connection can serve another request: kept alive, and the body near its end."""
        unread = getattr(head.decoder, "remaining", MAX_UNREAD + 1)
        spent = request.body.complete or (unread <= MAX_UNREAD and request.body.on_first_read is None)
        return head.keep_alive and spent and not self._closing and not self._eof

    def _send_response(self, head: wire.Head, request: Request, answer: Response) -> None:
        if answer.close or not self._keeps(head, request):
            self._closing = True
        out = [wire.status_line(answer.status)]
        if answer.common:
            out.append(wire.COMMON_BLOCK)
        if answer.content_type:
            out.append(f"Content-Type: {answer.content_type}\r\n".encode())
        if answer.headers:
            out.append(wire.field_block(answer.headers))
        out.append(self._date.line())
        if answer.status not in (204, 304) and "Content-Length" not in answer.headers:
            out.append(f"Content-Length: {len(answer.body)}\r\n".encode())
        out.append(self._connection_field(head))
        if answer.body and request.method != "HEAD" and answer.status not in (204, 304):
            out.append(answer.body)
        self._transport.write(b"".join(out))

    def _connection_field(self, head: wire.Head) -> bytes:
        """The ``Connection`` field where one is due, and the blank line."""
        if self._closing:
            return b"Connection: close\r\n\r\n"
        return b"Connection: keep-alive\r\n\r\n" if head.http_version == "1.0" else b"\r\n"

    async def _stream(self, head: wire.Head, request: Request, answer: StreamResponse) -> None:
        chunked = answer.length is None and head.http_version == "1.1"
        if not chunked and answer.length is None:
            self._closing = True
        if not head.keep_alive:
            self._closing = True
        out = [wire.status_line(answer.status), wire.COMMON_BLOCK]
        if answer.content_type:
            out.append(f"Content-Type: {answer.content_type}\r\n".encode())
        out += [wire.field_block(answer.headers), self._date.line()]
        if chunked:
            out.append(b"Transfer-Encoding: chunked\r\n")
        elif answer.length is not None:
            out.append(f"Content-Length: {answer.length}\r\n".encode())
        out.append(self._connection_field(head))
        self._transport.write(b"".join(out))
        self._streaming = True
        if request.method != "HEAD":
            await self._until_gone(request, self._send_chunks(answer, chunked))
        if not self._closing and not self._keeps(head, request):
            self._closing = True

    async def _until_gone(self, request: Request, sending: Coroutine[Any, Any, None]) -> None:
        """Run ``sending``; cancel it when the client goes away, so that what it waits for is let go."""
        work = self._loop.create_task(sending)
        gone = self._loop.create_task(request.disconnected.wait())
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))
        if work.cancelled():
            raise ConnectionResetError("client disconnected")
        work.result()

    async def _send_chunks(self, answer: StreamResponse, chunked: bool) -> None:
        chunks = answer.chunks
        try:
            async for chunk in chunks:
                if not chunk:
                    continue
                if chunked:
                    chunk = b"%x\r\n%b\r\n" % (len(chunk), chunk)
                await self.send(chunk)
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()
        if chunked:
            await self.send(b"0\r\n\r\n")

    async def send(self, data: bytes) -> None:
        """Write, and wait while the client is slow. ConnectionResetError when it is gone."""
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError("client disconnected")
        self._transport.write(data)
        if not self._can_write.is_set():
            await self._can_write.wait()

    # ends -----------------------------------------------------------------------------------------------

    async def _hijack(self, answer: Upgrade) -> None:
        common = wire.COMMON_BLOCK if answer.common else b""
        fields = wire.field_block(answer.headers)
        self._transport.write(wire.status_line(answer.status, answer.reason) + fields + common + b"\r\n")
        stream = self._hijacked = Hijacked(self._transport, self.send)
        self._release()
        if self._pending:
            stream.feed(bytes(self._pending))
            self._pending.clear()
        if self._eof:
            stream.feed_eof()
        if self._lost:
            stream.lost()
        try:
            await answer.handler(stream)
        finally:
            stream.close()

    def _finish(self, head: wire.Head, request: Request) -> None:
        """A request is answered: close, or make ready for the next one."""
        if self._lost:
            return
        if self._closing or self._transport.is_closing():
            self._linger()
            return
        if not request.body.complete:
            self._loop.create_task(self._drain(request)).add_done_callback(self._drained)
            return
        self._reset()

    async def _drain(self, request: Request) -> None:
        """Read the little that is left of a body that its handler didn't want."""
        with contextlib.suppress(errors.SampanError):
            async for _ in request.body:
                pass

    def _drained(self, task: asyncio.Task[None]) -> None:
        if self._request is not None and not self._request.body.complete:
            self._closing = True
            self._linger()
        elif not self._lost:
            self._reset()

    def _reset(self) -> None:
        if self._eof:
            self._transport.close()
            return
        if self._request is not None:
            self._request.body.discard()
        self._head = self._request = self._task = None
        self._streaming = False
        if self._held:
            self._release()
        if self._pending:
            self._next_request()

    def _linger(self) -> None:
        """Close without a reset: end our side, then swallow what still comes for a moment."""
        if self._lost or self._transport.is_closing():
            return
        self._lingering = True
        self._request = None
        if self._eof or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        if self._held:
            self._release()
        self._loop.call_later(LINGER_SECONDS, self._transport.close)

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._request is not None or self._hijacked is not None

    @property
    def streaming(self) -> bool:
        """Whether its answer has begun and may go on for ever."""
        return self._streaming or self._hijacked is not None

    def shut_down(self) -> None:
        """The server ends: close when idle, else after the present request."""
        self._closing = True
        if not self.busy:
            self._transport.close()

    def abort(self) -> None:
        """The server ends and waits no longer."""
        if self._task is not None:
            self._task.cancel()
        self._transport.abort()
