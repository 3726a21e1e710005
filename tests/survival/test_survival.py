"""The engine is killed with -9 under load; the long form of this is ``scripts/soak``."""

from __future__ import annotations

import pytest

from tests.survival.many import many
from tests.survival.soak import survive

pytestmark = pytest.mark.root


def test_killed_at_random_moments_under_load() -> None:
    """Nothing is lost, doubled or left behind: containers, log lines, exit codes, mounts, links, cgroups, rules."""
    figures = survive(kills=4, seed=11, workers=5, pause=(0.3, 1.5))
    assert figures["kills"] == 4


def test_many_idle_containers() -> None:
    """All started, listed, taken over by the next engine, stopped and removed."""
    figures = many(60)
    assert figures["containers"] == 60
