"""Blocking work in a thread that ends when its build does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 3.0
"""Seconds."""


async def in_thread(work: Callable[[threading.Event], T]) -> T:
    """The result of ``work(stop)``, done in a thread. When the caller is cancelled ``stop`` is set, and the
    thread, which has to look at it, is waited for: nothing goes on behind the build's back. One that waits for
    a server's first word can't look; it is left alone after `PATIENCE`, and finds its files gone.
    """
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({task}, timeout=PATIENCE)
        task.add_done_callback(_forget)
        raise


def _forget(task: asyncio.Future[T]) -> None:
    """Nobody is interested in how it ended."""
    if not task.cancelled():
        task.exception()
