"""A client of one engine: version negotiation, calls that return JSON, streams, upgraded connections."""

from __future__ import annotations

from sampan import jsontext
from sampan.client import transport
from sampan.client.errors import APIError, ClientError, ProtocolError
from sampan.client.http import Connection, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from sampan.client.endpoint import Endpoint

    QueryValue = str | int | bool | Sequence[str] | None

API_VERSION = (1, 50)
"""The newest API that this client asks for; an older engine gets its own."""
OLDEST_VERSION = (1, 24)
ERROR_LIMIT = 4 << 20

_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~")


def quote(text: str, safe: bytes = b"") -> str:
    """Percent-encode for a query (``safe`` names further bytes that stay)."""
    raw = text.encode("utf-8", "surrogateescape")
    if _SAFE.issuperset(raw):
        return text
    return "".join(chr(byte) if byte in _SAFE or byte in safe else f"%{byte:02X}" for byte in raw)


def path_of(*parts: str) -> str:
    """A path from segments, each percent-encoded; slashes and colons stay, as image names have them."""
    return "".join(f"/{quote(part, b'/:@')}" for part in parts)


def encode_query(query: Mapping[str, QueryValue]) -> str:
    """A query string: None and False are left out, True is 1, a sequence repeats its key."""
    pairs = []
    for key in sorted(query):
        value = query[key]
        if value is None or value is False:
            continue
        if value is True:
            pairs.append(f"{quote(key)}=1")
        elif isinstance(value, (str, int)):
            pairs.append(f"{quote(key)}={quote(str(value))}")
        else:
            pairs.extend(f"{quote(key)}={quote(item)}" for item in value)
    return "&".join(pairs)


def parse_version(text: str) -> tuple[int, int]:
    """``1.41`` as numbers. Raises ValueError."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)


class Upgraded:
    """A connection that left HTTP: bytes both ways (attach, exec, session)."""

    def __init__(self, connection: Connection, headers: Mapping[str, str]) -> None:
        self._stream = connection.stream
        self._early = connection.buffer
        self.headers = headers
        self.content_type = headers.get("content-type", "")
        self.sendall = connection.stream.sendall
        self.send_some = connection.stream.send_some
        self.fileno = connection.stream.fileno
        self.close = connection.stream.close
        self.close_write = connection.stream.close_write

    def pending(self) -> bool:
        """Whether :meth:`recv` has something without waiting, though the socket may be silent."""
        return bool(self._early) or self._stream.pending() > 0

    def recv(self) -> bytes:
        """The next bytes, b"" at the end."""
        if self._early:
            data, self._early = self._early, b""
            return data
        try:
            return self._stream.recv(65536)
        except ConnectionResetError:
            return b""


def _ask(
    connection: Connection,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | Iterable[bytes] | None,
) -> Response:
    """The answer's head; the connection doesn't outlive a failure."""
    try:
        return connection.request(method, target, headers, body)
    except BaseException:
        connection.close()
        raise


class Client:
    """Talks to one engine; keeps one idle connection for the next call."""

    def __init__(
        self, endpoint: Endpoint, *, version: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        self.endpoint = endpoint
        self.version = version
        self.server: dict[str, str] = {}
        self._headers = dict(headers or {})
        self._idle: Connection | None = None

    def negotiate(self) -> str:
        """Agree on an API version (once): the older one of ours and the engine's. Returns it as ``1.41``."""
        if not self.version:
            self.ping()
            theirs = self.server.get("api-version", "")
            try:
                chosen = min(API_VERSION, parse_version(theirs))
            except ValueError:
                chosen = OLDEST_VERSION
            self.version = f"{chosen[0]}.{chosen[1]}"
        return self.version

    def at_least(self, version: str) -> bool:
        """Whether the agreed API is that new."""
        return parse_version(self.negotiate()) >= parse_version(version)

    def ping(self) -> dict[str, str]:
        """The engine's headers on ``/_ping`` (names in lower case). Raises ConnectFailed."""
        response = self._exchange("HEAD", "/_ping", None, None)
        if response.status >= 400:
            response = self._exchange("GET", "/_ping", None, None)
            response.read(ERROR_LIMIT)
        self.server = response.headers
        return self.server

    def _connect(self) -> Connection:
        return Connection(transport.dial(self.endpoint), self.endpoint.host_header)

    def _take(self) -> tuple[Connection, bool]:
        """A connection, and whether it served before. An idle one that the engine has closed is replaced."""
        connection, self._idle = self._idle, None
        if connection is not None:
            if not connection.spoken():
                return connection, True
            connection.close()
        return self._connect(), False

    def _exchange(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None,
        body: bytes | Iterable[bytes] | None,
    ) -> Response:
        connection, used = self._take()
        merged = {"User-Agent": "sampan-client", **self._headers, **(headers or {})}
        try:
            response = _ask(connection, method, target, merged, body)
        except (ClientError, OSError):
            # It may have been closed just now. What changes something isn't sent twice: it may have been done.
            if not used or method not in ("GET", "HEAD"):
                raise
            response = _ask(self._connect(), method, target, merged, body)
        if response.finished:
            self.release(response)
        return response

    def release(self, response: Response) -> None:
        """Give a read answer's connection back for the next call."""
        connection = response.connection
        if response.finished and connection.reusable and self._idle is None:
            self._idle = connection
        elif connection is not self._idle:
            connection.close()

    def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, QueryValue] | None = None,
        *,
        json: Any = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        versioned: bool = True,
    ) -> Response:
        """Send a request and return the answer with its body unread. Raises APIError for a status ≥ 400."""
        merged = dict(headers or {})
        if json is not None:
            body = jsontext.dumps(json).encode("utf-8", "surrogateescape")
            merged["Content-Type"] = "application/json"
        elif body is None and method in ("POST", "PUT"):
            body = b""
        target = f"/v{self.negotiate()}{path}" if versioned else path
        if query and (encoded := encode_query(query)):
            target += f"?{encoded}"
        response = self._exchange(method, target, merged, body)
        if response.status >= 400:
            raise self._failure(response, target)
        return response

    def _failure(self, response: Response, target: str) -> APIError:
        text = response.read(ERROR_LIMIT)
        self.release(response)
        try:
            document = jsontext.loads(text)
            message = str(document["message"])
        except (ValueError, KeyError, TypeError):
            message = text.decode("utf-8", "replace").strip()
        if not message:
            message = (
                f"request returned {response.reason or response.status} for API route and version "
                f"{target.partition('?')[0]}, check if the server supports the requested API version"
            )
        return APIError(message, response.status)

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, QueryValue] | None = None,
        *,
        json: Any = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Send a request and decode its JSON answer (None for an empty one). Raises APIError."""
        response = self.open(method, path, query, json=json, body=body, headers=headers)
        text = response.read()
        self.release(response)
        if not text.strip():
            return None
        try:
            return jsontext.loads(text)
        except ValueError as error:
            raise ProtocolError(f"the engine's answer to {path} is not JSON: {error}") from None

    def stream(
        self,
        method: str,
        path: str,
        query: Mapping[str, QueryValue] | None = None,
        *,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Send a request and yield the JSON objects of its answer as they come (progress, events, stats)."""
        response = self.open(method, path, query, body=body, headers=headers)
        try:
            yield from jsontext.documents(response.chunks())
        finally:
            self.release(response)

    def upgrade(
        self, path: str, query: Mapping[str, QueryValue] | None = None, *, json: Any = None
    ) -> Upgraded:
        """Open a raw two-way stream (attach, exec/start). Raises APIError when the engine refuses."""
        body = b"" if json is None else jsontext.dumps(json).encode("utf-8", "surrogateescape")
        headers = {"Content-Type": "application/json", "Connection": "Upgrade", "Upgrade": "tcp"}
        target = f"/v{self.negotiate()}{path}"
        if query and (encoded := encode_query(query)):
            target += f"?{encoded}"
        connection = self._connect()
        response = connection.request("POST", target, {**self._headers, **headers}, body)
        if response.status not in (101, 200):
            failure = self._failure(response, target)
            connection.close()
            raise failure
        return Upgraded(connection, response.headers)

    def close(self) -> None:
        """Close the idle connection."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None
