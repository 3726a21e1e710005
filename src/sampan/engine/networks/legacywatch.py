"""Noticing that rules of iptables-legacy have changed, of which the kernel tells nobody.

The program itself always takes its lock, which is noticed at once. For others, and for those of containers with
a lock of their own, the tables are looked at now and then: often where there are some, seldom where there are
none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from sampan.kernel import inotify
from sampan.network import legacy

_OFTEN, _SELDOM = 2.0, 30.0
_CLOSED = inotify.IN_CLOSE_NOWRITE | inotify.IN_CLOSE_WRITE


class LegacyWatch:
    """Calls ``changed`` after every iptables-legacy of the host, reading or writing, and after other changes."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._fd = -1
        self._seen: tuple[int, ...] = ()
        self._timer: asyncio.TimerHandle | None = None

    def open(self) -> None:
        """Begin to watch."""
        self._seen = legacy.fingerprint()
        self._wait()
        with contextlib.suppress(OSError):  # without it changes are seen a little later, by comparing
            self._fd = inotify.init()
            asyncio.get_running_loop().add_reader(self._fd, self._readable)
            self._watch()

    def _wait(self) -> None:
        delay = _OFTEN if any(self._seen) else _SELDOM
        self._timer = asyncio.get_running_loop().call_later(delay, self._compare)

    def _compare(self) -> None:
        before, self._seen = self._seen, legacy.fingerprint()
        if self._seen != before:
            self._changed()
        self._wait()

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
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
