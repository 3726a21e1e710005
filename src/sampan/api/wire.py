"""Heads on the wire: request heads parsed by httptools, answer heads put together.

httptools sees a head up to its blank line and nothing more: with ``Upgrade`` it would take a body for bytes
of the new protocol, so bodies are counted by ``api/body.py``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus

import httptools

from sampan.api import versions
from sampan.api.body import ChunkedDecoder, Decoder, FixedDecoder
from sampan.api.http import Headers

SERVER_VERSION = "29.7.2"
"""The engine release whose API behaviour is matched: clients read a number of this kind from ``Server``."""

_COMMON = (
    ("Api-Version", versions.CURRENT_TEXT),
    ("Docker-Experimental", "false"),
    ("Ostype", "linux"),
    ("Server", f"Docker/{SERVER_VERSION} (linux)"),
)
COMMON_BLOCK = "".join(f"{name}: {value}\r\n" for name, value in _COMMON).encode()

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_STATUS_LINES = {status: f"HTTP/1.1 {status} {reason}\r\n".encode() for status, reason in _REASONS.items()}


class BadHead(Exception):
    """The head can't be understood: the status and the reason of the answer after which we hang up."""

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Head:
    """A parsed request head; the callbacks are httptools'."""

    __slots__ = ("_fields", "_target", "decoder", "headers", "http_version", "keep_alive", "method", "target")

    def __init__(self, data: bytes) -> None:
        self._fields: list[tuple[str, str]] = []
        self._target = b""
        parser = httptools.HttpRequestParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # only the head was fed, so nothing of the body or the new protocol is lost
        except httptools.HttpParserError as error:
            raise BadHead(400, str(error)) from None
        if not self._target or not self._target.startswith((b"/", b"*", b"http://", b"https://")):
            raise BadHead(400, "malformed request target")
        self.method: str = parser.get_method().decode("latin-1")
        self.http_version: str = parser.get_http_version()
        if self.http_version not in ("1.1", "1.0"):
            raise BadHead(505, "unsupported protocol version")
        self.headers = Headers(self._fields)
        self.target = _origin_form(self._target.decode("latin-1"))
        self._check_host()
        self.keep_alive = self._wants_keep_alive()
        self.decoder: Decoder = self._body_decoder()

    def on_url(self, data: bytes) -> None:
        """A piece of the request target."""
        self._target += data

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header field."""
        self._fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def _check_host(self) -> None:
        hosts = self.headers.all("host")
        if len(hosts) > 1:
            raise BadHead(400, "too many Host headers")
        if not hosts and self.http_version == "1.1":
            raise BadHead(400, "missing required Host header")

    def _wants_keep_alive(self) -> bool:
        if self.http_version == "1.0":
            return self.headers.has_token("connection", "keep-alive")
        return not self.headers.has_token("connection", "close")

    def _body_decoder(self) -> Decoder:
        if "content-length" not in self.headers and "transfer-encoding" not in self.headers:
            return FixedDecoder(0)
        lengths = {part.strip() for value in self.headers.all("content-length") for part in value.split(",")}
        codings = [value.strip().lower() for value in self.headers.all("transfer-encoding")]
        if codings:
            if lengths:
                raise BadHead(400, "both Content-Length and Transfer-Encoding")
            if codings != ["chunked"]:
                raise BadHead(501, "unsupported transfer encoding")
            return ChunkedDecoder()
        length = lengths.pop()
        if lengths or not length.isascii() or not length.isdigit() or len(length) > 18:
            raise BadHead(400, "bad Content-Length")
        return FixedDecoder(int(length))


def _origin_form(target: str) -> str:
    """The path and query of an absolute-form target (a client that takes us for a proxy)."""
    if target.startswith(("http://", "https://")):
        rest = target.split("//", 1)[1]
        slash = rest.find("/")
        return rest[slash:] if slash >= 0 else "/"
    return target


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class DateField:
    """The ``Date`` field, formatted once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._line = b""

    def line(self) -> bytes:
        """``Date: …`` with its line end."""
        now = int(time.time())
        if now != self._second:
            t = time.gmtime(now)
            self._second = now
            self._line = (
                f"Date: {_DAYS[t.tm_wday]}, {t.tm_mday:02} {_MONTHS[t.tm_mon - 1]} {t.tm_year} "
                f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} GMT\r\n"
            ).encode()
        return self._line


def status_line(status: int, reason: str | None = None) -> bytes:
    """``HTTP/1.1 200 OK`` with its line end."""
    if reason is None and status in _STATUS_LINES:
        return _STATUS_LINES[status]
    return f"HTTP/1.1 {status} {reason or _REASONS.get(status, 'Unknown')}\r\n".encode()


def field_block(headers: Mapping[str, str]) -> bytes:
    """Header fields as lines. A line break in a value can't start a field of its own: it becomes a blank."""
    lines = []
    for name, value in headers.items():
        if "\n" in value or "\r" in value:
            value = value.translate(_NO_BREAKS)
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


_NO_BREAKS = {13: " ", 10: " "}
