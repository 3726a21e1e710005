"""The files of one container's json-file log: finding rotated ones, reading backwards, following.

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

BLOCK = 1 << 20


def rotated(path: Path) -> list[Path]:
    """The older files of ``path``, newest first."""
    found = []
    for number in range(1, 10_000):
        plain = path.with_name(f"{path.name}.{number}")
        packed = plain.with_name(plain.name + ".gz")
        if plain.exists():
            found.append(plain)
        elif packed.exists():
            found.append(packed)
        else:
            break
    return found


def open_any(path: Path) -> BinaryIO:
    """Open a log file for seeking reads; a compressed one is unpacked into an unnamed file first."""
    if path.suffix != ".gz":
        return open(path, "rb", buffering=0)
    unpacked = tempfile.TemporaryFile()
    with gzip.open(path, "rb") as packed:
        shutil.copyfileobj(packed, unpacked, BLOCK)
    unpacked.seek(0)
    return unpacked


def offset_of_last(file: BinaryIO, count: int) -> tuple[int, int]:
    """Where the last ``count`` lines begin and how many there were: ``(offset, found)``; reads backwards."""
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
        for path in [self._path, *rotated(self._path)]:
            try:
                file = open_any(path)
            except FileNotFoundError:
                continue
            self._files.insert(0, file)
            if wanted is None:
                continue
            offset, found = offset_of_last(file, wanted)
            file.seek(offset)
            wanted -= found
            if wanted <= 0:
                break

    def read(self) -> bytes:
        """The next complete lines, about 1 MiB of them; empty at the end (for now, when following)."""
        while True:
            if self._current is None:
                if not self._files:
                    return b""
                self._current = self._files.pop(0)
            block = self._current.read(BLOCK)
            if block:
                data = self._rest + block if self._rest else block
                cut = data.rfind(b"\n") + 1
                self._rest = data[cut:]
                if cut:
                    return data[:cut]
                continue
            if not self._files:
                return b""
            self._advance(self._files.pop(0))

    def _advance(self, file: BinaryIO) -> None:
        assert self._current is not None
        self._current.close()
        self._current = file

    def follow(self) -> bool:
        """After the end: change over to the next file if the writer rotated. True when more is there."""
        if self._current is None:
            self._files = list(self._newer(None))
            return bool(self._files)
        mine = os.fstat(self._current.fileno())
        if mine.st_size > self._current.tell():
            return True
        newer = list(self._newer(mine))
        if not newer:
            return False
        # Between the last read and the rename the writer may have added lines to the file that we hold.
        if os.fstat(self._current.fileno()).st_size > self._current.tell():
            return True
        self._files = newer
        return True

    def _newer(self, mine: os.stat_result | None) -> Iterator[BinaryIO]:
        """The files younger than ours, oldest first; when ours was deleted, all that are left."""
        files: list[BinaryIO] = []
        for path in [self._path, *rotated(self._path)]:
            try:
                state = path.stat()
                if mine and (state.st_ino, state.st_dev) == (mine.st_ino, mine.st_dev):
                    break
                files.insert(0, open_any(path))
            except FileNotFoundError:
                continue
        yield from files

    def close(self) -> None:
        """Close all files."""
        for file in [*self._files, *([self._current] if self._current else [])]:
            file.close()
        self._files, self._current = [], None
