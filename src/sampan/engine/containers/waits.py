"""``docker wait``: being told when a container ends, stops for good, or is removed."""

from __future__ import annotations

import asyncio
from typing import Literal, get_args

from sampan import errors
from sampan.engine.containers.context import Containers, Live
from sampan.engine.containers.record import Container

Condition = Literal["not-running", "next-exit", "removed"]


def parse_condition(text: str) -> Condition:
    """A condition of the Engine API; "" is ``not-running``. InvalidParameter for others."""
    for condition in get_args(Condition):
        if text == condition:
            found: Condition = condition
            return found
    if text:
        raise errors.InvalidParameter(
            f'invalid condition: "{text}"', hint=f"known: {', '.join(get_args(Condition))}"
        )
    return "not-running"


def begin(containers: Containers, container: Container, condition: Condition) -> asyncio.Future[int]:
    """A future with the exit code: registered when this returns, so that no end is missed after it."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    live = containers.live(container)
    if condition == "removed":
        live.removed.append(future)
    elif condition == "next-exit":
        live.next_exit.append(future)
    elif container.running or container.state.status == "restarting":
        live.stopped.append(future)
    else:
        future.set_result(container.state.exit_code)
    return future


def tell_exit(live: Live, code: int, *, final: bool) -> None:
    """The process ended; ``final`` when no restart follows."""
    _resolve(live.next_exit, code)
    if final:
        _resolve(live.stopped, code)


def tell_removed(live: Live, code: int) -> None:
    """The container is gone: nobody waits any longer."""
    _resolve(live.next_exit, code)
    _resolve(live.stopped, code)
    _resolve(live.removed, code)


def _resolve(waiting: list[asyncio.Future[int]], code: int) -> None:
    futures, waiting[:] = list(waiting), []
    for future in futures:
        if not future.done():
            future.set_result(code)
