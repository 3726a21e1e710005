"""Log drivers of a monitor: what a container prints, on its way to a file.

``json-file`` and ``local`` write the same records; they differ in their defaults (``local`` rotates at 20 MB,
keeps five files and compresses them), which are in the launch plan. Docker's own ``local`` has a private
binary format that only its daemon reads.

``write(stream, data, now)`` takes any bytes, ``flush(now)`` writes unfinished lines as partial records,
``close(now)`` ends. Import-light.
"""

from __future__ import annotations

import _thread
import os
import zlib

from sampan.runtime import logformat, logpipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Log(Protocol):
        """What the monitor needs of a log."""

        # ruff: noqa: D102
        def write(self, stream: int, data: bytes, now: int) -> None: ...
        def pending(self) -> bool: ...
        def flush(self, now: int) -> None: ...
        def close(self, now: int) -> None: ...


def open_log(options: dict[str, Any] | None) -> Log:
    """The log of a launch plan's ``log`` entry. Raises OSError; ValueError for an unknown driver."""
    if not options or options["driver"] == "none":
        return NoLog()
    if options["driver"] in ("json-file", "local"):
        file = RotatingFile(options["path"], options["max_size"], options["max_file"], options["compress"])
        return JsonFile(file, options.get("attrs") or {})
    if options["driver"] == "pipe":
        return logpipe.PipedLog(options, open_log(options["file"]))
    raise ValueError(f"unknown log driver {options['driver']}")


class NoLog:
    """Driver ``none``: nothing is kept."""

    def write(self, stream: int, data: bytes, now: int) -> None:
        """Forget ``data``."""

    def pending(self) -> bool:
        """Nothing ever waits."""
        return False

    def flush(self, now: int) -> None:
        """Nothing to do."""

    def close(self, now: int) -> None:
        """Nothing to do."""


class JsonFile:
    """Driver ``json-file``: see :mod:`sampan.runtime.logformat`."""

    def __init__(self, file: RotatingFile, attributes: dict[str, str]) -> None:
        self._file = file
        self._attributes = logformat.json_attributes(attributes)
        self._rest = {1: b"", 2: b""}

    def write(self, stream: int, data: bytes, now: int) -> None:
        """Append ``data`` of stdout (1) or stderr (2) seen at ``now`` (ns); an unfinished line waits."""
        rest = self._rest[stream]
        texts, self._rest[stream] = logformat.pieces(rest + data if rest else data)
        if texts:
            stamp = logformat.timestamp(now)
            for text in texts:
                self._file.write(logformat.json_records(text, stream, self._attributes, stamp))

    def pending(self) -> bool:
        """Whether an unfinished line waits."""
        return bool(self._rest[1] or self._rest[2])

    def flush(self, now: int) -> None:
        """Write unfinished lines as partial records."""
        stamp = logformat.timestamp(now)
        for stream, rest in self._rest.items():
            if rest:
                self._file.write(logformat.json_records(rest, stream, self._attributes, stamp))
                self._rest[stream] = b""

    def close(self, now: int) -> None:
        """Write what waits and close the file."""
        self.flush(now)
        self._file.close()


class RotatingFile:
    """An append-only file, renamed to ``path.1`` (then ``.2`` …) when ``max_size`` bytes are reached.

    ``max_size`` -1 means no limit; ``max_file`` counts the current one, with 1 it is emptied instead.
    With ``compress`` the renamed ones are gzipped (``path.1.gz``) by a thread. Records (ending in a newline)
    stay whole. A disk that is full loses records, never blocks the container.
    """

    def __init__(self, path: str, max_size: int, max_file: int, compress: bool) -> None:
        self._path = path
        self._max_size = max_size
        self._max_file = max(max_file, 1)
        self._suffix = ".gz" if compress else ""
        self._compressing = _thread.allocate_lock()
        self._open(0)

    def write(self, parts: list[bytes | memoryview]) -> None:
        """Append the whole records that ``parts`` make together, rotating between them as often as needed."""
        if not 0 < self._max_size < self._size + sum(map(len, parts)):
            self._append(parts)
            return
        records = b"".join(parts)
        while 0 < self._max_size < self._size + len(records):
            room = max(self._max_size - self._size, 0)
            cut = records.rfind(b"\n", 0, room) + 1
            if not cut and not self._size:  # a single record larger than the limit
                cut = records.find(b"\n") + 1
            self._append([records[:cut]])
            records = records[cut:]
            if not records:
                return
            self._rotate()
        self._append([records])

    def close(self) -> None:
        """Close the file and wait for a compression that runs."""
        os.close(self._fd)
        self._compressing.acquire()

    def _open(self, flags: int) -> None:
        self._fd = os.open(
            self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o640
        )
        self._size = os.fstat(self._fd).st_size

    def _append(self, parts: list[bytes | memoryview]) -> None:
        left = sum(map(len, parts))
        try:
            while left:
                written = os.writev(self._fd, parts)
                self._size += written
                left -= written
                if left:
                    parts = [memoryview(b"".join(parts))[written:]]
        except OSError:
            return  # no space, quota, I/O error: the container goes on

    def _rotate(self) -> None:
        os.close(self._fd)
        self._compressing.acquire()
        try:
            if self._max_file > 1:
                for number in range(self._max_file - 1, 1, -1):
                    _rename(
                        f"{self._path}.{number - 1}{self._suffix}", f"{self._path}.{number}{self._suffix}"
                    )
                _rename(self._path, f"{self._path}.1")
        finally:
            self._compressing.release()
        if self._suffix and self._max_file > 1:
            self._compressing.acquire()
            _thread.start_new_thread(self._compress, (f"{self._path}.1",))
        try:
            self._open(0 if self._max_file > 1 else os.O_TRUNC)
        except OSError:
            self._fd, self._size = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC), 0

    def _compress(self, name: str) -> None:
        try:
            _gzip(name, name + self._suffix)
            os.unlink(name)
        except OSError:
            pass  # the plain file stays: readers take either
        finally:
            self._compressing.release()


def _rename(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except OSError:
        return  # there is none, or its directory is being removed


def _gzip(source: str, target: str) -> None:
    """Compress ``source`` into ``target`` (RFC 1952), by way of a temporary name."""
    part = target + ".tmp"
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    writer = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    try:
        while chunk := os.read(reader, 1 << 18):
            _write_all(writer, packer.compress(chunk))
        _write_all(writer, packer.flush())
    finally:
        os.close(reader)
        os.close(writer)
    os.rename(part, target)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
