"""The helper of a log driver that sends lines elsewhere: reads frames from stdin, ships lines, ends with them.

``python -I -S -c … JSON``: started by a monitor (:mod:`sampan.runtime.logpipe`), one for a container. Syslog
over UDP, TCP, TLS, unix streams and datagrams in the formats of RFC 3164 and 5424; journald by its native
protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).
"""

from __future__ import annotations

import _socket
import os
import sys
import time

from sampan import jsontext
from sampan.kernel import signals
from sampan.runtime import logformat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Protocol

    class Sink(Protocol):
        """Where lines go."""

        # ruff: noqa: D102
        def send(self, stream: int, now: int, line: bytes, partial: bool) -> None: ...
        def close(self) -> None: ...


LINE = 16 << 10
"""Bytes of a line after which it is sent in parts, as Docker does."""
TRIES = 3
_TIMEOUT = 5.0
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ERROR, _INFO = 3, 6  # severities of stderr and stdout


class Syslog:
    """A syslog receiver. ``address`` is ``[protocol, host or path, port]``."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._protocol, self._host, self._port = config["address"]
        self._tls: dict[str, Any] = config.get("tls") or {}
        self._facility: int = config["facility"]
        self._format: str = config["format"]
        self._tag: str = config["tag"]
        self._hostname = _socket.gethostname()
        self._socket: _socket.socket | None = None

    def send(self, stream: int, now: int, line: bytes, partial: bool) -> None:
        """Send, over a new connection where the old one is gone."""
        text = self._message(stream, now, line)
        if self._protocol == "tcp+tls" and self._format.startswith("rfc5424"):
            text = b"%d %s" % (len(text), text)
        if self._socket is None:
            self._socket = connect(self._protocol, self._host, self._port, self._tls)
        try:
            self._socket.sendall(text)
        except OSError:
            self._socket.close()
            self._socket = None
            raise

    def close(self) -> None:
        """End the connection so that nothing on its way is lost: what we never read would reset it."""
        made, self._socket = self._socket, None
        if made is None or self._protocol in ("udp", "unixgram"):
            return
        try:
            made.settimeout(_TIMEOUT)
            made.shutdown(_socket.SHUT_WR)
            while made.recv(1 << 16):
                continue
        except OSError:
            return  # it is gone, or keeps its side open: all was sent

    def _message(self, stream: int, now: int, line: bytes) -> bytes:
        priority = self._facility << 3 | (_ERROR if stream == 2 else _INFO)
        tag, pid = self._tag, os.getppid()
        if self._format.startswith("rfc5424"):
            stamp = rfc5424_time(now, micro=self._format == "rfc5424micro")
            head = f"<{priority}>1 {stamp} {self._hostname} {tag} {pid} {tag} - "
        else:
            host = f"{self._hostname} " if self._format == "rfc3164" else ""
            head = f"<{priority}>{rfc3164_time(now)} {host}{tag}[{pid}]: "
        return head.encode() + line + b"\n"


def rfc3164_time(now: int) -> str:
    """Local time as RFC 3164 has it: ``Jan  2 15:04:05``."""
    local = time.localtime(now // 1_000_000_000)
    return f"{_MONTHS[local.tm_mon - 1]} {local.tm_mday:2d} {time.strftime('%H:%M:%S', local)}"


def rfc5424_time(now: int, *, micro: bool) -> str:
    """Local time as RFC 5424 has it, with microseconds if asked."""
    local = time.localtime(now // 1_000_000_000)
    offset = time.strftime("%z", local)
    zone = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:]}"
    fraction = f".{now // 1000 % 1_000_000:06d}" if micro else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + fraction + zone


def connect(protocol: str, host: str, port: int, tls: dict[str, Any] | None = None) -> _socket.socket:
    """A connection to a syslog receiver, ``tls`` with ``ca``, ``cert``, ``key``, ``skip_verify``. OSError."""
    if protocol in ("unix", "unixgram"):
        return _connect_unix(protocol, host)
    kind = _socket.SOCK_DGRAM if protocol == "udp" else _socket.SOCK_STREAM
    made = _connect_inet(host, port, kind)
    return _secure(made, host, tls or {}) if protocol == "tcp+tls" else made


def _connect_inet(host: str, port: int, kind: int) -> _socket.socket:
    """To the first of the host's addresses that takes it. OSError of the last one."""
    # Text would go through the codec of international names, with all its tables.
    found = _socket.getaddrinfo(host.encode() if host.isascii() else host, port, type=kind)
    for number, (family, _, protocol, _, address) in enumerate(found, 1):
        made = _socket.socket(family, kind, protocol)
        if kind == _socket.SOCK_STREAM:
            made.settimeout(_TIMEOUT)
        try:
            made.connect(address)
            return made
        except OSError:
            made.close()
            if number == len(found):
                raise
    raise OSError(f"{host} has no address")


def _connect_unix(protocol: str, path: str) -> _socket.socket:
    kind = _socket.SOCK_DGRAM if protocol == "unixgram" else _socket.SOCK_STREAM
    made = _socket.socket(_socket.AF_UNIX, kind)
    made.settimeout(_TIMEOUT)
    try:
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made


def _secure(plain: _socket.socket, host: str, tls: dict[str, Any]) -> _socket.socket:
    import socket  # only here: they are large, and most receivers are plain
    import ssl

    context = ssl.create_default_context(cafile=tls.get("ca") or None)
    if tls.get("skip_verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.get("cert"):
        context.load_cert_chain(tls["cert"], tls.get("key") or None)
    known = socket.socket(fileno=plain.detach())
    known.settimeout(_TIMEOUT)
    try:
        return context.wrap_socket(known, server_hostname=host)
    except OSError:
        known.close()
        raise


class Journal:
    """journald's native protocol: a datagram of fields for each line."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._path: str = config["path"]
        self._fields = {str(key): str(value) for key, value in config["fields"].items()}
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        self._socket.settimeout(_TIMEOUT)
        # They tell a reader the order, also of entries with the same time.
        self._epoch = os.urandom(32).hex()
        self._ordinal = 0
        self._parts: dict[int, tuple[str, int]] = {}  # of unfinished lines: id, and how many there were

    def send(self, stream: int, now: int, line: bytes, partial: bool) -> None:
        """Send one entry."""
        fields = self._fields | {
            "PRIORITY": str(_ERROR if stream == 2 else _INFO),
            "SYSLOG_TIMESTAMP": logformat.timestamp(now).decode(),
            "CONTAINER_LOG_EPOCH": self._epoch,
            "CONTAINER_LOG_ORDINAL": str(self._ordinal + 1),
        }
        which, number = self._parts.get(stream, ("", 0))
        if partial or which:
            which = which or os.urandom(32).hex()
            fields["CONTAINER_PARTIAL_ID"] = which
            fields["CONTAINER_PARTIAL_ORDINAL"] = str(number + 1)
            fields["CONTAINER_PARTIAL_LAST"] = "false" if partial else "true"
        if partial:
            fields["CONTAINER_PARTIAL_MESSAGE"] = "true"
        encoded = [field(name, value.encode("utf-8", "surrogateescape")) for name, value in fields.items()]
        self._socket.sendto(b"".join([*encoded, field("MESSAGE", line)]), self._path)
        self._ordinal += 1
        if partial:
            self._parts[stream] = (which, number + 1)
        else:
            self._parts.pop(stream, None)

    def close(self) -> None:
        """Datagrams need no end."""
        self._socket.close()


def field(name: str, value: bytes) -> bytes:
    """One field of the native protocol; a value with a newline is counted."""
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"


class Lines:
    """Makes lines of what comes from both streams."""

    def __init__(self) -> None:
        self._rest = {1: b"", 2: b""}

    def take(self, stream: int, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """The lines, and parts of long ones, that ``data`` completes: ``(line, partial)``."""
        *whole, rest = (self._rest[stream] + data).split(b"\n")
        for line in whole:
            yield from _cut(line)
        while len(rest) >= LINE:
            yield rest[:LINE], True
            rest = rest[LINE:]
        self._rest[stream] = rest

    def end(self) -> Iterator[tuple[int, bytes]]:
        """What was never ended by a newline."""
        for stream, rest in self._rest.items():
            if rest:
                yield stream, rest


def _cut(line: bytes) -> Iterator[tuple[bytes, bool]]:
    while len(line) > LINE:
        yield line[:LINE], True
        line = line[LINE:]
    yield line, False


def _frames(fd: int) -> Iterator[tuple[int, int, bytes]]:
    data = b""
    while chunk := os.read(fd, 1 << 18):
        data += chunk
        while len(data) >= 13:
            end = 13 + int.from_bytes(data[9:13], "big")
            if len(data) < end:
                break
            yield data[0], int.from_bytes(data[1:9], "big"), data[13:end]
            data = data[end:]


class Delivery:
    """Sends lines; those that can't be sent are lost, as with Docker.

    A line gets :data:`TRIES` attempts. While the receiver fails, the next are tried once a second only and
    lost in between: a helper never lasts longer than its container because nobody takes its lines.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._next = 0.0  # when to try again, while the receiver fails

    def send(self, stream: int, now: int, line: bytes, partial: bool) -> None:
        """Send one line, or lose it."""
        if self._next > time.monotonic():
            return
        tries = 1 if self._next else TRIES
        for attempt in range(tries):
            try:
                self._sink.send(stream, now, line, partial)
                self._next = 0.0
                return
            except OSError:
                if attempt + 1 < tries:
                    time.sleep(0.1 * 4**attempt)
        self._next = time.monotonic() + 1


def main(arguments: list[str]) -> None:
    """Ship what comes on stdin until it ends; ``arguments[1]`` is the configuration."""
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    signals.signal(signals.SIGTERM, signals.SIG_IGN)
    config: Any = jsontext.loads(arguments[1])
    sink: Sink = Syslog(config) if config["kind"] == "syslog" else Journal(config)
    delivery, lines, last = Delivery(sink), Lines(), 0
    for stream, now, data in _frames(0):
        last = now
        for line, partial in lines.take(stream, data):
            delivery.send(stream, now, line, partial)
    for stream, line in lines.end():
        delivery.send(stream, last, line, True)
    sink.close()


def command(config: dict[str, Any]) -> list[str]:
    """The arguments that start a helper."""
    base = getattr(sys, "_base_executable", "") or sys.executable
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    boot = (
        f"import sys; sys.path.insert(0, {root!r}); from sampan.runtime.logship import main; main(sys.argv)"
    )
    return [os.path.realpath(base), "-I", "-S", "-OO", "-X", "utf8", "-c", boot, jsontext.dumps(config)]
