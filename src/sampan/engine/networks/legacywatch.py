"""Being told that iptables-legacy has run: the kernel says nothing of its rules, but it always takes its lock."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from sampan.kernel import inotify
from sampan.network import legacy

_CLOSED = inotify.IN_CLOSE_NOWRITE | inotify.IN_CLOSE_WRITE


class LegacyWatch:
    """Calls ``changed`` after every iptables-legacy of the host, reading or writing."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._fd = -1

    def open(self) -> None:
        """Begin to watch; where that can't be done, changes are seen when something else changes."""
        with contextlib.suppress(OSError):
            self._fd = inotify.init()
            asyncio.get_running_loop().add_reader(self._fd, self._readable)
            self._watch()

    def _watch(self) -> None:
        with contextlib.suppress(OSError):
            try:
                inotify.add_watch(self._fd, legacy.LOCK, _CLOSED | inotify.IN_DELETE_SELF)
            except FileNotFoundError:
                inotify.add_watch(self._fd, os.path.dirname(legacy.LOCK), inotify.IN_CREATE)

    def _readable(self) -> None:
        changes = list(inotify.read(self._fd))
        if any(change.mask & inotify.IN_IGNORED for change in changes):  # the lock file was removed
            self._watch()
        name = os.path.basename(legacy.LOCK).encode()
        for change in changes:
            if change.mask & inotify.IN_CREATE and change.name == name:
                inotify.remove_watch(self._fd, change.watch)  # its end makes us watch the file itself
                self._changed()
            elif change.mask & _CLOSED:
                self._changed()

    def close(self) -> None:
        """Watch no more; a second time does nothing."""
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
