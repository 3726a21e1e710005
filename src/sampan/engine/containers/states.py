"""The states of a container and the changes between them that are allowed.

Docker's seven words. Everything that happens to a container is one of the named moves below, so that a
state can't be reached by a way nobody thought of; the record keeps the word, times and exit code.
"""

from __future__ import annotations

from typing import Literal, get_args

from sampan import errors

Status = Literal["created", "running", "paused", "restarting", "removing", "exited", "dead"]
STATUSES: tuple[str, ...] = get_args(Status)

_MOVES: dict[str, dict[str, Status]] = {
    "start": {"created": "running", "exited": "running", "restarting": "running", "dead": "running"},
    "exit": {"running": "exited", "paused": "exited", "restarting": "exited"},
    "back-off": {"running": "restarting", "paused": "restarting", "restarting": "restarting"},
    "pause": {"running": "paused"},
    "unpause": {"paused": "running"},
    "remove": {"created": "removing", "exited": "removing", "dead": "removing", "removing": "removing"},
    "fail-removal": {"removing": "dead"},
}


def after(move: str, status: Status) -> Status:
    """The state that ``move`` leads to from ``status``; Conflict when it isn't allowed there."""
    try:
        return _MOVES[move][status]
    except KeyError:
        raise errors.Conflict(f"a container that is {status} can't {move}") from None


def allowed(move: str, status: Status) -> bool:
    """Whether ``move`` may happen in state ``status``."""
    return status in _MOVES[move]


def is_running(status: Status) -> bool:
    """Whether a process lives (paused included)."""
    return status in ("running", "paused")
