"""Compressed streams: what comes in is recognised by its first bytes, what goes out is gzip or zstd.

Everything here passes pieces of about a megabyte, so that the libraries, which release the interpreter lock,
run beside the threads that read, hash and write.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from sampan import errors

PIECE = 1 << 20
Read = Callable[[int], bytes]
"""Reads at most n bytes; b"" is the end."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)


def detect(head: bytes) -> str:
    """``gzip``, ``zstd``, ``bzip2``, ``xz``, or ``""`` for what isn't compressed; six bytes suffice.

    A skippable frame (magic 0x184D2A5?) in front of zstd data counts as zstd (RFC 8878, 3.1.2).
    """
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        return "zstd"
    return ""


def _codec(kind: str) -> tuple[Callable[[], _Decompressor], type[Exception]]:
    """What makes a decompressor, and its own error. Loaded when first needed, not in an idle engine."""
    if kind == "gzip":
        from isal import igzip_lib

        failure = cast("type[Exception]", igzip_lib.IsalError)  # its stub says it were an instance
        return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), failure
    if kind == "zstd":
        from backports import zstd

        return zstd.ZstdDecompressor, zstd.ZstdError
    if kind == "bzip2":
        return bz2.BZ2Decompressor, OSError
    return lzma.LZMADecompressor, lzma.LZMAError


def decompressed(kind: str, read: Read) -> Iterator[bytes]:
    """Pieces of the content of a ``kind`` stream; several members or frames in a row are one content.

    Raises InvalidParameter in the words of Go's decoders when the stream is damaged or cut off.
    """
    make, failure = _codec(kind)
    data = read(PIECE)
    while data:
        codec = make()
        while True:
            try:
                piece = codec.decompress(data, PIECE)
            except (failure, OSError, EOFError) as error:
                raise errors.InvalidParameter(f"{kind}: invalid data: {error}") from error
            if piece:
                yield piece
            if codec.eof:
                break
            data = b""
            if codec.needs_input:
                data = read(PIECE)
                if not data:
                    raise errors.InvalidParameter("unexpected EOF")
        data = codec.unused_data.lstrip(b"\0") or read(PIECE)
        if detect(data) != kind:
            # gzip(1) and Go take what follows a complete stream for padding only when it is zero.
            if data.strip(b"\0"):
                raise errors.InvalidParameter(f"{kind}: invalid header")
            return


def pieces(read: Read) -> Iterator[bytes]:
    """Content of a stream of any known kind, uncompressed."""
    head = read(PIECE)
    while len(head) < 6 and (more := read(PIECE)):
        head += more
    source = prefixed(head, read)
    kind = detect(head)
    if kind:
        yield from decompressed(kind, source)
    else:
        while piece := source(PIECE):
            yield piece


def prefixed(head: bytes, read: Read) -> Read:
    """``read`` with ``head`` put back in front."""

    def again(size: int) -> bytes:
        nonlocal head
        if head:
            out, head = head[:size], head[size:]
            return out
        return read(size)

    return again


def gzip_pieces(source: Iterator[bytes], level: int = 1) -> Iterator[bytes]:
    """``source`` as one gzip member without name or time, so that equal content gives equal bytes."""
    from isal import isal_zlib

    codec = isal_zlib.compressobj(level=level, wbits=31)
    for piece in source:
        if out := codec.compress(piece):
            yield out
    yield codec.flush()


def zstd_pieces(source: Iterator[bytes], level: int = 3) -> Iterator[bytes]:
    """``source`` as one zstd frame."""
    from backports import zstd

    codec = zstd.ZstdCompressor(level=level)
    for piece in source:
        if out := codec.compress(piece):
            yield out
    yield codec.flush()
