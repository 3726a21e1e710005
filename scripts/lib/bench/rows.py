"""What a row of the table is, and what rows share."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from engine import Engine


@dataclass
class Row:
    name: str
    unit: str
    target: str
    measure: Callable[[Engine], float]
    rounds: int = 5
    better: str = "lower"
    # The one engine it is measured with, "" for both.
    only: str = ""
    results: dict[str, list[float]] = field(default_factory=dict)


ROWS: list[Row] = []


def row(
    name: str, unit: str, target: str, rounds: int = 5, better: str = "lower", only: str = ""
) -> Callable[..., Any]:
    def register(function: Callable[[Engine], float]) -> Callable[[Engine], float]:
        ROWS.append(Row(name, unit, target, function, rounds, better, only))
        return function

    return register


def timed(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


@contextlib.contextmanager
def containers(e: Engine, count: int, *command: str, network: str = "bridge") -> Iterator[list[str]]:
    ids = []
    try:
        for _ in range(count):
            ids.append(
                e.docker("run", "-d", "--network", network, "busybox", *(command or ("sleep", "600")))
                .decode()
                .strip()
            )
        yield ids
    finally:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: e.api("DELETE", f"/containers/{i}?force=1"), ids))
