"""Entering a network namespace, setns(2), for the length of one short thread.

Unlike the other namespaces, the network one belongs to the thread: a thread that enters one, makes its
sockets there and ends disturbs nobody. The sockets stay in that namespace wherever they are used.
"""

from __future__ import annotations

import _thread
import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from sampan.kernel.namespaces import CLONE_NEWNET, setns

T = TypeVar("T")


def open_netns(pid: int) -> int:
    """A descriptor of the network namespace of a process. FileNotFoundError when it is gone."""
    return os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(netns: int) -> None:
    """Put the calling thread into the namespace behind a descriptor, for good."""
    setns(netns, CLONE_NEWNET)


async def in_thread(work: Callable[[], T], afterwards: Callable[[], object] | None = None) -> T:
    """Run ``work`` in a thread of its own, which ends with it; the loop goes on meanwhile.

    A pooled thread would keep the namespace that ``work`` may have entered. ``afterwards`` runs in the same
    thread once the result is on its way: clean-up that nobody waits for.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(tell: Callable[[], None]) -> None:
        if not future.cancelled():
            tell()

    def run() -> None:
        try:
            tell = partial(future.set_result, work())
        except BaseException as failure:
            tell = partial(future.set_exception, failure)
        loop.call_soon_threadsafe(settle, tell)
        if afterwards is not None:
            afterwards()

    _thread.start_new_thread(run, ())  # threading's would have us wait until it runs
    return await asyncio.shield(future)
