"""``docker logs``: lines of a container's log, by time, from the end, and as they are written."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

import msgspec

from sampan import errors
from sampan.engine.containers import logdriver, loglocal, logruns
from sampan.engine.containers.context import Containers
from sampan.engine.containers.logfiles import LogFiles
from sampan.engine.containers.record import Container
from sampan.engine.containers.timestamps import parse_rfc3339, rfc3339
from sampan.engine.containers.watch import Watcher

_STREAMS = {"stdout": 1, "stderr": 2}
_HEAD = struct.Struct(">BxxxI")


class Line(msgspec.Struct):
    """One record of a json-file log; ``log`` lacks its newline when the line goes on in the next record."""

    log: str = ""
    stream: str = "stdout"
    time: str = ""
    attrs: dict[str, str] = {}


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
        self._open_line: dict[str, bool] = {}
        self.finished = False
        self.left = b""

    def format(self, block: bytes) -> bytes:
        """The output for a block of records. Sets ``finished`` once ``until`` has passed.

        Those of json-file must be whole; the begin of one of local at the block's end is ``left``.
        """
        self.left = b""
        out: list[bytes] = []
        for part in self._parts(block):
            if isinstance(part, bytes):
                self._add_lines(self._records(part), out)
            else:
                self._add_run(part, out)
            if self.finished:
                break
        return b"".join(out)

    def _parts(self, block: bytes) -> Iterable[logruns.Run | bytes]:
        if loglocal.begins(block):
            return self._local(block)
        return [block] if self._options.details else logruns.split(block)

    def _local(self, block: bytes) -> Iterator[logruns.Run]:
        records = loglocal.Records(block)
        yield from records
        self.left = block[records.taken :]

    def _add_lines(self, lines: list[Line], out: list[bytes]) -> None:
        if self._options.since_ns or self._options.until_ns:
            lines = self._within(lines)
        decorated = self._options.timestamps or self._options.details
        wanted = self._wanted
        gathered: dict[str, list[bytes]] = {}
        for line in lines:
            if line.stream not in wanted:
                continue
            data = line.log.encode("utf-8", "surrogatepass")
            if decorated:
                data = self._prefix(line.stream, line.time, line.attrs, ended=data.endswith(b"\n")) + data
            if line.stream not in gathered:
                self._add(gathered, out)
                gathered = {line.stream: []}
            gathered[line.stream].append(data)
        self._add(gathered, out)

    def _add(self, gathered: dict[str, list[bytes]], out: list[bytes]) -> None:
        """Frame the lines of one stream."""
        for stream, lines in gathered.items():
            if self._tty:
                out += lines
            elif self._options.merge:
                data = b"".join(lines)
                out += (_HEAD.pack(_STREAMS[stream], len(data)), data)
            else:
                number, pack = _STREAMS[stream], _HEAD.pack
                out += [pack(number, len(line)) + line for line in lines]

    def _add_run(self, run: logruns.Run, out: list[bytes]) -> None:
        if not self._is_within(run.time) or run.stream not in self._wanted:
            return
        text = run.text
        if self._options.timestamps or self._options.details:
            first = self._prefix(run.stream, run.time, run.attrs, ended=text.endswith(b"\n"))
            if b"\n" in text[:-1]:
                prefix = self._decoration(run.time, run.attrs)
                text = text[:-1].replace(b"\n", b"\n" + prefix) + text[-1:]
            text = first + text
        if self._tty or self._options.merge or b"\n" not in text[:-1]:
            self._add({run.stream: [text]}, out)
            return
        number, pack = _STREAMS[run.stream], _HEAD.pack
        out += [pack(number, len(line) + 1) + line + b"\n" for line in text[:-1].split(b"\n")]

    def seconds_left(self) -> float | None:
        """Seconds until the moment ``until``; None when there is no such bound."""
        if not self._options.until_ns:
            return None
        return max(0.0, (self._options.until_ns - time.time_ns()) / 1e9)

    def _records(self, block: bytes) -> list[Line]:
        try:
            return self._decode(block)
        except msgspec.MsgspecError:
            return list(self._salvage(block))

    @staticmethod
    def _salvage(block: bytes) -> list[Line]:
        """A power cut can leave a torn record: every record that can be read is delivered."""
        good = []
        for raw in block.split(b"\n"):
            # A torn record has no newline: the next one begins in the same line.
            for candidate in (raw, raw[raw.rfind(b'{"log":') :]):
                try:
                    good.append(msgspec.json.decode(candidate, type=Line))
                    break
                except msgspec.MsgspecError:
                    continue
        return good

    def _within(self, lines: list[Line]) -> list[Line]:
        chosen = []
        last, good = "", False
        for line in lines:
            if line.time != last:  # many lines come at once
                last, good = line.time, self._is_within(line.time)
            if self.finished:
                break
            if good:
                chosen.append(line)
        return chosen

    def _is_within(self, stamp: str | int) -> bool:
        """Whether a time is between ``since`` and ``until``; ``finished`` when it is after that."""
        if not self._options.since_ns and not self._options.until_ns:
            return True
        when = stamp if isinstance(stamp, int) else parse_rfc3339(stamp)
        self.finished = bool(self._options.until_ns) and when > self._options.until_ns
        return when >= self._options.since_ns and not self.finished

    def _prefix(self, stream: str, stamp: str | int, attrs: dict[str, str], *, ended: bool) -> bytes:
        """Time and details, only where a line begins: never in the middle of one over 16 KiB."""
        going_on = self._open_line.get(stream, False)
        self._open_line[stream] = not ended
        return b"" if going_on else self._decoration(stamp, attrs)

    def _decoration(self, stamp: str | int, attrs: dict[str, str]) -> bytes:
        prefix = ""
        if self._options.timestamps:
            prefix = f"{_nine_digits(stamp)} "
        if self._options.details:
            prefix += ",".join(f"{quote_plus(k)}={quote_plus(v)}" for k, v in sorted(attrs.items())) + " "
        return prefix.encode()


def _nine_digits(stamp: str | int) -> str:
    """An RFC 3339 time in UTC with all nine digits of its fraction."""
    if isinstance(stamp, int):
        stamp = rfc3339(stamp)
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}.{fraction.ljust(9, '0')}Z"


async def read(
    path: Path,
    options: LogOptions,
    *,
    tty: bool,
    watcher: Watcher,
    ended: Callable[[], Awaitable[object]] | None = None,
) -> AsyncIterator[bytes]:
    """Yield the log at ``path`` in wire format, in blocks of about 1 MiB.

    ``ended`` (for ``follow``) returns when the run is over and its log complete; None when it is already.
    """
    formatter = Formatter(options, tty=tty)
    files = await asyncio.to_thread(LogFiles, path, options.tail)
    try:
        async for chunk in _drain(files, formatter):
            yield chunk
        if options.follow and ended is not None and not formatter.finished:
            async for chunk in _follow(path, files, formatter, watcher, ended):
                yield chunk
    finally:
        files.close()


async def _drain(files: LogFiles, formatter: Formatter) -> AsyncIterator[bytes]:
    def step() -> tuple[bool, bytes]:
        block = files.read()
        if not block:
            return False, b""
        chunk = formatter.format(block)
        files.put_back(formatter.left)
        return True, chunk

    more = True
    while more and not formatter.finished:
        more, chunk = await asyncio.to_thread(step)
        if chunk:
            yield chunk


async def _follow(
    path: Path,
    files: LogFiles,
    formatter: Formatter,
    watcher: Watcher,
    ended: Callable[[], Awaitable[object]],
) -> AsyncIterator[bytes]:
    over = asyncio.ensure_future(ended())
    try:
        with watcher.changes(str(path.parent)) as changed:
            while not formatter.finished:
                final = over.done()
                changed.clear()
                while files.follow() and not formatter.finished:
                    async for chunk in _drain(files, formatter):
                        yield chunk
                if final:
                    return
                waiting = asyncio.ensure_future(changed.wait())
                left = formatter.seconds_left()
                try:
                    await asyncio.wait({waiting, over}, return_when=asyncio.FIRST_COMPLETED, timeout=left)
                finally:
                    waiting.cancel()
                if left == 0.0:
                    return
    finally:
        over.cancel()


def check_readable(container: Container) -> None:
    """Unsupported when the container's log driver keeps nothing that can be read."""
    if not logdriver.readable(container):
        raise errors.Unsupported(
            "configured logging driver does not support reading",
            hint=f"The container logs to {container.host.log_config.type} and keeps no file beside it.",
        )


async def of_container(
    containers: Containers, container: Container, options: LogOptions
) -> AsyncIterator[bytes]:
    """The container's log in wire format. Unsupported when its driver keeps nothing that can be read."""
    check_readable(container)
    live = containers.live(container)
    ended = live.run_over.wait if container.running else None
    if live.process is not None:
        await live.process.sync_log()
    async for chunk in read(
        containers.log_path(container.id),
        options,
        tty=container.config.tty,
        watcher=containers.watcher,
        ended=ended,
    ):
        yield chunk
