"""The queue of clean-ups: what can't be done holds nothing else up, nor the engine's end."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from sampan.engine.containers.cleanup import Cleaner
from sampan.storage.db import Database


def _refuse(argument: str) -> None:
    raise OSError(16, "busy", argument)


def _fail(argument: str) -> None:
    raise KeyError(argument)


@pytest.mark.parametrize("stuck", ["busy", "wrong", "null"])
def test_jobs_that_fail_hold_nothing_up(tmp_path: Path, stuck: str) -> None:
    trees = [tmp_path / f"tree{number}" for number in range(3)]

    async def run() -> float:
        db = Database(tmp_path / "db")
        cleaner = Cleaner(db, {"busy": _refuse, "wrong": _fail, "null": lambda _: Path("/\0").rmdir()})
        with db.transaction() as tx:
            for number in range(250):
                cleaner.add(tx, stuck, str(number))
            for tree in trees:
                (tree / "below").mkdir(parents=True)
                cleaner.add(tx, "tree", str(tree))
        cleaner.start()
        await asyncio.wait_for(cleaner.drained(), 60)
        began = time.monotonic()
        await cleaner.close()
        left = {kind: len(cleaner.pending(kind)) for kind in ("tree", stuck)}
        db.close()
        assert left == {"tree": 0, stuck: 0 if stuck == "null" else 250}
        return time.monotonic() - began

    assert asyncio.run(run()) < 20
    assert not any(tree.exists() for tree in trees)
