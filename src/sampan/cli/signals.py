"""Signals as something to wait for: each one received makes a descriptor readable.

:mod:`signal` imports :mod:`enum` (8 ms); the C module below it is enough here.
"""

from __future__ import annotations

import _signal
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

SIGHUP, SIGINT, SIGQUIT, SIGKILL, SIGPIPE, SIGTERM = 1, 2, 3, 9, 13, 15
SIGCHLD, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH = 17, 19, 20, 21, 22, 23, 28
NAMES = dict(
    enumerate(
        [
            "HUP",
            "INT",
            "QUIT",
            "ILL",
            "TRAP",
            "ABRT",
            "BUS",
            "FPE",
            "KILL",
            "USR1",
            "SEGV",
            "USR2",
            "PIPE",
            "ALRM",
            "TERM",
            "STKFLT",
            "CHLD",
            "CONT",
            "STOP",
            "TSTP",
            "TTIN",
            "TTOU",
            "URG",
            "XCPU",
            "XFSZ",
            "VTALRM",
            "PROF",
            "WINCH",
            "IO",
            "PWR",
            "SYS",
        ],
        1,
    )
)
PROXIED = tuple(
    number
    for number in NAMES
    # Not what can't be caught, what the interpreter or the terminal's job control is about, or faults.
    if number not in (4, 5, 7, 8, SIGKILL, 11, SIGPIPE, 16, SIGCHLD, SIGSTOP, SIGURG, SIGWINCH, 31)
    and number not in (SIGTSTP, SIGTTIN, SIGTTOU)
)
"""Signals that ``run`` and ``attach`` pass on to the container's process."""


class Catcher:
    """Catches signals while a ``with`` block runs. Their numbers are read from ``fileno()``."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._numbers = tuple(numbers)
        self._before: dict[int, Any] = {}
        self._read = self._write = self._old = -1

    def __enter__(self) -> Catcher:
        """Start catching."""
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old = _signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._numbers:
            self._before[number] = _signal.signal(number, _noted)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore what was before."""
        for number, handler in self._before.items():
            _signal.signal(number, handler)
        _signal.set_wakeup_fd(self._old)
        os.close(self._read)
        os.close(self._write)

    def fileno(self) -> int:
        """Readable when a signal came."""
        return self._read

    def take(self) -> list[int]:
        """The signals that came since the last call, in order."""
        try:
            return [number for number in os.read(self._read, 512) if number in self._before]
        except BlockingIOError:
            return []


def _noted(_number: int, _frame: object) -> None:
    """The number went down the wake-up pipe already."""


def name_of(number: int) -> str:
    """``TERM`` for 15, as the API takes it."""
    return NAMES.get(number, str(number))
