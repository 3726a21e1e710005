"""Runs of records in a json-file log that differ in their text only, read without decoding each.

A monitor notes one time for all lines that came together, so that their records have the same end. Such a
run is joined to one string and decoded at once; other records are left to be decoded one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from sampan.runtime import logformat

_HEAD = logformat.HEAD
_decode = msgspec.json.Decoder(str).decode
_MARK = b'\\n","stream":"'
_TIME = b'"time":"'
_FEWEST = 6  # records that make a run worth it
_SMALLEST, _LARGEST = 4 * 1024, 256 * 1024  # bytes looked at in one go: more as long as the run goes on
_STEP = 32 * 1024
"""Bytes that are left to the decoder before a run is looked for again."""


@dataclass(slots=True)
class Run:
    """Lines of one stream with one time; ``text`` lacks its last newline when that line goes on later."""

    stream: str
    time: str | int  # RFC 3339, or ns since 1970
    text: bytes
    attrs: dict[str, str] = field(default_factory=dict)


def split(block: bytes) -> Iterator[Run | bytes]:
    """A block of whole records, in order: runs, and blocks of records that are to be decoded."""
    position = 0
    size = _SMALLEST
    while position < len(block):
        piece = _lines_at(block, position, size)
        found = _run(piece)
        if found is None:
            piece = _lines_at(block, position, _STEP)
            position += len(piece)
            size = _SMALLEST
            yield piece
        else:
            run, taken = found
            position += taken
            size = min(size * 4, _LARGEST) if taken == len(piece) else _SMALLEST
            yield run


def _lines_at(block: bytes, position: int, size: int) -> bytes:
    """About ``size`` bytes of whole lines, one at least."""
    end = block.rfind(b"\n", position, position + size) + 1
    end = end or block.find(b"\n", position) + 1 or len(block)
    return block[position:end]


def _run(piece: bytes) -> tuple[Run, int] | None:
    """The run that ``piece`` begins with and its size; None when it is short or not simple enough."""
    first_end = piece.find(b"\n")
    mark = piece.find(_MARK, 0, first_end)
    if mark < 0 or not piece.startswith(_HEAD):
        return None
    suffix = piece[mark:first_end]
    lines = piece.split(b"\n")
    lines.pop()
    head, tail = len(_HEAD), -len(suffix)
    texts = [line[head:tail] for line in lines if line.endswith(suffix)]
    taken = len(piece)
    if len(texts) < len(lines):
        count = next(number for number, line in enumerate(lines) if not line.endswith(suffix))
        del texts[count:]
        taken = sum(map(len, lines[:count])) + count
    if len(texts) < _FEWEST:
        return None
    try:
        text = _decode(b'"' + b"\\n".join(texts) + b'\\n"').encode()
    except msgspec.MsgspecError:
        return None  # a torn record
    if text[-1:] != b"\n":
        return None  # the last one isn't a whole line, its text ends with a backslash and an n
    stream = suffix[len(_MARK) : suffix.index(b'"', len(_MARK))]
    time = suffix[suffix.rindex(_TIME) + len(_TIME) : -2]
    return Run(stream.decode(), time.decode(), text), taken
