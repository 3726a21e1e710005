"""``docker logs``: lines of a container's log, by time, from the end, and as they are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path

from sampan import errors
from sampan.engine.containers import logdriver
from sampan.engine.containers.context import Containers
from sampan.engine.containers.logfiles import LogFiles
from sampan.engine.containers.logoutput import Formatter, LogOptions
from sampan.engine.containers.record import Container
from sampan.engine.containers.watch import Watcher


async def read(
    path: Path,
    options: LogOptions,
    *,
    tty: bool,
    watcher: Watcher,
    ended: Callable[[], Awaitable[object]] | None = None,
) -> AsyncGenerator[bytes]:
    """Yield the log at ``path`` in wire format, in blocks of about 1 MiB; an empty one when it is open.

    ``ended`` (for ``follow``) returns when the run is over and its log complete; None when it is already.
    """
    formatter = Formatter(options, tty=tty)
    files = await asyncio.to_thread(LogFiles, path, options.tail)
    try:
        yield b""
        async with aclosing(_drain(files, formatter)) as chunks:
            async for chunk in chunks:
                yield chunk
        if options.follow and ended is not None and not formatter.finished:
            async with aclosing(_follow(path, files, formatter, watcher, ended)) as chunks:
                async for chunk in chunks:
                    yield chunk
    finally:
        files.close()


async def _drain(files: LogFiles, formatter: Formatter) -> AsyncGenerator[bytes]:
    """What there is: the next block is read and formatted while the last one goes out."""

    def step() -> tuple[bool, bytes]:
        block = files.read()
        if not block:
            return False, b""
        chunk = formatter.format(block)
        files.put_back(formatter.left)
        return not formatter.finished, chunk

    loop = asyncio.get_running_loop()
    ahead = loop.run_in_executor(None, step)
    try:
        more = True
        while more:
            more, chunk = await asyncio.shield(ahead)
            if more:
                ahead = loop.run_in_executor(None, step)
            if chunk:
                yield chunk
    finally:
        # A thread can't be cancelled, and the files must not be closed under it.
        await asyncio.wait((ahead,))


async def _follow(
    path: Path,
    files: LogFiles,
    formatter: Formatter,
    watcher: Watcher,
    ended: Callable[[], Awaitable[object]],
) -> AsyncGenerator[bytes]:
    over = asyncio.ensure_future(ended())
    try:
        with _changes(watcher, path.parent) as changed:
            while not formatter.finished:
                final = over.done()
                changed.clear()
                while files.follow() and not formatter.finished:
                    async with aclosing(_drain(files, formatter)) as chunks:
                        async for chunk in chunks:
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


@contextmanager
def _changes(watcher: Watcher, directory: Path) -> Iterator[asyncio.Event]:
    """The watcher's event; one that is never set when the container was removed, for then its run is over."""
    with ExitStack() as stack:
        try:
            changed = stack.enter_context(watcher.changes(str(directory)))
        except FileNotFoundError:
            changed = asyncio.Event()
        yield changed


def check_readable(container: Container) -> None:
    """Unsupported when the container's log driver keeps nothing that can be read."""
    if not logdriver.readable(container):
        raise errors.Unsupported(
            "configured logging driver does not support reading",
            hint=f"The container logs to {container.host.log_config.type} and keeps no file beside it.",
        )


async def of_container(
    containers: Containers, container: Container, options: LogOptions
) -> AsyncGenerator[bytes]:
    """The container's log in wire format. Unsupported when its driver keeps nothing that can be read.

    An empty block comes first: by then the log is open, and is read to its end even if the container is removed.
    """
    check_readable(container)
    live = containers.live(container)
    ended = live.run_over.wait if container.running else None
    if live.process is not None:
        await live.process.sync_log()
    reading = read(
        containers.log_path(container.id),
        options,
        tty=container.config.tty,
        watcher=containers.watcher,
        ended=ended,
    )
    async with aclosing(reading) as chunks:
        async for chunk in chunks:
            yield chunk
