"""Between the event loop and threads: progress coming out of a thread, bytes going into one."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
Report = Callable[[dict[str, Any]], None]


class Reader:
    """A blocking ``read(n)`` for a thread over an async iterator of the loop's. ``cancel`` ends it."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._loop = asyncio.get_running_loop()
        self._rest = b""
        self._over = False
        self._waiting: asyncio.Task[bytes] | None = None
        self._cancelled = False

    async def _next(self) -> bytes:
        if self._cancelled:
            raise ConnectionAbortedError("cancelled")
        return await anext(self._chunks, b"")

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, b"" at the end (called in the thread)."""
        while not self._rest and not self._over:
            self._rest = asyncio.run_coroutine_threadsafe(self._next(), self._loop).result()
            self._over = not self._rest
        piece, self._rest = self._rest[:size], self._rest[size:]
        return piece

    def cancel(self) -> None:
        """The next read raises ConnectionAbortedError."""
        self._cancelled = True


async def progress(
    work: Callable[[Report], T], done: Callable[[T], None] | None = None
) -> AsyncIterator[Any]:
    """Run ``work(report)`` in a thread; what it reports comes out here, in order. Its errors are raised.

    ``done`` gets its result, on the loop. When nobody listens any more (the iterator is closed: the client
    went away), the next report raises ConnectionAbortedError in the thread, and so ends the work.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    gone = threading.Event()

    def report(found: dict[str, Any]) -> None:
        if gone.is_set():
            raise ConnectionAbortedError("the client went away")
        loop.call_soon_threadsafe(queue.put_nowait, found)

    task = asyncio.create_task(asyncio.to_thread(work, report), name="progress")
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (found := await queue.get()) is not None:
            yield found
        result = await task
    finally:
        gone.set()
        task.add_done_callback(_forget)
    if done is not None:
        done(result)


def _forget(task: asyncio.Task[Any]) -> None:
    """Take note of how a task ended that nobody waits for."""
    if not task.cancelled():
        task.exception()


async def soon(work: Callable[[], T], seconds: float) -> T | None:
    """Its result; None if it takes longer than ``seconds``, and its thread is left alone."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as problem:
            future.set_exception(problem)

    threading.Thread(target=run, name="soon", daemon=True).start()
    outcome = asyncio.wrap_future(future)
    done, _ = await asyncio.wait((outcome,), timeout=seconds)
    return outcome.result() if done else None


async def pieces(source: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of a blocking iterator, each fetched in a thread."""
    while (piece := await asyncio.to_thread(next, source, None)) is not None:
        yield piece
