"""Waiting for processes that may have been stopped: looked at now and then, let go on, not waited for for ever.

A monitor or a first process that SIGSTOP reaches before the program is executed would hold its start, one
that a debugger holds would do so for good.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sampan.errors import SystemFailure

LOOK = 2.0
"""Seconds of silence after which one looks whether somebody is stopped."""
PATIENCE = 120.0
"""Seconds for one step of a launch: mounts from a slow server, a machine with hundreds of starts at once."""


def stopped(pid: int) -> bool:
    """Whether a signal or a tracer has stopped process ``pid``. proc_pid_stat(5)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(") ")[2][:1] in ("T", "t")


def parent(pid: int) -> int:
    """The parent of process ``pid``. OSError when there is none. proc_pid_stat(5)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


def wake(pid: int) -> None:
    """Let process ``pid``, whose number can't be another's by now, go on if a signal has stopped it."""
    if pid > 0 and stopped(pid):
        os.kill(pid, signal.SIGCONT)


async def answered(said: asyncio.Future[Any], look: Callable[[], None]) -> bool:
    """Wait until ``said`` is done, calling ``look`` now and then; False when the patience is at its end."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not (await asyncio.wait((said,), timeout=LOOK))[0]:
        if asyncio.get_running_loop().time() > deadline:
            return False
        look()
    return True


def too_long(who: str) -> SystemFailure:
    """The failure of a start when the patience with ``who`` is at its end."""
    return SystemFailure(
        f"{who} did not answer within {PATIENCE:.0f} seconds",
        hint="Something holds it, or the process that it starts: a debugger, a mount from a server that is down.",
    )
