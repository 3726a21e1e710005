"""``scripts/soak``: kill the engine again and again under load; or very many containers at once.

python -m tests.survival.soak --kills 20 --seed 1
python -m tests.survival.soak --many 500
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter

from tests.survival.load import Clock, Follower, Worker
from tests.survival.many import many
from tests.survival.world import World

_CLOCKS = 3


def survive(
    kills: int, seed: int, workers: int, *, pause: tuple[float, float] = (0.3, 2.5)
) -> dict[str, object]:
    """Kill the engine ``kills`` times under load and check everything; figures of what happened.

    AssertionError with what was lost or left.
    """
    chance = random.Random(seed)
    world = World("--log-level", "info")
    try:
        world.start()
        world.load_busybox()
        world.must(
            "POST",
            "/networks/create",
            {"Name": "soak", "Options": {"com.docker.network.bridge.name": "soak1"}},
        )
        clocks = [Clock(world, f"clock-{number}") for number in range(_CLOCKS - 1)]
        clocks.append(Clock(world, "clock-always", RestartPolicy={"Name": "always"}))
        files = world.engine_files()
        staff = [Worker(world, number, seed) for number in range(workers)]
        followers = [Follower(world, clock.name) for clock in clocks]
        for thread in (*staff, *followers):
            thread.start()
        starts = [_end_and_start(world, staff, chance, pause) for _ in range(kills)]
        _finish(staff, followers)
        ticks = [clock.check() for clock in clocks]
        _only_clocks(world, clocks)
        world.settle(8) if world.engine_files() > files + 3 else None
        open_files = world.engine_files()
        assert open_files <= files + 5, f"descriptors of the engine: {files} before, {open_files} after"
        for clock in clocks:
            world.must("DELETE", f"/containers/{clock.name}?v=1")
        world.must("DELETE", "/networks/soak")
        left = world.settle()
        assert not left, f"left behind: {left}"
        lives: Counter[str] = Counter()
        for worker in staff:
            lives.update(worker.lives)
        return {
            "kills": kills,
            "lives": dict(lives),
            "requests repeated": sum(worker.retries for worker in staff),
            "log lines of the clocks": ticks,
            "lines followed": [follower.lines for follower in followers],
            "seconds to answer again": [round(seconds, 2) for seconds in (min(starts), max(starts))],
            "memory": world.engine_memory(),
        }
    finally:
        world.close()


def _end_and_start(
    world: World, staff: list[Worker], chance: random.Random, pause: tuple[float, float]
) -> float:
    """End the engine after a while, three times in four by kill -9; seconds until the next one answers."""
    time.sleep(chance.uniform(*pause))
    if chance.random() < 0.3:
        world.kill_helper(chance.choice(("sampan-zygote", "switchboard")))
        time.sleep(chance.uniform(*pause))
    if chance.random() < 0.75:
        world.kill()
    else:
        world.stop()
    seconds = world.start()
    _check(staff, world)
    return seconds


def _check(staff: list[Worker], world: World) -> None:
    for worker in staff:
        assert not worker.error, f"{worker.name}: {worker.error}\n{world.log()}"


def _finish(staff: list[Worker], followers: list[Follower]) -> None:
    for thread in (*staff, *followers):
        thread.over.set()
    for thread in (*staff, *followers):
        thread.join(90)
        assert not thread.is_alive(), f"{thread.name} does not come to an end"
    _check(staff, staff[0].world)
    for follower in followers:
        assert not follower.error, f"{follower.name}: {follower.error}"
        assert follower.lines, f"{follower.name} has seen nothing"


def _only_clocks(world: World, clocks: list[Clock]) -> None:
    """No container is there twice, none that was removed, none that nobody made."""
    names = sorted(name for one in world.must("GET", "/containers/json?all=1") for name in one["Names"])
    assert names == sorted(f"/{clock.name}" for clock in clocks), names


def main() -> None:
    """Read the arguments, do it, print the figures."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how often the engine is killed")
    parser.add_argument("--workers", type=int, default=6, help="how many clients work at the same time")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="to repeat a run")
    parser.add_argument("--many", type=int, metavar="N", help="instead: N idle containers at once")
    options = parser.parse_args()
    if options.many:
        figures = many(options.many)
    else:
        print(f"seed {options.seed}", flush=True)
        figures = survive(options.kills, options.seed, options.workers)
    for name, value in figures.items():
        print(f"{name:>28}  {value}")


if __name__ == "__main__":
    main()
