"""Reading tar archives: headers of every kind that is met in images, payload without copies.

Understands V7, ustar, star, GNU (long names, base-256 numbers, sparse files) and pax (tar(5), pax(1)).
Names, link names and values stay bytes: they need not be UTF-8. Every byte that isn't payload of a file is
handed to a recorder, so that the archive can be made again exactly as it was.

``tarfile`` of the standard library takes twice the time, decodes names, and can't give the raw bytes.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from sampan import errors

BLOCK = 512
_ZERO_BLOCK = bytes(BLOCK)
_META_LIMIT = 1 << 20  # bytes of one pax header or long name, as in Go's reader
_SPARSE_LIMIT = 1 << 17  # pieces of one sparse file

REGULAR, LINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
GLOBAL_PAX = b"g"
_HEADER_ONLY = frozenset((LINK, SYMLINK, CHAR, BLOCKDEV, DIRECTORY, FIFO))

_HEADER = struct.Struct("100s8s8s8s12s12s8ss100s8s32s32s8s8s155s12s")
_SPACES = 8 * 32


class ArchiveError(errors.SystemFailure):
    """The archive is damaged or cut off. The words are Go's, which Docker's clients know."""


class Recorder(Protocol):
    """Takes the archive's bytes in their order: ``raw`` for all that isn't payload kept elsewhere."""

    def raw(self, data: bytes | memoryview) -> None:
        """Bytes to keep as they are."""


class Source:
    """Exact reads and streamed reads over pieces of any length."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._view = memoryview(b"")
        self._position = 0

    def _refill(self) -> bool:
        for piece in self._pieces:
            if len(piece):
                self._view, self._position = memoryview(piece), 0
                return True
        return False

    def exactly(self, size: int) -> bytes:
        """``size`` bytes; b"" at a clean end; ArchiveError when the source ends within."""
        start = self._position
        end = start + size
        if end <= len(self._view):
            self._position = end
            return self._view[start:end].tobytes()
        parts = b"".join(self.stream(size, short=True))
        if len(parts) not in (0, size):
            raise ArchiveError("unexpected EOF")
        return parts

    def stream(self, size: int, *, short: bool = False) -> Iterator[memoryview]:
        """``size`` bytes in pieces that share memory with the source. ``short`` allows an early end."""
        while size > 0:
            start = self._position
            here = len(self._view) - start
            if here == 0:
                if self._refill():
                    continue
                if short:
                    return
                raise ArchiveError("unexpected EOF")
            step = min(size, here)
            self._position = start + step
            size -= step
            yield self._view[start : start + step]

    def rest(self) -> Iterator[memoryview]:
        """All that is left."""
        while True:
            if self._position < len(self._view):
                view = self._view[self._position :]
                self._position = len(self._view)
                yield view
            if not self._refill():
                return


class Entry:
    """One member. ``size`` counts payload bytes in the archive; ``real_size`` the file's length."""

    __slots__ = (
        "gid",
        "linkname",
        "major",
        "minor",
        "mode",
        "mtime_ns",
        "name",
        "real_size",
        "size",
        "sparse",
        "type",
        "uid",
        "xattrs",
    )

    def __init__(self, name: bytes, kind: bytes) -> None:
        self.name = name
        self.type = kind
        self.linkname = b""
        self.mode = self.uid = self.gid = self.size = self.real_size = 0
        self.mtime_ns = 0
        self.major = self.minor = 0
        self.xattrs: dict[str, bytes] = {}
        self.sparse: list[tuple[int, int]] | None = None


class TarReader:
    """Iterates over the members of an archive; ``payload()`` streams the current one's bytes."""

    def __init__(self, pieces: Iterable[bytes | memoryview], recorder: Recorder | None = None) -> None:
        self.source = Source(pieces)
        self._recorder = recorder
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        """Members in the order of the archive. What of a payload wasn't read is skipped (and recorded)."""
        pax: list[tuple[bytes, bytes]] = []
        long_name = long_link = b""
        while header := self._next_header():
            fields = _HEADER.unpack(header)
            kind: bytes = fields[7]
            if kind in b"xXLK":
                data = self._meta(number(fields[4]))
                if kind == b"L":
                    long_name = data.split(b"\0", 1)[0]
                elif kind == b"K":
                    long_link = data.split(b"\0", 1)[0]
                else:
                    pax = parse_pax(data)
                continue
            entry = _entry(header, fields)
            if pax:
                _apply_pax(entry, pax)
            if long_name:
                entry.name = long_name
            if long_link:
                entry.linkname = long_link
            self._begin(entry, pax)
            pax, long_name, long_link = [], b"", b""
            yield entry

    def payload(self) -> Iterator[memoryview]:
        """The current member's bytes as they lie in the archive (a sparse file's pieces back to back)."""
        for view in self.source.stream(self._left):
            self._left -= len(view)
            yield view

    def finish(self) -> None:
        """Read to the source's very end, so that digests over the whole stream are right."""
        self._skip()
        for view in self.source.rest():
            self._raw(view)

    def _raw(self, data: bytes | memoryview) -> None:
        if self._recorder is not None:
            self._recorder.raw(data)

    def _skip(self) -> None:
        for view in self.payload():
            self._raw(view)
        if self._padding:
            # Go's reader allows a last member without its padding.
            for view in self.source.stream(self._padding, short=True):
                self._raw(view)
            self._padding = 0

    def _next_header(self) -> bytes:
        """The next header block, checked; b"" at the end of the archive."""
        self._skip()
        header = self.source.exactly(BLOCK)
        self._raw(header)
        if header == _ZERO_BLOCK:
            header = self.source.exactly(BLOCK)
            self._raw(header)
            if header not in (b"", _ZERO_BLOCK):
                raise ArchiveError("archive/tar: invalid tar header")
            return b""
        if header and not _checksum_right(header):
            raise ArchiveError("archive/tar: invalid tar header")
        return header

    def _meta(self, size: int) -> bytes:
        """The whole payload of a pax header or long name."""
        if size > _META_LIMIT:
            raise ArchiveError("archive/tar: header field too long")
        self._left, self._padding = size, -size % BLOCK
        data = b"".join(self.source.stream(size))
        self._left = 0
        self._raw(data)
        return data

    def _begin(self, entry: Entry, pax: list[tuple[bytes, bytes]]) -> None:
        if entry.type in _HEADER_ONLY:
            entry.size = 0
        self._left, self._padding = entry.size, -entry.size % BLOCK
        if entry.type == b"S":
            self._gnu_sparse(entry)
        elif pax:
            self._pax_sparse(entry, pax)
        if entry.sparse is None:
            entry.real_size = entry.size
            if entry.type == REGULAR and entry.name.endswith(b"/"):
                entry.type = DIRECTORY  # as V7 wrote them; a payload, if any, is skipped
        else:
            _check_sparse(entry, self._left)

    def _gnu_sparse(self, entry: Entry) -> None:
        """The old GNU form: a map that goes on in blocks behind the header (tar(5), "GNU tar")."""
        pieces = entry.sparse or []
        extended = entry.minor
        while extended:
            block = self.source.exactly(BLOCK)
            if not block:
                raise ArchiveError("unexpected EOF")
            self._raw(block)
            pieces += _sparse_pairs(block, 0, 21)
            extended = block[504]
            if len(pieces) > _SPARSE_LIMIT:
                raise ArchiveError("archive/tar: header field too long")
        entry.sparse, entry.type, entry.minor = pieces, REGULAR, 0

    def _pax_sparse(self, entry: Entry, pax: list[tuple[bytes, bytes]]) -> None:
        """The pax forms 0.0, 0.1 and 1.0 of sparse files (GNU tar manual, "Storing Sparse Files")."""
        values = dict(pax)
        if not any(key.startswith(b"GNU.sparse.") for key in values):
            return
        if name := values.get(b"GNU.sparse.name"):
            entry.name = name
        size = values.get(b"GNU.sparse.realsize") or values.get(b"GNU.sparse.size")
        if values.get(b"GNU.sparse.major") == b"1":
            entry.sparse = self._sparse_map_in_data()
        elif b"GNU.sparse.map" in values:
            entry.sparse = _pairs([_decimal(part) for part in values[b"GNU.sparse.map"].split(b",") if part])
        else:
            names = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
            entry.sparse = _pairs([_decimal(value) for key, value in pax if key in names])
        entry.real_size = _decimal(size) if size else entry.size

    def _sparse_map_in_data(self) -> list[tuple[int, int]]:
        """Form 1.0: decimal lines at the payload's start, padded to whole blocks."""
        text, wanted = b"", 1
        numbers: list[int] = []
        while len(numbers) < wanted:
            block = self.source.exactly(BLOCK)
            if not block or self._left < BLOCK or len(text) > 32:
                raise ArchiveError("archive/tar: invalid tar header")
            self._left -= BLOCK
            self._raw(block)
            *lines, text = (text + block).split(b"\n")
            numbers += [_decimal(line) for line in lines[: wanted - len(numbers)]]
            if wanted == 1 and numbers:
                wanted = 1 + 2 * numbers[0]
                if numbers[0] > _SPARSE_LIMIT:
                    raise ArchiveError("archive/tar: header field too long")
                numbers += [_decimal(line) for line in lines[1:wanted]]
        return _pairs(numbers[1:wanted])


def looks_like_header(block: bytes) -> bool:
    """Whether a file that begins with ``block`` is an archive: a right header, or zeros (an empty one)."""
    if len(block) < BLOCK:
        return False
    try:
        return block == _ZERO_BLOCK or _checksum_right(block)
    except ArchiveError:
        return False


def number(field: bytes) -> int:
    """A numeric field: octal text, or GNU's base-256 when the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
        # The second bit is the sign of the two's complement number.
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    text = field.strip(b" \0").split(b"\0", 1)[0]
    if not text:
        return 0
    try:
        return int(text, 8)
    except ValueError:
        raise ArchiveError("archive/tar: invalid tar header") from None


def _checksum_right(header: bytes) -> bool:
    """Compare with the sum of all bytes, the checksum's own taken as spaces; some old tars summed signed.

    Adler-32's low half is one plus the sum of the bytes modulo 65521, at a tenth of the
    time of ``sum()``; the rare larger sums take the slow way.
    """
    wanted = number(header[148:156])
    blank = _SPACES - sum(header[148:156])
    if (zlib.adler32(header) & 0xFFFF) - 1 + blank == wanted:
        return True
    total = sum(header) + blank
    if total == wanted:
        return True
    rest = header[:148] + header[156:]
    return total - 256 * sum(byte > 127 for byte in rest) == wanted


def _entry(header: bytes, fields: tuple[bytes, ...]) -> Entry:
    name = fields[0].split(b"\0", 1)[0]
    kind = fields[7]
    entry = Entry(name, kind)
    magic = fields[9]
    if magic == b"ustar\x0000":
        prefix = fields[14][:131] if header[508:] == b"tar\0" else fields[14]
        if prefix[0]:
            entry.name = prefix.split(b"\0", 1)[0] + b"/" + name
    elif kind == b"S":
        entry.sparse = _sparse_pairs(header, 386, 4)
        entry.real_size = number(header[483:495])
    entry.linkname = fields[8].split(b"\0", 1)[0]
    entry.mode = number(fields[1]) & 0o7777
    entry.uid, entry.gid = number(fields[2]), number(fields[3])
    entry.size = number(fields[4])
    if entry.size < 0:
        raise ArchiveError("archive/tar: invalid tar header")
    entry.mtime_ns = number(fields[5]) * 1_000_000_000
    if kind in (b"\0", b"7"):
        entry.type = REGULAR
    if magic[:5] == b"ustar" and kind in (CHAR, BLOCKDEV):
        entry.major, entry.minor = number(fields[12]), number(fields[13])
    elif kind == b"S":
        entry.minor = header[482]  # "more of the map follows", until _gnu_sparse has read it
    return entry


_PAX_LENGTH = re.compile(rb"([0-9]{1,19}) ")


def parse_pax(data: bytes) -> list[tuple[bytes, bytes]]:
    """Records ``length key=value\\n`` in their order (pax(1), "pax Extended Header")."""
    records = []
    position = 0
    while position < len(data):
        match = _PAX_LENGTH.match(data, position)
        end = position + int(match[1]) if match else 0
        if match is None or end > len(data) or end <= match.end() or data[end - 1] != 0x0A:
            raise ArchiveError("archive/tar: invalid tar header")
        key, equals, value = data[match.end() : end - 1].partition(b"=")
        if not equals or not key or b"\0" in key:
            raise ArchiveError("archive/tar: invalid tar header")
        records.append((key, value))
        position = end
    return records


def _apply_pax(entry: Entry, pax: list[tuple[bytes, bytes]]) -> None:
    for key, value in pax:
        if key in (b"path", b"linkpath"):
            if b"\0" in value:
                raise ArchiveError("archive/tar: invalid tar header")
            if value and key == b"path":
                entry.name = value
            elif value:
                entry.linkname = value
        elif key == b"size":
            entry.size = _decimal(value)
        elif key == b"uid":
            entry.uid = _decimal(value)
        elif key == b"gid":
            entry.gid = _decimal(value)
        elif key == b"mtime":
            entry.mtime_ns = _time(value)
        elif key.startswith(b"SCHILY.xattr."):
            entry.xattrs[key[13:].decode("utf-8", "surrogateescape")] = value


_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")


def _time(value: bytes) -> int:
    """Decimal seconds with any number of fraction digits, in nanoseconds."""
    match = _TIME.fullmatch(value)
    if match is None:
        raise ArchiveError("archive/tar: invalid tar header")
    nanoseconds = int(match[2]) * 1_000_000_000 + int((match[3] or b"").ljust(9, b"0")[:9])
    return -nanoseconds if match[1] else nanoseconds


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 19:
        raise ArchiveError("archive/tar: invalid tar header")
    return int(value)


def _pairs(numbers: list[int]) -> list[tuple[int, int]]:
    if len(numbers) % 2 or len(numbers) > 2 * _SPARSE_LIMIT:
        raise ArchiveError("archive/tar: invalid tar header")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _sparse_pairs(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    pairs = []
    for position in range(start, start + 24 * count, 24):
        if not block[position]:
            break
        pairs.append((number(block[position : position + 12]), number(block[position + 12 : position + 24])))
    return pairs


def _check_sparse(entry: Entry, payload: int) -> None:
    """Pieces in ascending order, within the file, and as long together as the payload."""
    end = 0
    for offset, length in entry.sparse or ():
        if offset < end or length < 0:
            raise ArchiveError("archive/tar: invalid tar header")
        end = offset + length
    if end > entry.real_size or sum(length for _, length in entry.sparse or ()) != payload:
        raise ArchiveError("archive/tar: invalid tar header")
