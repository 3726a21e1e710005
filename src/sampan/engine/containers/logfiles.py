"""The files of one container's log (json-file or local): finding rotated ones, reading backwards, following.

Everything here blocks and runs in a thread; nothing decodes lines. Rotated files are ``path.1`` (newest) to
``path.N``, ``.gz`` when compressed.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sampan.engine.containers import loglocal

BLOCK = 1 << 20


def _opened(path: Path) -> Iterator[tuple[BinaryIO, os.stat_result]]:
    """The files of ``path`` from the newest on, open, each with its state; also while the writer rotates."""
    seen = set()
    for number in range(10_000):
        plain = path.with_name(f"{path.name}.{number}") if number else path
        try:
            file, state = _open_any(plain)
        except FileNotFoundError:
            if number:
                return
            continue
        if state.st_ino in seen:
            file.close()  # its name changed meanwhile
            continue
        seen.add(state.st_ino)
        yield file, state


def _open_any(plain: Path) -> tuple[BinaryIO, os.stat_result]:
    """Open a log file for seeking reads; a compressed one is unpacked into an unnamed file first."""
    try:
        file = open(plain, "rb", buffering=0)
        return file, os.fstat(file.fileno())
    except FileNotFoundError:
        with open(plain.with_name(plain.name + ".gz"), "rb") as packed:
            return _unpacked(packed), os.fstat(packed.fileno())


def _unpacked(packed: BinaryIO) -> BinaryIO:
    unpacked = tempfile.TemporaryFile()
    with gzip.open(packed, "rb") as content:
        shutil.copyfileobj(content, unpacked, BLOCK)
    unpacked.seek(0)
    return unpacked


def offset_of_last(file: BinaryIO, count: int) -> tuple[int, int]:
    """Where the last ``count`` records begin and how many there were: ``(offset, found)``; reads backwards."""
    file.seek(0)
    if loglocal.begins(file.read(8)):
        return loglocal.offset_of_last(file, count)
    position = file.seek(0, os.SEEK_END)
    found = 0
    # A file's last newline ends the last line; it doesn't begin one more.
    limit = count + 1
    while position > 0:
        size = min(65536, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        newlines = block.count(b"\n")
        if found + newlines < limit:
            found += newlines
            continue
        index = len(block)
        while found < limit:
            index = block.rindex(b"\n", 0, index)
            found += 1
        return position + index + 1, count
    return 0, found


class LogFiles:
    """A cursor over a log that starts with its last ``tail`` lines (None: all) and goes on to its end."""

    def __init__(self, path: Path, tail: int | None) -> None:
        self._path = path
        self._files: list[BinaryIO] = []
        self._current: BinaryIO | None = None
        self._rest = b""
        self._open(tail)

    def _open(self, tail: int | None) -> None:
        wanted = tail
        for file, _ in _opened(self._path):
            self._files.insert(0, file)
            if wanted is None:
                continue
            offset, found = offset_of_last(file, wanted)
            file.seek(offset)
            wanted -= found
            if wanted <= 0:
                break

    def read(self) -> bytes:
        """About 1 MiB of records of one format; empty at the end (for now, when following).

        Of json-file whole ones, of local what there is: the rest comes again after :meth:`put_back`.
        """
        while True:
            if self._current is None:
                if not self._files:
                    return b""
                self._current = self._files.pop(0)
            block = self._current.read(BLOCK)
            if block:
                data = self._rest + block if self._rest else block
                cut = len(data) if loglocal.begins(data) else data.rfind(b"\n") + 1
                self._rest = data[cut:]
                if cut:
                    return data[:cut]
                continue
            if not self._files:
                return b""
            self._advance(self._files.pop(0))

    def put_back(self, rest: bytes) -> None:
        """The begin of a record from the end of what was read last."""
        self._rest = rest + self._rest

    def _advance(self, file: BinaryIO) -> None:
        assert self._current is not None
        self._current.close()
        self._current = file
        if loglocal.begins(self._rest):
            self._rest = b""  # torn, and would hide a record

    def follow(self) -> bool:
        """After the end: change over to the next file if the writer rotated. True when more is there."""
        if self._current is None:
            self._files = self._newer(None)
            return bool(self._files)
        mine = os.fstat(self._current.fileno())
        if mine.st_size > self._current.tell():
            return True
        newer = self._newer(mine)
        if not newer:
            return False
        # Between the last read and the rename the writer may have added lines to the file that we hold.
        if os.fstat(self._current.fileno()).st_size > self._current.tell():
            for file in newer:
                file.close()
            return True
        self._files = newer
        return True

    def _newer(self, mine: os.stat_result | None) -> list[BinaryIO]:
        """The files younger than ours, oldest first; when ours was deleted, all that are left."""
        files: list[BinaryIO] = []
        for file, state in _opened(self._path):
            if mine and (_same(state, mine) or _packed_from(mine, state, file)):
                file.close()
                break
            files.insert(0, file)
        return files

    def close(self) -> None:
        """Close all files."""
        for file in [*self._files, *([self._current] if self._current else [])]:
            file.close()
        self._files, self._current = [], None


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_ino, one.st_dev) == (other.st_ino, other.st_dev)


def _packed_from(mine: os.stat_result, packed: os.stat_result, content: BinaryIO) -> bool:
    """Whether a compressed file has what ours has: the writer gives it the same time."""
    return packed.st_mtime_ns == mine.st_mtime_ns and os.fstat(content.fileno()).st_size == mine.st_size
