"""Records of a log as the bytes that go over the wire: chosen by stream and time, decorated, framed.

A block of json-file's records is decoded in one call and goes on as lists: no function of ours is called for
each line unless times or details are asked for.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from urllib.parse import quote_plus

import msgspec

from sampan.engine.containers import loglocal
from sampan.engine.containers.loglocal import Line
from sampan.engine.containers.timestamps import parse_rfc3339, rfc3339

_STREAMS = {"stdout": 1, "stderr": 2}
_HEAD = struct.Struct(">BxxxI")
_LATEST = 253_402_300_799_999_999_999  # ns: the last moment of year 9999, RFC 3339's end
_WHOLE_SECONDS, _NANOSECONDS = 20, 30  # characters of a time without a fraction, and with all nine digits


@dataclass(frozen=True)
class LogOptions:
    """What a reader wants: streams, times in ns since 1970 (0: no bound), ``tail`` None for all lines.

    ``merge``: one frame may hold many lines of a stream.
    """

    stdout: bool = True
    stderr: bool = True
    since_ns: int = 0
    until_ns: int = 0
    tail: int | None = None
    follow: bool = False
    timestamps: bool = False
    details: bool = False
    merge: bool = False


class Formatter:
    """Turns records into the bytes that go over the wire: framed (8-byte heads) or raw for a tty."""

    def __init__(self, options: LogOptions, *, tty: bool) -> None:
        self._options = options
        self._tty = tty
        self._decode = msgspec.json.Decoder(Line).decode_lines
        self._wanted = {
            name for name, asked in (("stdout", options.stdout), ("stderr", options.stderr)) if asked
        }
        self._decorated = options.timestamps or options.details
        self._bounded = bool(options.since_ns or options.until_ns)
        self._since, self._until = _moment(options.since_ns), _moment(options.until_ns)
        self._open_line: dict[str, bool] = {}
        self.finished = False
        self.left = b""

    def format(self, block: bytes) -> bytes:
        """The output for a block of records. Sets ``finished`` once ``until`` has passed.

        Those of json-file must be whole; the begin of one of local at the block's end is ``left``.
        """
        self.left = b""
        if not loglocal.begins(block):
            return b"".join(self._of_lines(self._records(block)))
        records = loglocal.Records(block, timed=self._bounded or self._options.timestamps)
        out = b"".join(self._of_lines(records.read()))
        self.left = block[records.taken :]
        return out

    def seconds_left(self) -> float | None:
        """Seconds until the moment ``until``; None when there is no such bound."""
        if not self._options.until_ns:
            return None
        return max(0.0, (self._options.until_ns - time.time_ns()) / 1e9)

    def _records(self, block: bytes) -> list[Line]:
        try:
            return self._decode(block)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return list(_salvage(block))

    def _of_lines(self, lines: list[Line]) -> Sequence[bytes]:
        if self._bounded:
            lines = list(self._within(lines))
        if len(self._wanted) < len(_STREAMS):
            lines = [line for line in lines if line.stream in self._wanted]
        if not lines:
            return ()
        texts = list(self._with_decoration(lines)) if self._decorated else [line.log for line in lines]
        if self._tty:
            return (_bytes("".join(texts)),)
        streams = [line.stream for line in lines]
        if not self._options.merge:
            return _frames(streams, [_bytes(text) for text in texts])
        if streams.count(streams[0]) == len(streams):
            return _frames(streams[:1], [_bytes("".join(texts))])
        return _merged(streams, texts)

    def _within(self, lines: list[Line]) -> Iterator[Line]:
        last, good = None, False
        for line in lines:
            if line.time != last:  # many lines come at once
                last = line.time
                good = self._is_within(_comparable(line.time))
            if self.finished:
                return
            if good:
                yield line

    def _with_decoration(self, lines: list[Line]) -> Iterator[str]:
        """The texts; those that begin a line with time and details before them."""
        open_line = self._open_line
        stamp: str | None = None
        attributes: dict[str, str] | None = None
        prefix = ""
        for line in lines:
            if line.time != stamp or line.attrs != attributes:
                stamp, attributes = line.time, line.attrs
                prefix = self._decoration(stamp, attributes or {})
            text = line.log
            yield text if open_line.get(line.stream) else prefix + text
            open_line[line.stream] = text[-1:] != "\n"

    def _is_within(self, when: str) -> bool:
        """Whether a time is between ``since`` and ``until``; ``finished`` when it is after that."""
        self.finished = bool(self._until) and when > self._until
        return when >= self._since and not self.finished

    def _decoration(self, stamp: str, attrs: dict[str, str]) -> str:
        """Time and details for where a line begins: never in the middle of one over 16 KiB."""
        prefix = f"{_nine_digits(stamp)} " if self._options.timestamps else ""
        if self._options.details:
            prefix += ",".join(f"{quote_plus(k)}={quote_plus(v)}" for k, v in sorted(attrs.items())) + " "
        return prefix


def _salvage(block: bytes) -> Iterator[Line]:
    """A power cut can leave a torn record: every record that can be read is delivered."""
    for raw in block.decode("utf-8", "replace").split("\n"):
        # A torn record has no newline: the next one begins in the same line.
        for candidate in (raw, raw[raw.rfind('{"log":') :]):
            try:
                yield msgspec.json.decode(candidate, type=Line)
                break
            except msgspec.MsgspecError:
                continue


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _frames(streams: Sequence[str], texts: list[bytes]) -> list[bytes]:
    """A head before each text."""
    keys: list[tuple[str, int]] = list(zip(streams, map(len, texts), strict=True))
    heads = {key: _HEAD.pack(_STREAMS[key[0]], key[1]) for key in set(keys)}
    out = [b""] * (2 * len(texts))
    out[::2] = map(heads.__getitem__, keys)
    out[1::2] = texts
    return out


def _merged(streams: Sequence[str], texts: list[str]) -> list[bytes]:
    """A frame for all texts of a stream up to the next one's."""
    runs = [
        (stream, _bytes("".join(map(itemgetter(1), run))))
        for stream, run in groupby(zip(streams, texts, strict=True), itemgetter(0))
    ]
    return _frames([stream for stream, _ in runs], [text for _, text in runs])


def _moment(ns: int) -> str:
    """A bound as :func:`_comparable` has times; 0, which means none, is before all of them."""
    return _comparable(rfc3339(min(max(ns, 1), _LATEST))) if ns else ""


def _comparable(stamp: str) -> str:
    """A record's time as text that sorts as times do: without its Z and the fraction's last zeros."""
    if stamp.endswith("Z"):
        return stamp[:-1].rstrip("0").rstrip(".") if len(stamp) > _WHOLE_SECONDS else stamp[:-1]
    try:
        return _moment(parse_rfc3339(stamp))
    except ValueError:
        return ""


def _nine_digits(stamp: str) -> str:
    """An RFC 3339 time in UTC with all nine digits of its fraction."""
    if len(stamp) == _NANOSECONDS:
        return stamp
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}.{fraction.ljust(9, '0')}Z"
