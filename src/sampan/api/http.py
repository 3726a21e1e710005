"""The vocabulary between the HTTP server and the resource modules: requests, answers, hijacked connections.

A handler is ``async def handler(engine, request) -> Answer``. It returns a ``Response`` (bytes at hand), a
``StreamResponse`` (head at once, chunks as they come) or an ``Upgrade`` (the connection itself), and raises
``sampan.errors`` for everything that goes wrong; ``api/server.py`` does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from sampan import errors
from sampan.api import decode
from sampan.api.body import Body
from sampan.api.query import Query

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

__all__ = [
    "Answer",
    "Body",
    "Handler",
    "Headers",
    "HijackedConnection",
    "Query",
    "Request",
    "Response",
    "Route",
    "StreamResponse",
    "Upgrade",
    "json_response",
]

T = TypeVar("T")

JSON = "application/json"
JSON_LIMIT = 16 * 1024 * 1024


class Headers:
    """The header fields of a request: names without regard to case, in the order in which they came."""

    __slots__ = ("_values", "items")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self.items = list(items)
        self._values: dict[str, list[str]] = {}
        for name, value in self.items:
            self._values.setdefault(name.lower(), []).append(value)

    def get(self, name: str, default: str = "") -> str:
        """The first field of that name."""
        values = self._values.get(name.lower())
        return values[0] if values else default

    def all(self, name: str) -> list[str]:
        """Every field of that name."""
        return self._values.get(name.lower(), [])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def has_token(self, name: str, token: str) -> bool:
        """True when a comma-separated field (``Connection``) holds the token, without regard to case."""
        return any(part.strip().lower() == token for value in self.all(name) for part in value.split(","))


class Request:
    """One request. ``path`` is decoded and without its version prefix; ``version`` is (1, 44) and the like.

    ``body`` is an async iterator of bytes. ``disconnected`` is set when the client is gone (or has closed
    its sending side, which on a plain request means the same to Docker).
    """

    __slots__ = ("body", "disconnected", "headers", "method", "params", "path", "query", "target", "version")

    def __init__(
        self, method: str, target: str, headers: Headers, body: Body, disconnected: asyncio.Event
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.disconnected = disconnected
        self.path = ""
        self.version: tuple[int, int] = (1, 55)
        self.params: dict[str, str] = {}
        self.query = Query()

    @property
    def upgrade(self) -> str:
        """The protocol that the client wants to change to ("tcp", "h2c", "websocket"), or ""."""
        return self.headers.get("upgrade") if self.headers.has_token("connection", "upgrade") else ""

    async def read(self, limit: int) -> bytes:
        """The whole body. InvalidParameter when it is longer than ``limit`` bytes or breaks off."""
        parts: list[bytes] = []
        size = 0
        async for part in self.body:
            size += len(part)
            if size > limit:
                raise errors.InvalidParameter(
                    "http: request body too large", hint=f"at most {limit} bytes are read here"
                )
            parts.append(part)
        return b"".join(parts)

    async def json(self, type: type[T], *, name: str | None = None, required: bool = True) -> T:
        """The body as ``type``, read as dockerd reads it (see ``api/decode.py``).

        ``name`` is the word that Go puts before the field in its messages ("CreateRequest" gives
        ``Go struct field CreateRequest.Driver``). An empty body is ``invalid JSON: EOF``, or, when not
        ``required``, the type's defaults.
        """
        data = await self.read(JSON_LIMIT)
        content_type = self.headers.get("content-type")
        if content_type or data:
            check_json_type(content_type)
        if not data.strip() and not required:
            data = b"{}"
        return decode.decode_json(data, type, name=name)


def check_json_type(content_type: str) -> None:
    """InvalidParameter unless the header says ``application/json``, with or without parameters."""
    media = content_type.partition(";")[0].strip().lower()
    if media == JSON:
        return
    if not media:
        raise errors.InvalidParameter(
            f"malformed Content-Type header ({content_type}): mime: no media type",
            hint="send Content-Type: application/json",
        )
    raise errors.InvalidParameter(
        f"unsupported Content-Type header ({content_type}): must be 'application/json'"
    )


@dataclass(slots=True)
class Response:
    """An answer whose body is at hand. ``common=False`` leaves Docker's own header fields out."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    common: bool = True
    close: bool = False


def json_response(obj: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """``obj`` (anything that msgspec encodes) as JSON, ended by a line feed as all of Docker's answers."""
    return Response(status, msgspec.json.encode(obj) + b"\n", headers or {}, JSON)


def error_response(error: errors.SampanError) -> Response:
    """The answer for an error: its status and ``{"message": …}``."""
    if isinstance(error, errors.NotModified):
        return Response(304)
    return json_response({"message": str(error)}, error.status)


@dataclass(slots=True)
class StreamResponse:
    """An answer whose head is sent at once and whose chunks follow as they come, each flushed.

    Chunked, unless ``length`` (bytes) is known. When the client goes away the iterator is cancelled.
    """

    chunks: AsyncIterator[bytes]
    content_type: str | None = JSON
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None


class HijackedConnection(Protocol):
    """The raw connection after an ``Upgrade``: both directions belong to the handler."""

    async def read(self) -> bytes:
        """The next bytes from the client; b"" when it has closed its side (it may still be reading)."""

    async def write(self, data: bytes) -> None:
        """Send, waiting while the client is slow. ConnectionResetError when it is gone."""

    def write_eof(self) -> None:
        """Close our side only, where the transport can."""

    def close(self) -> None:
        """Send what is written, then close."""

    @property
    def gone(self) -> asyncio.Event:
        """Set when the connection is lost altogether (not at a mere half-close)."""


@dataclass(slots=True)
class Upgrade:
    """An answer that takes the connection over: ``HTTP/1.1 <status> <reason>``, the given fields, a blank
    line, then ``handler(connection)``; the connection is closed when that returns.

    ``common`` appends Docker's own four header fields.
    """

    handler: Callable[[HijackedConnection], Awaitable[None]]
    status: int = 101
    reason: str = "UPGRADED"
    headers: Mapping[str, str] = field(default_factory=dict)
    common: bool = False


Answer = Response | StreamResponse | Upgrade
Handler = Callable[["Engine", Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method, a path pattern (``/containers/{id}/start``; a parameter may hold slashes), its handler.

    ``since`` is the API version that introduced it: to older clients the path doesn't exist.
    """

    method: str
    pattern: str
    handler: Handler
    since: tuple[int, int] = (1, 24)
