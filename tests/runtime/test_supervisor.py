from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Conflict, SystemFailure
from sampan.runtime import silence
from sampan.runtime.supervisor import Exit, MonitorLost, Supervisor
from tests.runtime.plans import Box
from tests.runtime.running import by_itself, finish, logged, read_all, start, supervised, unframe, until

pytestmark = pytest.mark.root

_ROOT = Path(__file__).parents[2]


@contextmanager
def box_of_ours() -> Iterator[Box]:
    box = Box()
    try:
        yield box
    finally:
        box.remove()


@contextmanager
def engine(box: Box, plans: list[dict[str, Any]]) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A separate engine that has started ``plans``; killed at the end."""
    path = box.root / "plans.json"
    path.write_text(json.dumps(plans))
    command = [sys.executable, "-m", "tests.runtime.engine_process", str(path)]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


_COUNTING = "i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); usleep 2000; done; {end}"


def test_everything_survives_kill_9_of_engine_and_zygote() -> None:
    with box_of_ours() as box:
        plans = [
            box.plan(
                [
                    "sh",
                    "-c",
                    _COUNTING.format(count=400, end="until [ -e /go ]; do usleep 5000; done; exit 5"),
                ]
            ),
            box.plan(
                ["sh", "-c", "setsid sh -c 'sleep .1; exit 1' & read line; echo got $line; exit 6"],
                stdin=True,
            ),
            box.plan(["sh", "-c", "echo short; exit 7"]),
        ]
        with engine(box, plans) as (process, state):
            process.kill()
            os.kill(state["zygote"], signal.SIGKILL)
            process.wait()

        async def back() -> None:
            supervisor = Supervisor()
            await supervisor.start()
            counting = await supervisor.adopt(Path(plans[0]["run_dir"]))
            waiting = await supervisor.adopt(Path(plans[1]["run_dir"]))
            assert counting is not None
            assert waiting is not None
            assert [counting.pid, counting.monitor_pid, counting.started_ns] == state["started"][0]
            await until(lambda: Exit.load(Path(plans[2]["state_dir"])) is not None)
            assert await supervisor.adopt(Path(plans[2]["run_dir"])) is None
            ours = await waiting.attach(stdin=True, stdout=True, stderr=True)
            await asyncio.get_running_loop().sock_sendall(ours, b"hello\n")
            assert unframe(await read_all(ours))[1] == b"got hello\n"
            assert (await waiting.wait()).code == 6
            Path(f"/proc/{counting.pid}/root/go").touch()
            end = await counting.wait()
            assert end.code == 5
            assert Exit.load(Path(plans[0]["state_dir"])) == end
            await supervisor.close()

        asyncio.run(back())
        third = Exit.load(Path(plans[2]["state_dir"]))
        assert third is not None
        assert third.code == 7
        assert logged(plans[0]["log"]["path"]) == "".join(f"line {i}\n" for i in range(400))
        assert logged(plans[2]["log"]["path"]) == "short\n"


def test_an_exit_without_engine_is_recorded() -> None:
    with box_of_ours() as box:
        plan = box.plan(["sh", "-c", "sleep .3; echo done; exit 9"])
        with engine(box, [plan]) as (process, state):
            process.kill()
            process.wait()
        pid = state["started"][0][1]
        end = time.monotonic() + 60
        while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
            time.sleep(0.01)
        found = Exit.load(Path(plan["state_dir"]))
        assert found is not None
        assert found.code == 9
        assert logged(plan["log"]["path"]) == "done\n"


def test_stdin_stays_open_when_the_engine_dies_with_its_clients() -> None:
    with box_of_ours() as box:
        plan = box.plan(["sh", "-c", "read line; echo got $line"], stdin=True, stdin_once=True)
        with engine(box, [plan]) as (process, _):
            process.kill()
            process.wait()

        async def back() -> None:
            supervisor = Supervisor()
            found = await supervisor.adopt(Path(plan["run_dir"]))
            assert found is not None
            await asyncio.sleep(0.3)
            ours = await found.attach(stdin=True, stdout=True, stderr=True)
            await asyncio.get_running_loop().sock_sendall(ours, b"x\n")
            assert unframe(await read_all(ours))[1] == b"got x\n"
            await found.wait()
            await supervisor.close()

        asyncio.run(back())


def test_a_dead_zygote_is_replaced() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            first = await start(supervisor, box.plan(["sleep", "60"]))
            for _ in range(3):
                os.kill(supervisor.zygote_pid, signal.SIGKILL)
                assert (await finish(supervisor, box.plan(["echo", "again"])))[1] == b"again\n"
            first.signal(signal.SIGTERM)
            first.signal(signal.SIGKILL)
            assert (await first.wait()).code == 137

    asyncio.run(go())


def test_a_stopped_zygote_is_replaced_and_keeps_nobody_else_waiting() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            first = await start(supervisor, box.plan(["sleep", "60"]))
            stopped = supervisor.zygote_pid
            os.kill(stopped, signal.SIGSTOP)
            # More than its socket takes: the loop goes on meanwhile.
            plan = box.exec_plan(["true"])
            execs = [asyncio.create_task(supervisor.exec(first, plan)) for _ in range(400)]
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(0.5)
            assert asyncio.get_running_loop().time() - began < 20
            for process in await asyncio.wait_for(asyncio.gather(*execs), 110):
                assert (await process.wait()).code == 0
            assert supervisor.zygote_pid not in (0, stopped) and not os.path.exists(f"/proc/{stopped}")
            os.kill(supervisor.zygote_pid, signal.SIGSTOP)
            given_up = asyncio.create_task(supervisor.launch(box.plan(["sleep", "61"])))
            await asyncio.sleep(0.2)
            given_up.cancel()
            assert first.exit is None
            first.signal(signal.SIGKILL)
            assert (await first.wait()).code == 137

    asyncio.run(go())


def test_a_start_lets_go_on_what_a_signal_has_stopped() -> None:
    """Between fork and exec: the monitor before its first word, later, and the first process."""

    async def go() -> None:
        async with supervised() as (supervisor, box):
            stopping = asyncio.create_task(stop_the_next_child(supervisor.zygote_pid))
            process = await asyncio.wait_for(supervisor.launch(box.plan(["sleep", "60"])), 60)
            await stopping
            for pid in (process.monitor_pid, process.pid):
                os.kill(pid, signal.SIGSTOP)
            await asyncio.wait_for(process.proceed(), 60)
            assert process.started_ns
            process.signal(signal.SIGKILL)
            assert (await process.wait()).code == 137

    asyncio.run(go())


async def stop_the_next_child(zygote: int) -> None:
    """SIGSTOP for the first child that appears, as early as can be."""
    children = Path(f"/proc/{zygote}/task/{zygote}/children")
    while True:
        for pid in children.read_text().split():
            os.kill(int(pid), signal.SIGSTOP)
            return
        await asyncio.sleep(0)


def test_a_start_that_something_holds_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a tracer has stopped goes on for nobody else: the start fails, its processes end, the next one works."""

    async def go() -> None:
        async with supervised() as (supervisor, box):
            process = await supervisor.launch(box.plan(["sleep", "61"]))
            monitor, first = process.monitor_pid, process.pid
            with traced(monitor), monkeypatch.context() as impatient:
                impatient.setattr(silence, "PATIENCE", 1.0)
                impatient.setattr(silence, "LOOK", 0.2)
                with pytest.raises(SystemFailure, match=rf"monitor \(process {monitor}\) did not answer"):
                    await process.proceed()
                await asyncio.wait_for(process.abort(), 60)
            await until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in (monitor, first)))
            assert (await finish(supervisor, box.plan(["echo", "next"])))[1] == b"next\n"

    asyncio.run(go())


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """Hold ``pid`` as a debugger does, ptrace(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.ptrace(16, pid, None, None) == 0, os.strerror(ctypes.get_errno())  # PTRACE_ATTACH
    try:
        yield
    finally:
        os.waitpid(pid, 0x40000000)  # __WALL: a tracer hears of the end, too


def test_a_monitor_hands_the_shutdown_of_the_machine_on() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            script = "trap 'echo last words; exit 4' TERM; echo up; while :; do usleep 10000; done"
            plan = box.plan(["sh", "-c", script])
            process = await start(supervisor, plan)
            await until(lambda: logged(plan["log"]["path"]) == "up\n")
            os.kill(process.monitor_pid, signal.SIGTERM)
            assert (await process.wait()).code == 4
            assert logged(plan["log"]["path"]) == "up\nlast words\n"
            deaf = await start(supervisor, box.plan(["sleep", "60"], stop_timeout=0.3))
            os.kill(deaf.monitor_pid, signal.SIGTERM)
            assert (await deaf.wait()).code == 137

    asyncio.run(go())


def test_a_dead_monitor_takes_its_container_along() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            for user in ({"name": "", "groups": []}, {"name": "alice", "groups": []}):
                process = await start(supervisor, box.plan(["sleep", "60"], user=user))
                os.kill(process.monitor_pid, signal.SIGKILL)
                with pytest.raises(MonitorLost):
                    await process.wait()
                pid = process.pid
                await until(lambda pid=pid: not os.path.exists(f"/proc/{pid}"))

    asyncio.run(go())


def test_many_at_once_leave_nothing() -> None:
    def processes() -> list[str]:
        return [p for p in os.listdir("/proc") if p.isdigit() and _is_ours(p)]

    def left(box: Box) -> list[str]:
        return [line for line in open("/proc/self/mountinfo") if str(box.root) in line]

    async def go() -> None:
        async with supervised() as (supervisor, box):

            async def one(number: int) -> None:
                plan = box.plan(["sh", "-c", f"echo {number}; exit {number}"])
                assert (await finish(supervisor, plan))[:2] == (number, f"{number}\n".encode())

            await asyncio.gather(*(one(number) for number in range(5)))
            await until(lambda: not processes())
            before = len(os.listdir("/proc/self/fd"))
            await asyncio.gather(*(one(number) for number in range(40)))
            await until(lambda: not processes() and not left(box))
            await until(lambda: len(os.listdir("/proc/self/fd")) <= before)

    asyncio.run(go())


def _is_ours(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("sampan-monitor") and (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] in _children()
        )
    except (FileNotFoundError, ProcessLookupError):
        return False


def _children() -> set[str]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return set(listed.split())


def test_cancelled_launch_leaves_no_process() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["sleep", "60"])
            task = asyncio.create_task(supervisor.launch(plan))
            await asyncio.sleep(0.002)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: not [p for p in _monitors() if plan["id"] in p])

    asyncio.run(go())


def _monitors() -> list[str]:
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                found.append(Path(f"/proc/{pid}/cmdline").read_text())
            except (FileNotFoundError, ProcessLookupError, PermissionError, UnicodeDecodeError):
                continue
    return found


def test_a_monitor_is_small() -> None:
    """About 1 MB (PSS) for an idle container is aimed at; the bound has room for other builds of Python."""

    async def go() -> None:
        async with supervised() as (supervisor, box):
            processes = [await start(supervisor, box.plan(["sleep", "60"])) for _ in range(20)]
            await asyncio.sleep(0.3)
            sizes = [_pss(process.monitor_pid) for process in processes]
            for process in processes:
                await process.abort()
            assert sum(sizes) / len(sizes) < 1400

    asyncio.run(go())


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss line")


def test_an_exec_whose_container_ends_meanwhile_runs_nowhere() -> None:
    """Neither on the host, where the container's namespaces were to be."""

    async def work() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "1000"]))
            escaped = box.root / "escaped"
            plan = box.exec_plan(["/bin/sh", "-c", f"echo > {escaped}"])
            program = by_itself(box, target, plan)
            os.kill(target.monitor_pid, signal.SIGSTOP)
            running = asyncio.create_task(supervisor.exec(target, plan, (), program))
            await asyncio.sleep(0.05)  # it has been sent
            os.kill(target.monitor_pid, signal.SIGKILL)
            with pytest.raises(Conflict):
                process = await running
                await process.wait()
            assert not escaped.exists()

    asyncio.run(work())
