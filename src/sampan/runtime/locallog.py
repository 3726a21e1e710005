"""Log records of driver local: Docker's LogEntry messages (protobuf), each with its length at both ends.

A record is the message's length (4 bytes, big-endian), the message, and the length again, so that a file is
read from either end. Fields: source (1), time in ns (2), line without its newline (3), whether it is a part of
a longer line (4) and of which (5: whether the last, id, ordinal), attributes (6). Bytes stay as they are.
Import-light: monitors load this.
"""

from __future__ import annotations

import os

FIRST_BYTE = b"\0"  # of each file: no message has 16 MiB
_SOURCES = {1: b"\n\6stdout", 2: b"\n\6stderr"}
LINE = b"\x1a"  # begins the field that has the line
_PARTIAL = b"\x20\1"
_ENDS = 8  # bytes of both lengths


def varint(number: int) -> bytes:
    """A whole number from 0 in protobuf's variable length."""
    out = b""
    while number > 127:
        out += bytes((number & 127 | 128,))
        number >>= 7
    return out + bytes((number,))


def field(number: int, value: bytes) -> bytes:
    """A field of bytes or text."""
    return bytes((number << 3 | 2,)) + varint(len(value)) + value


def attributes(values: dict[str, str]) -> bytes:
    """The attributes' fields."""
    pairs = [[part.encode("utf-8", "replace") for part in pair] for pair in sorted(values.items())]
    return b"".join(field(6, field(1, key) + field(2, value)) for key, value in pairs)


def fitting(records: bytes, room: int) -> int:
    """Bytes of whole records at the beginning that fit into ``room``; those of the first if it is negative."""
    end = 0
    while end < len(records):
        following = end + _ENDS + int.from_bytes(records[end : end + 4], "big")
        if following > room >= 0:
            break
        end = following
        if room < 0:
            break
    return end


def alike(head: bytes, lines: list[bytes], tail: bytes) -> bytes:
    """Records of whole lines between the same fields: around a line all depends on its length only."""
    sizes = list(map(len, lines))
    before: dict[int, bytes] = {}
    after: dict[int, bytes] = {}
    for size in set(sizes):
        start = head + LINE + varint(size) if size else head
        length = (len(start) + size + len(tail)).to_bytes(4, "big")
        before[size], after[size] = length + start, tail + length
    parts = [b""] * (3 * len(lines))
    parts[::3] = map(before.__getitem__, sizes)
    parts[1::3] = lines
    parts[2::3] = map(after.__getitem__, sizes)
    return b"".join(parts)


class Encoder:
    """Makes the records of one stream; knows the line that isn't finished."""

    def __init__(self, stream: int, noted: bytes) -> None:
        """``noted``: what :func:`attributes` gives."""
        self._source = _SOURCES[stream]
        self._noted = noted
        self._open = b""  # the id of the unfinished line
        self._ordinal = 0

    def records(self, text: bytes, now: int) -> bytes:
        """Records of the lines of ``text``, seen at ``now``; what follows the last newline is a part of one."""
        head = self._source + b"\x10" + varint(now)
        lines = text.split(b"\n")
        rest = lines.pop()
        begin = self._part(head, lines.pop(0), last=True) if self._open and lines else b""
        end = self._part(head, rest, last=False) if rest else b""
        whole = alike(head, lines, self._noted) if lines else b""
        return begin + whole + end if begin or end else whole

    def _part(self, head: bytes, text: bytes, *, last: bool) -> bytes:
        if not self._open:
            self._open, self._ordinal = os.urandom(32).hex().encode(), 0
        self._ordinal += 1
        which = (b"\x08\1" if last else b"") + field(2, self._open) + b"\x18" + varint(self._ordinal)
        message = head + (field(3, text) if text else b"") + _PARTIAL + field(5, which) + self._noted
        if last:
            self._open = b""
        length = len(message).to_bytes(4, "big")
        return length + message + length
