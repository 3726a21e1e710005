"""A bare event loop: epoll(7), callbacks by descriptor, timers. One thread, light to import."""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
Handler = Callable[[int], None]


class Loop:
    """Calls back when descriptors are ready (with the epoll bits) or times come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.running = True

    def add(self, fd: int, events: int, handler: Handler) -> None:
        """Watch a descriptor."""
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def change(self, fd: int, events: int) -> None:
        """Watch a descriptor for other events."""
        self._epoll.modify(fd, events)

    def remove(self, fd: int) -> None:
        """Watch a descriptor no more; before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call once after a time."""
        self._count += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._count, call))

    def run(self) -> None:
        """Go on until ``running`` is false."""
        while self.running:
            timeout = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else -1
            for fd, events in self._epoll.poll(timeout, 64):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(events)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
