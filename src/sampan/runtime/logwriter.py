"""Log drivers of a monitor: what a container prints, on its way to a file.

``json-file`` and ``local`` cut the same lines into records (:mod:`sampan.runtime.logformat`,
:mod:`sampan.runtime.locallog`); how files rotate is in the launch plan.

``write(stream, data, now)`` takes any bytes, ``flush(now)`` writes unfinished lines as partial records,
``close(now)`` ends. Import-light.
"""

from __future__ import annotations

import _thread
import os
import zlib

from sampan.runtime import locallog, logformat, logpipe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
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
    if options["driver"] == "json-file":
        return JsonFile(RotatingFile(options, logformat.fitting), options.get("attrs") or {})
    if options["driver"] == "local":
        return LocalFile(RotatingFile(options, locallog.fitting), options.get("attrs") or {})
    if options["driver"] == "pipe":
        return logpipe.PipedLog(options, open_log(options["file"]))
    raise ValueError(f"unknown log driver {options['driver']}")


_LEVEL = 1  # of compression: a container that prints much waits for it, and three times as long at 6


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


class _Lines:
    """Cuts what comes into whole lines and parts of long ones, and lets unfinished ones wait."""

    def __init__(self, file: RotatingFile) -> None:
        self._file = file
        self._rest = {1: b"", 2: b""}

    def write(self, stream: int, data: bytes, now: int) -> None:
        """Append ``data`` of stdout (1) or stderr (2) seen at ``now`` (ns); an unfinished line waits."""
        rest = self._rest[stream]
        texts, self._rest[stream] = logformat.pieces(rest + data if rest else data)
        if texts:
            self._keep(texts, stream, now)

    def pending(self) -> bool:
        """Whether an unfinished line waits."""
        return bool(self._rest[1] or self._rest[2])

    def flush(self, now: int) -> None:
        """Write unfinished lines as partial records."""
        for stream, rest in self._rest.items():
            if rest:
                self._keep([rest], stream, now)
                self._rest[stream] = b""

    def close(self, now: int) -> None:
        """Write what waits and close the file."""
        self.flush(now)
        self._file.close()

    def _keep(self, texts: list[bytes], stream: int, now: int) -> None:
        raise NotImplementedError


class JsonFile(_Lines):
    """Driver ``json-file``: see :mod:`sampan.runtime.logformat`."""

    def __init__(self, file: RotatingFile, attributes: dict[str, str]) -> None:
        super().__init__(file)
        self._attributes = logformat.json_attributes(attributes)

    def _keep(self, texts: list[bytes], stream: int, now: int) -> None:
        stamp = logformat.timestamp(now)
        for text in texts:
            self._file.write(logformat.json_records(text, stream, self._attributes, stamp))


class LocalFile(_Lines):
    """Driver ``local``: see :mod:`sampan.runtime.locallog`."""

    def __init__(self, file: RotatingFile, attributes: dict[str, str]) -> None:
        super().__init__(file)
        file.begin_anew_unless(locallog.FIRST_BYTE)
        noted = locallog.attributes(attributes)
        self._encoders = {stream: locallog.Encoder(stream, noted) for stream in self._rest}

    def _keep(self, texts: list[bytes], stream: int, now: int) -> None:
        for text in texts:
            self._file.write([self._encoders[stream].records(text, now)])


class RotatingFile:
    """An append-only file, renamed to ``path.1`` (then ``.2`` …) when ``max_size`` bytes are reached.

    ``max_size`` -1 means no limit; ``max_file`` counts the current one, with 1 it is emptied instead.
    With ``compress`` the renamed ones are gzipped (``path.1.gz``) by a thread. Records stay whole:
    ``fitting(records, room)`` is how many bytes of whole ones fit into ``room``, of one at least if that is
    negative. A disk that is full loses records, never blocks the container.
    """

    def __init__(self, options: dict[str, Any], fitting: Callable[[bytes, int], int]) -> None:
        """``options``: ``path``, ``max_size``, ``max_file``, ``compress``."""
        self._path: str = options["path"]
        self._max_size: int = options["max_size"]
        self._max_file: int = max(options["max_file"], 1)
        self._suffix = ".gz" if options["compress"] else ""
        self._fitting = fitting
        self._compressing = _thread.allocate_lock()
        self._open(0)

    def write(self, parts: list[bytes | memoryview]) -> None:
        """Append the whole records that ``parts`` make together, rotating between them as often as needed."""
        if not 0 < self._max_size < self._size + sum(map(len, parts)):
            self._append(parts)
            return
        records = b"".join(parts)
        while 0 < self._max_size < self._size + len(records):
            cut = self._fitting(records, max(self._max_size - self._size, 0))
            if not cut and not self._size:  # a single record larger than the limit
                cut = self._fitting(records, -1)
            self._append([records[:cut]])
            records = records[cut:]
            if not records:
                return
            self._rotate()
        self._append([records])

    def begin_anew_unless(self, first: bytes) -> None:
        """Rotate a file that begins otherwise: earlier versions wrote json-file records."""
        if not self._size:
            return
        fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        other = os.read(fd, len(first)) != first
        os.close(fd)
        if other:
            self._rotate()

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
        before = self._size
        try:
            while left:
                written = os.writev(self._fd, parts)
                self._size += written
                left -= written
                if left:
                    parts = [memoryview(b"".join(parts))[written:]]
        except OSError:  # no space, quota, I/O error: the container goes on
            self._take_back(before)

    def _take_back(self, size: int) -> None:
        """Records that are there half would be in the way of those that come later."""
        try:
            os.ftruncate(self._fd, size)
            self._size = size
        except OSError:
            return

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
    """Compress ``source`` into ``target`` (RFC 1952), by way of a temporary name.

    It keeps its time: a reader that has the source open knows by that where to go on.
    """
    part = target + ".tmp"
    reader = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    writer = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
    try:
        while chunk := os.read(reader, 1 << 18):
            _write_all(writer, packer.compress(chunk))
        _write_all(writer, packer.flush())
        changed = os.fstat(reader).st_mtime_ns
        os.utime(writer, ns=(changed, changed))
    finally:
        os.close(reader)
        os.close(writer)
    os.rename(part, target)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
