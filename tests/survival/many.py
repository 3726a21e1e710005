"""Very many idle containers at once: seconds and memory of starting, listing, stopping, removing them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.survival.world import World

_AT_ONCE = 8


def many(count: int) -> dict[str, object]:
    """Start ``count`` containers that do nothing; figures. AssertionError when one fails or something stays."""
    world = World()
    figures: dict[str, object] = {"containers": count}

    def timed(title: str, work: Callable[[], object]) -> None:
        begun = time.monotonic()
        work()
        figures[title] = f"{time.monotonic() - begun:.2f} s"

    def each(work: Callable[[int], object], numbers: range) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(work, numbers))

    def start(number: int) -> None:
        body = {"Image": "busybox", "Cmd": ["sleep", "100000"], "HostConfig": {"Init": True}}
        world.must("POST", f"/containers/create?name=c{number}", body)
        world.must("POST", f"/containers/c{number}/start")

    try:
        world.start()
        world.load_busybox()
        fifth = max(1, count // 5)
        for first in range(0, count, fifth):
            last = min(count, first + fifth)
            timed(f"start {first} to {last}", lambda a=first, b=last: each(start, range(a, b)))  # type: ignore[misc]
        timed("list", lambda: world.must("GET", "/containers/json"))
        assert len(world.must("GET", "/containers/json")) == count
        timed("info", lambda: world.must("GET", "/info"))
        figures["memory of all"] = f"{_pss(world) / 2**20:.0f} MiB"
        figures["memory of the engine"] = f"{world.engine_memory() / 2**20:.0f} MiB"
        figures["engine's CPU when idle"] = f"{_idle(world):.1%}"
        world.kill()
        figures["engine again after kill -9"] = f"{world.start():.2f} s"
        assert len(world.must("GET", "/containers/json")) == count
        timed("stop", lambda: each(lambda n: world.must("POST", f"/containers/c{n}/stop?t=30"), range(count)))
        timed("list all, stopped", lambda: world.must("GET", "/containers/json?all=1"))
        timed("remove", lambda: each(lambda n: world.must("DELETE", f"/containers/c{n}"), range(count)))
        timed("clean up", lambda: world.settle(60))
        left = world.settle(1)
        assert not left, f"left behind: { {kind: found[:5] for kind, found in left.items()} }"
    finally:
        world.close()
    return figures


def _pss(world: World) -> int:
    """Proportional memory of engine, zygote, monitors and containers, in bytes."""
    assert world.process is not None
    pids = [int(text.split(":")[0]) for text in world._processes()]
    total = 0
    for pid in [world.process.pid, *pids]:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * 1024


def _idle(world: World) -> float:
    """The engine's use of a CPU while nothing is asked of it."""
    assert world.process is not None
    stat = Path(f"/proc/{world.process.pid}/stat")

    def ticks() -> int:
        fields = stat.read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(3)
    return (ticks() - before) / 100 / 3
