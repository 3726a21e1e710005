"""The engine is killed with -9 under load: containers run on, no exit and no log line is lost, nothing is left."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from pathlib import Path

import pytest

from sampan.engine.containers.cgroups import hierarchies
from tests.api.daemons import Daemon

pytestmark = pytest.mark.root
COUNT = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; usleep 10000; done; exit 5"


class _Load(threading.Thread):
    """Starts and removes containers as fast as it goes, whatever the daemon does meanwhile."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon=True)
        self.over = threading.Event()
        self._daemon = daemon

    def run(self) -> None:
        while not self.over.is_set():
            # The daemon is killed in the middle of any of these.
            with contextlib.suppress(OSError, AssertionError, Exception):
                one = self._daemon.create("true")
                self._daemon.call("POST", f"/containers/{one}/start")
                self._daemon.call("DELETE", f"/containers/{one}?force=1")


def test_killed_at_random_moments(tmp_path: Path) -> None:
    daemon = Daemon(3)
    daemon.start()
    rng = random.Random(7)
    try:
        counter = daemon.create("sh", "-c", COUNT, name="counter")
        daemon.call("POST", "/containers/counter/start")
        for _ in range(4):
            load = [_Load(daemon) for _ in range(3)]
            for thread in load:
                thread.start()
            time.sleep(rng.uniform(0.1, 0.6))
            daemon.kill()
            for thread in load:
                thread.over.set()
                thread.join(10)
            daemon.start()
        assert daemon.call("POST", "/containers/counter/wait")[1] == {"StatusCode": 5}
        raw = daemon.call("GET", "/containers/counter/logs?stdout=1")[1]
        numbers = [int(part.split("\n")[0]) for part in raw.split("line ")[1:]]
        assert numbers == list(range(1, 401))
        ids = [container["Id"] for container in daemon.call("GET", "/containers/json?all=1")[1]]
        assert counter in ids and len(set(ids)) == len(ids)
        for one in ids:
            assert daemon.call("DELETE", f"/containers/{one}?force=1")[0] == 204
        _nothing_left(daemon, ids)
    finally:
        daemon.close()


def _nothing_left(daemon: Daemon, ids: list[str]) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        states = list((daemon.roots.data / "containers").iterdir())
        groups = [
            p for root in hierarchies().values() for one in ids for p in Path(root).glob(f"sampan/{one}")
        ]
        if not states and not groups:
            return
        time.sleep(0.1)
    pytest.fail(f"left: {states} {groups}")
