"""How to make a layer's archive again, byte for byte: what a tar has besides the files' contents.

A record holds the archive's headers, padding and trailer as they came, and for each payload where it lies in
the layer: path, offset, length. Stored as one zstd frame of a thirtieth of the headers' size.

Form: ``<u32 n> n raw bytes <u32 m> m bytes of path <u64 offset> <u64 length>``, repeated; m = 0 ends it.
A path whose file an archive replaced by a later member of the same name is found through ``moved``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from sampan import errors
from sampan.kernel import paths
from sampan.storage.compress import decompressed

_U32 = struct.Struct("<I")
_TAIL = struct.Struct("<QQ")
_FLUSH = 1 << 18
_PIECE = 1 << 20

Moved = list[tuple[int, str, int]]
"""(number of payloads recorded before, path as hex, n): that path's tree was put aside as ``extra/n``."""


class RecordWriter:
    """Collects a record and writes it to ``path``."""

    def __init__(self, path: Path) -> None:
        from backports import zstd  # late: an idle engine does without its half megabyte

        self._file = open(path, "wb", buffering=0)
        self._codec = zstd.ZstdCompressor(level=3)
        self._raw: list[bytes] = []
        self._raw_size = 0
        self._out: list[bytes] = []
        self._out_size = 0
        self.payloads = 0

    def raw(self, data: bytes | memoryview) -> None:
        """Bytes that are kept in the record itself."""
        self._raw.append(bytes(data))
        self._raw_size += len(data)
        if self._raw_size > _FLUSH:
            self._operation(b"\0", 0, 0)

    def file(self, path: bytes, offset: int, length: int) -> None:
        """Bytes that are found in the layer's file ``path``."""
        self.payloads += 1
        self._operation(path, offset, length)

    def _operation(self, path: bytes, offset: int, length: int) -> None:
        self._out += (_U32.pack(self._raw_size), *self._raw, _U32.pack(len(path)), path)
        self._out.append(_TAIL.pack(offset, length))
        self._out_size += self._raw_size + len(path) + 24
        self._raw, self._raw_size = [], 0
        if self._out_size > _FLUSH:
            self._flush()

    def _flush(self) -> None:
        self._file.write(self._codec.compress(b"".join(self._out)))
        self._out, self._out_size = [], 0

    def close(self) -> None:
        """Write the rest; without it the record isn't complete."""
        if self._raw_size:
            self._operation(b"\0", 0, 0)
        self._out.append(_U32.pack(0) + _U32.pack(0))
        self._flush()
        self._file.write(self._codec.flush())
        self.abandon()

    def abandon(self) -> None:
        """Close the file without completing it."""
        self._file.close()


class _Input:
    """Exact reads from a record's decompressed pieces. SystemFailure when it is damaged."""

    def __init__(self, path: Path, read: Callable[[int], bytes]) -> None:
        self._path = path
        self._pieces = decompressed("zstd", read)
        self._data = b""
        self._position = 0

    def take(self, size: int) -> bytes:
        while len(self._data) - self._position < size:
            piece = self._next()
            self._data = self._data[self._position :] + piece
            self._position = 0
        start = self._position
        self._position += size
        return self._data[start : start + size]

    def _next(self) -> bytes:
        try:
            return next(self._pieces)
        except (StopIteration, errors.InvalidParameter) as problem:
            raise errors.SystemFailure(
                f"{self._path}, the record of a layer, is damaged",
                hint="Remove the image and pull or load it again.",
            ) from problem


def replay(record: Path, diff: Path, extra: Path, moved: Moved) -> Iterator[bytes]:
    """The archive's bytes, in pieces. SystemFailure when a file of the layer isn't as it was."""
    with open(record, "rb", buffering=0) as file:
        source = _Input(record, file.read)
        with _Files(diff, extra, moved) as files:
            pending: list[bytes] = []
            while True:
                pending.append(source.take(_U32.unpack(source.take(4))[0]))
                size = _U32.unpack(source.take(4))[0]
                if not size:
                    break
                path = source.take(size)
                offset, length = _TAIL.unpack(source.take(16))
                if path == b"\0":
                    continue
                yield from files.payload(path, offset, length, pending)
            yield b"".join(pending)


class _Files:
    """The layer's files by path; keeps the last directory open, as neighbours follow each other."""

    def __init__(self, diff: Path, extra: Path, moved: Moved) -> None:
        self._roots = [os.open(diff, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
        if moved:
            self._roots.append(os.open(extra, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self._moved = [(before, bytes.fromhex(path), number) for before, path, number in moved]
        self._count = 0
        self._parent: tuple[int, bytes, int] | None = None

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        if self._parent is not None:
            os.close(self._parent[2])
        for fd in self._roots:
            os.close(fd)

    def payload(self, path: bytes, offset: int, length: int, pending: list[bytes]) -> Iterator[bytes]:
        """What is pending, then the file's bytes; small ones are joined to fewer pieces."""
        self._count += 1
        if length == 0:
            return
        fd = self._open(path)
        try:
            if offset:
                os.lseek(fd, offset, os.SEEK_SET)
            while length:
                data = os.read(fd, min(length, _PIECE))
                if not data:
                    raise errors.SystemFailure(
                        f"layer file {os.fsdecode(path)} is shorter than it was",
                        hint="The data root was changed from outside; remove the image and pull it again.",
                    )
                length -= len(data)
                pending.append(data)
                if len(data) >= 1 << 16 or len(pending) >= 64:
                    yield b"".join(pending)
                    pending.clear()
        finally:
            os.close(fd)

    def _open(self, path: bytes) -> int:
        root = 0
        for before, prefix, number in self._moved:
            # Only what was recorded before the move, and not already put aside, lay at this path.
            if root == 0 and self._count <= before and (path == prefix or path.startswith(prefix + b"/")):
                root, path = 1, b"%d" % number + path[len(prefix) :]
        directory, _, name = path.rpartition(b"/")
        if self._parent is None or self._parent[:2] != (root, directory):
            fd = paths.open_in_root(self._roots[root], directory, os.O_PATH | os.O_DIRECTORY)
            if self._parent is not None:
                os.close(self._parent[2])
            self._parent = (root, directory, fd)
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._parent[2])
