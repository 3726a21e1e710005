"""Reading the records of log driver local (:mod:`sampan.runtime.locallog`): blocks of them, and the last ones.

A file can have a torn record after a power cut: what isn't a record is passed over up to the next one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Literal

import msgspec

from sampan.engine.containers.timestamps import rfc3339
from sampan.runtime import locallog

Stream = Literal["stdout", "stderr"]

_START = b"\n\6std"  # the source's field with which each message begins
_LARGEST = 1_000_000  # bytes of a message, as Docker's reader has it
_SMALLEST = len(_START)
_WINDOW = 64 * 1024
_HEADS: dict[bytes, Stream] = {b"\n\6stdout\x10": "stdout", b"\n\6stderr\x10": "stderr"}
_common = struct.Struct(">I9s9sBB")
"""The usual record's begin: length, source, time (of nine bytes from 1972 to 2262), line field, its length."""
_MOST = (1 << 63) - 1
_GOES_ON = int.from_bytes(b"\x80" * 9, "big")  # the bit of a number's bytes that have another one behind
_length = struct.Struct(">I").unpack_from


class Line(msgspec.Struct, gc=False):
    """One record of a log of either driver; ``log`` lacks its newline when the line goes on in the next record.

    Bytes that are no UTF-8 (driver local keeps them) are in it as surrogates. ``time`` is RFC 3339. Without
    ``gc`` thousands at once don't set the garbage collector off; they refer to nothing that could lead back
    to them.
    """

    log: str = ""
    stream: Stream = "stdout"
    time: str = ""
    attrs: dict[str, str] | None = None


def begins(data: bytes) -> bool:
    """Whether ``data``, which begins where a record does, is of this format; json-file's begins with a brace."""
    return data[:1] == b"\0" and _START.startswith(data[4 : 4 + len(_START)])


def _end_of(data: bytes, position: int) -> int:
    """Where the record at ``position`` ends; 0 when it goes on after ``data``, -1 when there is none."""
    if len(data) < position + 4:
        return 0
    (size,) = _length(data, position)
    if not _SMALLEST <= size <= _LARGEST:
        return -1
    end = position + 8 + size
    if end > len(data):
        return 0
    return end if _length(data, end - 4)[0] == size and data.startswith(_START, position + 4) else -1


def _next(data: bytes, position: int) -> int:
    """Where after ``position`` something begins that may be a record; near the end where nothing does."""
    found = data.find(_START, position + 5)
    return found - 4 if found >= 0 else max(position + 1, len(data) - 4 - len(_START))


def _places(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the messages of all whole records begin and end."""
    position = 0
    while position < len(data):
        end = _end_of(data, position)
        if end == 0:
            return
        if end > 0:
            yield position + 4, end - 4
        position = end if end > 0 else _next(data, position)


def offset_of_last(file: BinaryIO, count: int) -> tuple[int, int]:
    """Where the last ``count`` records begin and how many there were: ``(offset, found)``; reads backwards."""
    position = file.seek(0, 2)
    found = 0
    base, window = position, b""
    while position > 0 and found < count:
        size = _size_before(window, position - base)
        if size < 0 or position - base < size + 8 < position:
            base = max(0, position - max(_WINDOW, size + 8))
            file.seek(base)
            window = file.read(position - base)
            size = _size_before(window, position - base)
        start = position - size - 8
        if size < _SMALLEST or start < 0 or _end_of(window, start - base) != position - base:
            return _offset_forward(file, count, position, found)
        position, found = start, found + 1
    return position, found


def _size_before(window: bytes, end: int) -> int:
    return _length(window, end - 4)[0] if end >= 4 else -1


def _offset_forward(file: BinaryIO, count: int, before: int, found: int) -> tuple[int, int]:
    """The same where the file can't be read backwards before the offset ``before``: something is torn there."""
    file.seek(0)
    starts = [begin - 4 for begin, _ in _places(file.read(before))][-(count - found) :]
    return (starts[0] if starts else before), found + len(starts)


class Records:
    """The records of a block, which begins where one does; ``taken`` are the bytes of those that were read."""

    def __init__(self, data: bytes, *, timed: bool) -> None:
        """``timed``: whether the lines' times are wanted, which costs more than all else."""
        self.taken = 0
        self._data = data
        self._timed = timed
        self._stamp, self._time = b"", ""
        self._second, self._moment = -1, ""
        self._tails: dict[bytes, dict[str, str]] = {b"": {}}

    def read(self) -> list[Line]:
        """The lines of all whole records."""
        data = self._data
        lines: list[Line] = []
        last_begin = len(data) - _common.size
        position = 0
        while position < len(data):
            end = self._common(position, lines) if position <= last_begin else 0
            if not end:
                end = _end_of(data, position)
                if end == 0:
                    break
                if end > 0:
                    self._any(data[position + 4 : end - 4], lines)
            position = end if end > 0 else _next(data, position)
        self.taken = min(position, len(data))
        return lines

    def _common(self, position: int, lines: list[Line]) -> int:
        """Read a record of the usual fields, a whole line's; returns where it ends, 0 when it is another one."""
        data = self._data
        size: int
        size, head, stamp, field, length = _common.unpack_from(data, position)
        begin = position + _common.size
        if field != locallog.LINE[0]:
            begin, length = begin - 2, 0
        elif length > 127:
            length = length & 127 | data[begin] << 7 if begin < len(data) else 0
            begin += 1
        stream, end = _HEADS.get(head), position + 8 + size
        stop = begin + length
        attributes = self._tails.get(data[stop : end - 4])
        if stream is None or stop > end - 4 or attributes is None:
            return 0
        if data[end - 4 : end] != data[position : position + 4] or not self._has_time(stamp):
            return 0
        text = data[begin:stop].decode("utf-8", "surrogateescape")
        lines.append(Line(text + "\n", stream, self._time, attributes))
        return end

    def _has_time(self, stamp: bytes) -> bool:
        """Whether these are a time; ``_time`` is it then."""
        if stamp != self._stamp:
            if int.from_bytes(stamp, "big") & _GOES_ON != _GOES_ON & ~0xFF:
                return False
            self._stamp = stamp
            self._time = self._shown(_number(stamp)) if self._timed else ""
        return True

    def _shown(self, when: int) -> str:
        """A time with all nine digits; the begin is kept for the others of the same second."""
        second, nanoseconds = divmod(when, 1_000_000_000)
        if second != self._second:
            self._second, self._moment = second, rfc3339(second * 1_000_000_000).rstrip("Z")
        return f"{self._moment}.{nanoseconds:09d}Z"

    def _any(self, message: bytes, lines: list[Line]) -> None:
        """Read a record of any fields; nothing when it makes no sense."""
        try:
            line, tail = self._decoded(message)
        except (IndexError, ValueError):
            return
        lines.append(line)
        if tail:
            self._tails[tail] = line.attrs or {}

    def _decoded(self, message: bytes) -> tuple[Line, bytes]:
        """A message, and what is after its line; empty for a part of a line. ValueError, IndexError."""
        values: dict[int, bytes] = {}
        attributes: dict[str, str] = {}
        line_end = 0
        for number, value, end in _fields(message):
            values[number] = value
            if number == 6:
                key, text = (dict(pair[:2] for pair in _fields(value)).get(part, b"") for part in (1, 2))
                attributes[key.decode("utf-8", "replace")] = text.decode("utf-8", "replace")
            elif number in (2, 3):
                line_end = end
        part = values.get(4, b"\0") != b"\0"
        goes_on = part and dict(field[:2] for field in _fields(values.get(5, b""))).get(1, b"\0") == b"\0"
        stream: Stream = "stderr" if values.get(1) == b"stderr" else "stdout"
        when = self._shown(_number(values.get(2, b"\0")) & _MOST) if self._timed else ""
        shown = values.get(3, b"").decode("utf-8", "surrogateescape") + ("" if goes_on else "\n")
        return Line(shown, stream, when, attributes), b"" if part else message[line_end:]


def _fields(message: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Number, value and end of each field; a number's value is the varint. ValueError, IndexError."""
    position = 0
    while position < len(message):
        tag, kind = message[position] >> 3, message[position] & 7
        value = _varint(message, position + 1)
        position += 1 + len(value)
        if kind == 2:
            size = _number(value)
            value = message[position : position + size]
            if len(value) < size:
                raise ValueError("the field is longer than its message")
            position += size
        elif kind != 0:
            raise ValueError(f"field of type {kind}")
        yield tag, value, position


def _varint(data: bytes, position: int) -> bytes:
    end = position
    while data[end] > 127:
        end += 1
    return data[position : end + 1]


def _number(value: bytes) -> int:
    number = 0
    for byte in reversed(value):
        number = number << 7 | byte & 127
    return number
