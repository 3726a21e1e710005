"""From a request's body, which comes in the event loop, to a thread that reads it: a bounded pipe."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from sampan import errors

T = TypeVar("T")
LIMIT = 8 << 20
"""Bytes that may wait for the reading thread before the client is slowed down."""


class Feed:
    """One body for one reading thread. ``read`` is the thread's side, ``pump`` the loop's."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._ended = False
        self._failed = ""
        self._changed = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._space = asyncio.Event()
        self._space.set()

    async def pump(self, body: AsyncIterator[bytes]) -> None:
        """Pass the whole body on; waits while the reader is behind."""
        try:
            async for piece in body:
                self._put(piece)
                await self._space.wait()
        except BaseException as error:
            self.end(str(error) or type(error).__name__)
            raise
        self.end()

    def _put(self, piece: bytes) -> None:
        with self._changed:
            self._pieces.append(piece)
            self._size += len(piece)
            if self._size > LIMIT:
                self._space.clear()
            self._changed.notify()

    def end(self, failed: str = "") -> None:
        """No more comes; with ``failed`` the reader gets an error instead of a clean end."""
        with self._changed:
            self._ended = True
            self._failed = failed
            self._changed.notify()

    def read(self, size: int) -> bytes:
        """At least one byte and at most ``size``, b"" at the end. Blocks; for the thread only."""
        with self._changed:
            while not self._pieces and not self._ended:
                self._changed.wait()
            if self._failed:
                raise errors.InvalidParameter(f"the build context broke off: {self._failed}")
            parts: list[bytes] = []
            while self._pieces and size > 0:
                piece = self._pieces.popleft()
                if len(piece) > size:
                    self._pieces.appendleft(piece[size:])
                    piece = piece[:size]
                parts.append(piece)
                size -= len(piece)
                self._size -= len(piece)
            if self._size <= LIMIT // 2:
                self._loop.call_soon_threadsafe(self._space.set)
        return b"".join(parts)


async def read_in_thread(body: AsyncIterator[bytes], work: Callable[[Callable[[int], bytes]], T]) -> T:
    """Run ``work(read)`` in a thread while ``body`` is pumped to it; then take the rest of the body.

    When the body breaks off or the caller is cancelled the thread sees an error and ends first.
    """
    feed = Feed()
    pump = asyncio.ensure_future(feed.pump(body))
    thread = asyncio.ensure_future(asyncio.to_thread(work, feed.read))
    try:
        done, _ = await asyncio.wait({pump, thread}, return_when=asyncio.FIRST_COMPLETED)
        if thread in done and not pump.done():
            # A reader that needs no more (end of archive, or failure) lets the client finish sending.
            feed._space.set()
        return await asyncio.shield(thread)
    finally:
        pump.cancel()
        feed.end("cancelled" if not thread.done() else "")
        await asyncio.gather(pump, thread, return_exceptions=True)
