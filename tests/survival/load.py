"""Workers that live through containers' lives and check all they see, whatever happens to the engine."""

from __future__ import annotations

import random
import re
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from tests.survival.world import Gone, World

_READY = 60.0


class Worker(threading.Thread):
    """Does one kind of life after the other until it is told to end; ``error`` is what it saw go wrong.

    A request that got no answer is followed by a look at what came of it: the engine may have been killed
    before, while, or after it did what was asked.
    """

    def __init__(self, world: World, number: int, seed: int) -> None:
        super().__init__(name=f"worker-{number}", daemon=True)
        self.world, self.number = world, number
        self.chance = random.Random(seed * 1000 + number)
        self.over = threading.Event()
        self.error = ""
        self.lives: dict[str, int] = {}
        self.retries = 0
        self._count = 0

    def run(self) -> None:
        lives: list[Callable[[str], None]] = [
            *(self.short, self.short, self.stopped, self.killed, self.removes_itself, self.tries_again),
            *(self.executes, self.removed_by_force),
        ]
        try:
            while not self.over.is_set():
                life = self.chance.choice(lives)
                self._count += 1
                life(f"w{self.number}-{self._count}-{life.__name__}")
                self.lives[life.__name__] = self.lives.get(life.__name__, 0) + 1
        except BaseException:
            self.error = traceback.format_exc()

    # --- lives --------------------------------------------------------------------------------------------

    def short(self, name: str) -> None:
        """It says some lines and ends with a code: all lines are there, and the code."""
        code, count = self.chance.randrange(256), self.chance.randrange(1, 400)
        self.create(name, f"i=0; while [ $i -lt {count} ]; do echo {name} $i; i=$((i+1)); done; exit {code}")
        self.launch(name)
        self.expect_end(name, code)
        self.expect_log(name, [f"{name} {number}" for number in range(count)])
        self.remove(name)

    def stopped(self, name: str) -> None:
        """It ends at its own pace when it is asked to."""
        code = self.chance.randrange(1, 100)
        self.create(
            name, f"trap 'sleep 0.2; echo bye; exit {code}' TERM; echo up; while :; do sleep 0.05; done"
        )
        self.launch(name)
        self.await_log(name, "up")
        self.until(
            name, "POST", f"/containers/{name}/stop?t=20", done=lambda now: not now["State"]["Running"]
        )
        self.expect_end(name, code)
        self.expect_log(name, ["up", "bye"])
        self.remove(name)

    def killed(self, name: str) -> None:
        """It is killed."""
        self.create(name, "echo up; exec sleep 1000")
        self.launch(name)
        self.await_log(name, "up")
        self.until(name, "POST", f"/containers/{name}/kill", done=lambda now: not now["State"]["Running"])
        self.expect_end(name, 137)
        self.remove(name)

    def removes_itself(self, name: str) -> None:
        """``--rm``: it is gone after its end."""
        self.create(name, "echo x; exit 4", AutoRemove=True)
        self.launch(name, vanishes=True)
        self.await_(lambda: self.look(name) is None, f"{name} to be removed")

    def tries_again(self, name: str) -> None:
        """on-failure:2: run three times in all, each end counted."""
        self.create(name, "echo run; exit 3", RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 2})
        self.launch(name)
        self.await_(
            lambda: (now := self.look(name)) is not None and now["State"]["Status"] == "exited",
            f"{name} to give up",
        )
        now = self.look(name)
        assert now is not None and now["State"]["ExitCode"] == 3 and now["RestartCount"] == 2, now
        self.expect_log(name, ["run"] * 3)
        self.remove(name)

    def executes(self, name: str) -> None:
        """Programs run in it beside the first one."""
        self.create(name, "echo up; exec sleep 1000")
        self.launch(name)
        self.await_log(name, "up")
        for _ in range(self.chance.randrange(1, 4)):
            try:
                self._execute(name)
            except Gone:
                self.wait_for_engine()
        self.remove(name, force=True)

    def _execute(self, name: str) -> None:
        code = self.chance.randrange(256)
        body = {
            "Cmd": ["sh", "-c", f"echo out; echo err >&2; exit {code}"],
            "AttachStdout": True,
            "AttachStderr": True,
        }
        status, made = self.world.ask("POST", f"/containers/{name}/exec", body)
        assert status == 201, (status, made)
        status, said = self.world.ask("POST", f"/exec/{made['Id']}/start", {})
        if status == 404:  # the engine was killed between the two: it has forgotten it
            return
        assert status == 200, (status, said)
        status, found = self.world.ask("GET", f"/exec/{made['Id']}/json")
        if status == 404:
            return
        assert "out" in said and "err" in said, said
        assert found["ExitCode"] == code, found

    def removed_by_force(self, name: str) -> None:
        """Removed while it starts or runs."""
        self.create(name, "echo x; exec sleep 1000")
        starting = threading.Thread(target=self._start_quietly, args=(name,))
        starting.start()
        time.sleep(self.chance.uniform(0, 0.08))
        self.remove(name, force=True)
        starting.join()
        self.await_(lambda: self.look(name) is None, f"{name} to be gone")

    def _start_quietly(self, name: str) -> None:
        try:
            status, said = self.world.ask("POST", f"/containers/{name}/start")
        except Gone:
            return
        if status not in (204, 304, 404, 409):
            self.error = f"start of {name} while it was removed: {status} {said}"

    # --- steps that go through ----------------------------------------------------------------------------

    def create(self, name: str, script: str, **host: Any) -> None:
        """Make a container, on a random network, perhaps with a volume and a published port."""
        network = self.chance.choice(("none", "bridge", "bridge", "host", "soak"))
        body: dict[str, Any] = {"Image": "busybox", "Cmd": ["sh", "-c", script]}
        body["HostConfig"] = {"NetworkMode": network, **host}
        if self.chance.random() < 0.2:
            body["HostConfig"]["LogConfig"] = {"Type": "local"}
        if self.chance.random() < 0.3:
            body["Volumes"] = {"/data": {}}
        if network in ("bridge", "soak") and self.chance.random() < 0.5:
            body["ExposedPorts"] = {"80/tcp": {}}
            body["HostConfig"]["PortBindings"] = {"80/tcp": [{"HostPort": ""}]}
        while True:
            try:
                status, said = self.world.ask("POST", f"/containers/create?name={name}", body)
            except Gone:
                self.wait_for_engine()
                if self.look(name) is None:
                    continue
                return
            assert status == 201, (name, status, said)
            return

    def launch(self, name: str, *, vanishes: bool = False) -> None:
        """Start it, once: after the loss of the engine only if it never began."""
        while True:
            try:
                status, said = self.world.ask("POST", f"/containers/{name}/start")
            except Gone:
                self.wait_for_engine()
                now = self.look(name)
                if now is None and vanishes:
                    return
                assert now is not None, f"{name} is lost"
                if now["State"]["Status"] == "created":
                    continue
                return
            assert status in (204, 304), (name, status, said)
            return

    def until(self, name: str, method: str, path: str, *, done: Callable[[dict[str, Any]], bool]) -> None:
        """Ask again until it was answered or has happened all the same."""
        while True:
            try:
                status, said = self.world.ask(method, path)
            except Gone:
                self.wait_for_engine()
                now = self.look(name)
                assert now is not None, f"{name} is lost"
                if done(now):
                    return
                continue
            assert status in (200, 204, 304), (name, path, status, said)
            return

    def expect_end(self, name: str, code: int) -> None:
        """Wait for its end, and see that the code is right."""
        while True:
            try:
                status, said = self.world.ask("POST", f"/containers/{name}/wait")
                assert status == 200 and said["StatusCode"] == code, (name, code, status, said)
                now = self.look(name)
                assert now is not None and now["State"]["ExitCode"] == code, (
                    name,
                    code,
                    now and now["State"],
                )
                return
            except Gone:
                self.wait_for_engine()

    def expect_log(self, name: str, lines: list[str]) -> None:
        """Its log has these lines, in this order, and no other."""
        found = self.read_log(name)
        assert found == lines, (name, len(lines), len(found), lines[:3], found[:3], lines[-3:], found[-3:])

    def await_log(self, name: str, line: str) -> None:
        """Wait until it has said ``line``."""
        self.await_(lambda: line in self.read_log(name), f"{name} to say {line!r}")

    def read_log(self, name: str) -> list[str]:
        """Its stdout, line by line, without the frames' heads."""
        while True:
            try:
                status, said = self.world.ask("GET", f"/containers/{name}/logs?stdout=1&stderr=1")
            except Gone:
                self.wait_for_engine()
                continue
            assert status == 200, (name, status, said)
            return re.sub(r"[\x01\x02]\0\0\0(?:.{4})", "", said, flags=re.DOTALL).splitlines()

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove it; it is gone afterwards."""
        while True:
            try:
                status, said = self.world.ask("DELETE", f"/containers/{name}?v=1&force={int(force)}")
            except Gone:
                self.wait_for_engine()
                if self.look(name) is None:
                    return
                continue
            assert status == 204, (name, status, said)
            assert self.look(name) is None, f"{name} was removed and is there"
            return

    def look(self, name: str) -> dict[str, Any] | None:
        """Inspect; None when there is no such container."""
        while True:
            try:
                status, said = self.world.ask("GET", f"/containers/{name}/json")
            except Gone:
                self.wait_for_engine()
                continue
            if status == 404:
                return None
            assert status == 200, (name, status, said)
            found: dict[str, Any] = said
            return found

    def await_(self, true: Callable[[], bool], what: str) -> None:
        """Wait until ``true`` says so; AssertionError after a minute."""
        deadline = time.monotonic() + _READY
        while not true():
            assert time.monotonic() < deadline, f"waited for {what}"
            time.sleep(0.05)

    def wait_for_engine(self) -> None:
        """The engine went away: wait until there is one again."""
        self.retries += 1
        deadline = time.monotonic() + _READY
        while not self.world.answers():
            assert time.monotonic() < deadline, "no engine for a minute"
            time.sleep(0.02)


class Clock:
    """A container that counts through everything, into its log and into a file: both have to agree."""

    SCRIPT = (
        "trap 'exit 9' TERM; i=0; while :; do i=$((i+1)); echo tick $i; echo $i > /count; usleep 3000; done"
    )

    def __init__(self, world: World, name: str, **host: Any) -> None:
        self.world, self.name = world, name
        body = {
            "Image": "busybox",
            "Cmd": ["sh", "-c", self.SCRIPT],
            "HostConfig": {"LogConfig": {"Type": "json-file"}, **host},
        }
        world.must("POST", f"/containers/create?name={name}", body)
        world.must("POST", f"/containers/{name}/start")
        self.started = world.must("GET", f"/containers/{name}/json")["State"]["StartedAt"]

    def check(self) -> int:
        """Stop it: it never restarted, and its log has all numbers from 1 to the last; how many."""
        now = self.world.must("GET", f"/containers/{self.name}/json")
        assert now["State"]["Running"] and now["State"]["StartedAt"] == self.started, now["State"]
        self.world.must("POST", f"/containers/{self.name}/stop")
        now = self.world.must("GET", f"/containers/{self.name}/json")
        assert now["State"]["ExitCode"] == 9, now["State"]
        said = self.world.must("GET", f"/containers/{self.name}/logs?stdout=1")
        numbers = [int(text) for text in re.findall(r"tick (\d+)", said)]
        assert numbers == list(range(1, len(numbers) + 1)), f"{self.name}: lines are missing or doubled"
        assert len(numbers) > 10
        return len(numbers)


class Follower(threading.Thread):
    """Follows a clock's log, over and over: within a connection every number comes after the one before."""

    def __init__(self, world: World, name: str) -> None:
        super().__init__(name=f"follower of {name}", daemon=True)
        self.world, self.container = world, name
        self.over = threading.Event()
        self.error = ""
        self.lines = 0

    def run(self) -> None:
        while not self.over.is_set():
            try:
                self._follow()
            except Gone:
                time.sleep(0.05)
            except BaseException:
                self.error = traceback.format_exc()
                return

    def _follow(self) -> None:
        last = 0
        rest = b""
        for data in self.world.stream(
            f"/containers/{self.container}/logs?stdout=1&follow=1&tail=50", self.over
        ):
            rest += data
            done = 0
            for found in re.finditer(rb"tick (\d+)\n", rest):
                number, done = int(found[1]), found.end()
                assert last in (0, number - 1), f"{number} follows {last}"
                last = number
                self.lines += 1
            rest = rest[done:]
