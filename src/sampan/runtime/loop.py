"""A monitor's event loop: epoll(7), handlers by descriptor, deadlines. asyncio would cost 1 MB more."""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
GONE = select.EPOLLHUP | select.EPOLLERR


class Loop:
    """Calls handlers with the events of their descriptor until :meth:`stop`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._deadlines: dict[Callable[[], None], float] = {}
        self._stopped = False

    def run(self) -> None:
        """Until :meth:`stop`."""
        while not self._stopped:
            ready = self._epoll.poll(self._timeout())
            for fd, events, handler in [(fd, events, self._handlers.get(fd)) for fd, events in ready]:
                # Another of them may have closed it, and its number may be another's by now.
                if handler is not None and self._handlers.get(fd) is handler:
                    handler(events)
            self._call_due()

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stopped = True

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call ``handler(events)`` when ``fd`` is ready; GONE is always reported."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def watches(self, fd: int) -> bool:
        """Whether ``fd`` has a handler."""
        return fd in self._handlers

    def change(self, fd: int, events: int) -> None:
        """Wait for other events of ``fd``."""
        self._epoll.modify(fd, events)

    def unwatch(self, fd: int) -> None:
        """Forget ``fd``, if it is watched."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self, fd: int) -> None:
        """Forget ``fd`` and close it."""
        self.unwatch(fd)
        os.close(fd)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call ``action`` in ``seconds``, and no earlier if that was to happen already."""
        self._deadlines[action] = time.monotonic() + seconds

    def cancel(self, action: Callable[[], None]) -> None:
        """Don't call ``action``."""
        self._deadlines.pop(action, None)

    def _timeout(self) -> float:
        if not self._deadlines:
            return -1
        return max(min(self._deadlines.values()) - time.monotonic(), 0)

    def _call_due(self) -> None:
        if not self._deadlines:
            return
        now = time.monotonic()
        for action in [action for action, moment in self._deadlines.items() if moment <= now]:
            if self._deadlines.pop(action, None) is not None:
                action()
