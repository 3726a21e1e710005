"""When nobody has asked anything for a moment: give back the memory that the last requests needed."""

from __future__ import annotations

import asyncio
import gc

from sampan.kernel import memory

_PAUSE = 1.0  # seconds without a request
_LATEST = 10.0  # seconds after which it is done in any case


class Quiet:
    """Waits for a pause. Its timer runs only while there was a request since the last one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._first = self._last = 0.0
        gc.collect()
        gc.freeze()  # what is there at the start stays: no collection needs to look at it again
        self.answered()  # the start itself needed memory, too

    def answered(self) -> None:
        """A request has been answered to its end (or the start is over)."""
        self._last = self._loop.time()
        if self._timer is None:
            self._first = self._last
            self._timer = self._loop.call_later(_PAUSE, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        left = min(self._last + _PAUSE, self._first + _LATEST) - now
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
            return
        self._timer = None
        gc.collect()
        self._loop.run_in_executor(None, memory.trim)

    def close(self) -> None:
        """Wait no longer."""
        if self._timer is not None:
            self._timer.cancel()
