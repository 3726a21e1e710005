"""Reading the records of log driver local (:mod:`sampan.runtime.locallog`): in runs, and the last ones.

A file can have a torn record after a power cut: what isn't a record is passed over up to the next one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from sampan.runtime import locallog

_START = b"\n\6std"  # the source's field with which each message begins
_LARGEST = 1_000_000  # bytes of a message, as Docker's reader has it
_SMALLEST = len(_START)
_WINDOW = 64 * 1024
_SMALL_WINDOW, _LARGE_WINDOW = (
    4 * 1024,
    256 * 1024,
)  # bytes looked at in one go: more as long as records are alike
_length = struct.Struct(">I").unpack_from


@dataclass(slots=True)
class Run:
    """Lines of one stream with one time; ``text`` lacks its last newline when that line goes on later."""

    stream: str
    time: int  # ns since 1970
    text: bytes
    attrs: dict[str, str] = field(default_factory=dict)


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

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.taken = 0

    def __iter__(self) -> Iterator[Run]:
        """The whole records; those after each other that differ in their lines only are one run."""
        data = self._data
        while self.taken < len(data):
            position = self.taken
            end = _end_of(data, position)
            if end == 0:
                return
            self.taken = end if end > 0 else _next(data, position)
            if end < 0:
                continue
            try:
                run, head, tail = _decoded(data[position + 4 : end - 4])
            except (IndexError, ValueError):
                continue
            if head:
                lines, self.taken = _alike(data, end, head, tail)
                run.text += b"\n".join([*lines, b""])
            yield run


def _alike(data: bytes, position: int, head: bytes, tail: bytes) -> tuple[list[bytes], int]:
    """The lines of most records from ``position`` that have the same before and after them; where these end.

    They are cut out by what is before them, and what would be written for them is compared with what is there.
    """
    lines: list[bytes] = []
    size, largest = _SMALL_WINDOW, _LARGE_WINDOW
    cut = 8 + len(tail)
    line = locallog.LINE[0]
    while data.startswith(head, position + 4):
        end = data.rfind(head, position, position + size) - 4
        if end <= position:
            break
        piece = data[position:end]
        parts = (piece + b"\0\0\0\0").split(head)
        try:
            found = [part[2 + (part[1] > 127) : -cut] if part[0] == line else b"" for part in parts[1:]]
        except IndexError:
            break
        if locallog.alike(head, found, tail) != piece:
            break
        lines += found
        position, size = end, min(size * 4, largest)
    return lines, position


def _decoded(message: bytes) -> tuple[Run, bytes, bytes]:
    """A message, and what is before and after its line; empty for a part of a line. ValueError, IndexError."""
    values: dict[int, bytes] = {}
    attributes: dict[str, str] = {}
    head_end = line_end = 0
    for number, value, end in _fields(message):
        values[number] = value
        if number == 6:
            key, text = (dict(pair[:2] for pair in _fields(value)).get(part, b"") for part in (1, 2))
            attributes[key.decode("utf-8", "replace")] = text.decode("utf-8", "replace")
        elif number == 2:
            head_end = line_end = end
        elif number == 3:
            line_end = end
    part = values.get(4, b"\0") != b"\0"
    goes_on = part and dict(field[:2] for field in _fields(values.get(5, b""))).get(1, b"\0") == b"\0"
    text = values.get(3, b"")
    source, time = values.get(1, b"").decode(), _number(values.get(2, b"\0"))
    run = Run(source, time, text if goes_on else text + b"\n", attributes)
    return (run, b"", b"") if part else (run, message[:head_end], message[line_end:])


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
