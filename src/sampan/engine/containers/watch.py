"""One inotify descriptor for all who follow logs: directories watched, followers woken, nothing polled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sampan.kernel import inotify

_EVENTS = inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_DELETE_SELF


class Watcher:
    """Wakes followers when a file in their directory changes.

    The descriptor is made at the first use (a user may have only 128 of them) and serves all.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._watches: dict[int, set[asyncio.Event]] = {}

    @contextmanager
    def changes(self, directory: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something in ``directory`` was written, made or renamed.

        The caller clears it before it looks. Raises OSError when the kernel has no watch left.
        """
        if self._fd < 0:
            self._fd = inotify.init()
            asyncio.get_running_loop().add_reader(self._fd, self._dispatch)
        watch = inotify.add_watch(self._fd, directory, _EVENTS)
        event = asyncio.Event()
        self._watches.setdefault(watch, set()).add(event)
        try:
            yield event
        finally:
            self._forget(watch, event)

    def _forget(self, watch: int, event: asyncio.Event) -> None:
        waiting = self._watches.get(watch)
        if waiting is None:
            return
        waiting.discard(event)
        if not waiting:
            del self._watches[watch]
            if self._fd >= 0:
                inotify.remove_watch(self._fd, watch)

    def _dispatch(self) -> None:
        for change in inotify.read(self._fd):
            for event in self._watches.get(change.watch, ()):
                event.set()

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        self._watches.clear()
