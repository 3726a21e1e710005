"""DNS messages (RFC 1035): reading a question, writing answers, and finding addresses in someone's answer.

Only what a resolver for one machine's names needs. Everything read comes from strangers: ValueError is the
only way a malformed message shows.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

A, PTR, MX, AAAA, ANY = 1, 12, 15, 28, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
_IN = 1
_HEAD = struct.Struct("!HHHHHH")
_QR, _TC, _RD, _RA = 0x8000, 0x0200, 0x0100, 0x0080
_MOST_LABELS = 128
UDP_LIMIT = 512


class Question(NamedTuple):
    """The one question of a query. ``name`` is in lower case without the last dot; ``raw`` are its bytes."""

    identity: int
    flags: int
    name: str
    kind: int
    raw: bytes
    size: int


def parse_query(data: bytes) -> Question:
    """Read a query. ValueError when it is no query with exactly one question of class IN."""
    if len(data) < _HEAD.size:
        raise ValueError("too short for a DNS message")
    identity, flags, questions, _answers, _authority, additional = _HEAD.unpack_from(data)
    if flags & _QR or questions != 1 or flags & 0x7800:
        raise ValueError("not a query with one question")
    name, end = _name(data, _HEAD.size)
    if end + 4 > len(data):
        raise ValueError("truncated question")
    kind, klass = struct.unpack_from("!HH", data, end)
    if klass != _IN:
        raise ValueError("not of class IN")
    return Question(identity, flags, name, kind, data[_HEAD.size : end + 4], _size(data, end + 4, additional))


def _size(data: bytes, position: int, additional: int) -> int:
    """The largest UDP answer the asker takes (EDNS, RFC 6891)."""
    if additional and data[position : position + 3] == b"\0\0\x29" and position + 5 <= len(data):
        wanted: int = struct.unpack_from("!H", data, position + 3)[0]
        return max(UDP_LIMIT, min(4096, wanted))
    return UDP_LIMIT


def _name(data: bytes, position: int) -> tuple[str, int]:
    """The name at ``position`` and where what follows it begins; compression pointers only lead back."""
    labels: list[str] = []
    end = -1
    limit = position
    for _ in range(_MOST_LABELS):
        if position >= len(data):
            raise ValueError("truncated name")
        length = data[position]
        if length == 0:
            return ".".join(labels).lower(), end if end >= 0 else position + 1
        if length & 0xC0 == 0xC0:
            if position + 2 > len(data):
                raise ValueError("truncated pointer")
            target = struct.unpack_from("!H", data, position)[0] & 0x3FFF
            if target >= limit:
                raise ValueError("a pointer that doesn't lead back")
            end = position + 2 if end < 0 else end
            position = limit = target
            continue
        if length & 0xC0 or position + 1 + length > len(data):
            raise ValueError("bad label")
        labels.append(data[position + 1 : position + 1 + length].decode("latin-1"))
        position += 1 + length
    raise ValueError("too many labels")


def encode_name(name: str) -> bytes:
    """A name as labels. ValueError when a label is empty or too long."""
    raw = b""
    for label in name.rstrip(".").split("."):
        part = label.encode("latin-1", "replace")
        if not 0 < len(part) < 64:
            raise ValueError(f"bad label in {name!r}")
        raw += bytes([len(part)]) + part
    return raw + b"\0"


def answer(
    question: Question, records: Iterable[tuple[int, bytes]] = (), *, code: int = NOERROR, ttl: int = 600,
    limit: int = 65535,
) -> bytes:  # fmt: skip
    """The answer to a question: ``records`` are (type, data). What passes ``limit`` is cut and marked so."""
    parts = [struct.pack("!HHHIH", 0xC00C, kind, _IN, ttl, len(data)) + data for kind, data in records]
    flags = _QR | (question.flags & _RD) | _RA | code
    room = limit - _HEAD.size - len(question.raw)
    while parts and sum(map(len, parts)) > room:
        parts.pop()
        flags |= _TC
    head = _HEAD.pack(question.identity, flags, 1, len(parts), 0, 0)
    return head + question.raw + b"".join(parts)


def failure(data: bytes, code: int) -> bytes:
    """An answer without records to a message that may be malformed; b"" when not even its id can be read."""
    if len(data) < _HEAD.size or data[2] & 0x80:
        return b""
    identity, flags = struct.unpack_from("!HH", data)
    return _HEAD.pack(identity, _QR | (flags & (_RD | 0x7800)) | _RA | code, 0, 0, 0, 0)


def address_record(text: str) -> tuple[int, bytes]:
    """The record of an address."""
    if ":" in text:
        return AAAA, socket.inet_pton(socket.AF_INET6, text)
    return A, socket.inet_aton(text)


def addresses(data: bytes) -> Iterator[tuple[str, int]]:
    """The (address, ttl) pairs among the answers of a response. ValueError when it is malformed."""
    if len(data) < _HEAD.size:
        raise ValueError("too short for a DNS message")
    _identity, _flags, questions, answers, _authority, _additional = _HEAD.unpack_from(data)
    position = _HEAD.size
    for _ in range(questions):
        position = _name(data, position)[1] + 4
    for _ in range(answers):
        _owner, position = _name(data, position)
        if position + 10 > len(data):
            raise ValueError("truncated record")
        kind, klass, ttl, length = struct.unpack_from("!HHIH", data, position)
        payload = data[position + 10 : position + 10 + length]
        if len(payload) != length:
            raise ValueError("truncated record")
        position += 10 + length
        if klass == _IN and (kind, length) in ((A, 4), (AAAA, 16)):
            family = socket.AF_INET if kind == A else socket.AF_INET6
            yield socket.inet_ntop(family, payload), ttl


def reverse_address(name: str) -> str:
    """The address that a PTR name asks for; "" when it is none."""
    try:
        if name.endswith(".in-addr.arpa"):
            parts = name.removesuffix(".in-addr.arpa").split(".")
            return socket.inet_ntoa(bytes(int(part) for part in reversed(parts))) if len(parts) == 4 else ""
        if name.endswith(".ip6.arpa"):
            digits = "".join(reversed(name.removesuffix(".ip6.arpa").split(".")))
            return socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
    except (ValueError, OSError):
        pass
    return ""
