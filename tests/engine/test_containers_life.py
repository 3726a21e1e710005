"""Containers from creation to removal, in this process, with real processes in real namespaces."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from sampan import errors
from sampan.engine.containers import inspect, lifecycle, remove, update
from sampan.engine.containers.cgroups import hierarchies
from sampan.engine.engine import Engine
from sampan.runtime.config import (
    ExecConfig,
    ExecStart,
    HealthConfig,
    HostConfig,
    RestartPolicy,
    UpdateRequest,
)
from tests.engine.boxes import Roots, engine, finish, make, output, run_async, until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def roots() -> Iterator[Roots]:
    made = Roots()
    yield made
    made.remove()


def test_output_and_exit_code(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            one = await make(made, "sh", "-c", "echo out; echo err >&2; exit 42")
            assert await finish(made, one) == 42
            assert await output(made, one, stderr=False) == b"out\n"
            assert await output(made, one, stdout=False) == b"err\n"
            document = await inspect.inspect(made.containers, one, (1, 50))
            assert document["State"]["ExitCode"] == 42
            assert document["State"]["Status"] == "exited"

    run_async(work)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["nosuch"], 127, "executable file not found in $PATH"),
        (["/etc"], 126, "is a directory: permission denied"),
        (["/etc/passwd"], 126, "permission denied"),
    ],
)
def test_a_start_that_fails_leaves_it_created(
    roots: Roots, command: list[str], code: int, words: str
) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            one = await make(made, *command)
            with pytest.raises(errors.StartFailure, match=words.replace("$", r"\$")) as caught:
                await lifecycle.start(made.containers, one)
            assert caught.value.status == 400
            state = made.containers.get(one).state
            assert (state.status, state.exit_code, state.pid) == ("created", code, 0)
            assert words in state.error
            assert not os.path.exists(f"{hierarchies()['pids']}/sampan/{one}")

    run_async(work)


def test_stop_sends_the_signal_then_kills(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            polite = await make(made, "sh", "-c", "trap 'exit 9' TERM; echo up; while :; do sleep .05; done")
            deaf = await make(made, "sleep", "600")
            for one in (polite, deaf):
                await lifecycle.start(made.containers, one)
            await until(lambda: output(made, polite))
            await lifecycle.stop(made.containers, polite)
            await lifecycle.stop(made.containers, deaf, timeout=0)
            assert made.containers.get(polite).state.exit_code == 9
            assert made.containers.get(deaf).state.exit_code == 137
            with pytest.raises(errors.NotModified):
                await lifecycle.stop(made.containers, deaf)

    run_async(work)


def test_pause_stops_the_clock_of_its_processes(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            one = await make(made, "sh", "-c", "while :; do echo tick; sleep .02; done")
            await lifecycle.start(made.containers, one)
            await until(lambda: output(made, one))
            await lifecycle.pause(made.containers, one)
            seen = [b"", await output(made, one)]

            async def silent() -> bool:
                await asyncio.sleep(0.2)  # what was written before may still be on its way
                seen[:] = seen[1], await output(made, one)
                return seen[0] == seen[1]

            await until(silent)
            before = seen[1]
            with pytest.raises(errors.Conflict, match="already paused"):
                await lifecycle.pause(made.containers, one)
            assert await output(made, one) == before
            await lifecycle.unpause(made.containers, one)

            async def goes_on() -> bool:
                return len(await output(made, one)) > len(before)

            await until(goes_on)

    run_async(work)


def test_limits_are_the_kernels_own_figures(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            host = HostConfig(memory=64 << 20, pids_limit=50, nano_cpus=500_000_000, cpu_shares=512)
            one = await make(made, "sleep", "600", host=host)
            await lifecycle.start(made.containers, one)
            top = {name: Path(root) / "sampan" / one for name, root in hierarchies().items()}
            if "memory" in top:
                assert (top["memory"] / "memory.limit_in_bytes").read_text().strip() == str(64 << 20)
                assert (top["pids"] / "pids.max").read_text().strip() == "50"
                assert (top["cpu"] / "cpu.cfs_quota_us").read_text().strip() == "50000"
                request = UpdateRequest(memory=96 << 20, memory_swap=192 << 20)
                await update.update(made.containers, one, request)
                assert (top["memory"] / "memory.limit_in_bytes").read_text().strip() == str(96 << 20)
            await remove.remove(made.containers, one, force=True)
            await made.cleaner.drained()
            assert not any(path.exists() for path in top.values())

    run_async(work)


def test_restart_policy_counts_to_its_limit(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            host = HostConfig(restart_policy=RestartPolicy(name="on-failure", maximum_retry_count=2))
            one = await make(made, "sh", "-c", "exit 3", host=host)
            await lifecycle.start(made.containers, one)
            container = made.containers.get(one)
            while container.state.status != "exited":
                await asyncio.sleep(0.02)
            assert container.restart_count == 2

    run_async(work)


def test_a_stop_signal_that_linux_lacks_kills(roots: Roots) -> None:
    """As with dockerd: any number is accepted; asked for with the stop it is refused, and nothing happens."""

    async def work() -> None:
        async with engine(roots) as made:
            one = await make(made, "sleep", "60", stop_signal="+99", stop_timeout=30)
            await lifecycle.start(made.containers, one)
            with pytest.raises(errors.SystemFailure, match="does not support signal 77"):
                await lifecycle.stop(made.containers, one, signal="77")
            assert made.containers.get(one).running
            await lifecycle.stop(made.containers, one)
            assert made.containers.get(one).state.exit_code == 137

    run_async(work)


def test_restarts_at_once(roots: Roots) -> None:
    """Those that find it stopped share a start; one that comes while it is started does it again; --rm stays."""

    async def work() -> None:
        async with engine(roots) as made:
            one = await make(made, "sleep", "60", host=HostConfig(auto_remove=True))
            await lifecycle.start(made.containers, one)
            container = made.containers.get(one)
            live = made.containers.live(container)

            async def restart() -> None:
                await lifecycle.restart_container(made.containers, one, timeout=0)

            await asyncio.gather(restart(), restart(), restart())
            assert live.launches == 2 and container.running and container.host.auto_remove
            first = asyncio.create_task(restart())
            while live.launches == 2:
                await asyncio.sleep(0)
            await asyncio.gather(first, restart())
            assert live.launches == 4 and container.running and container.host.auto_remove
            await lifecycle.stop(made.containers, one, timeout=0)
            while one in made.registry:
                await asyncio.sleep(0.01)

    run_async(work)


def test_auto_remove_takes_its_anonymous_volume_along(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            one = await make(made, "true", host=HostConfig(auto_remove=True), volumes={"/v": {}})
            assert len(made.volumes.all()) == 1
            await finish(made, one)
            while one in made.registry:
                await asyncio.sleep(0.01)
            assert made.volumes.all() == []

    run_async(work)


def test_a_new_volume_gets_the_images_content(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            one = await make(made, "ls", "/etc", host=HostConfig(binds=["fresh:/etc"]))
            assert await finish(made, one) == 0
            assert b"passwd" in await output(made, one)
            with pytest.raises(errors.Conflict, match=f"remove fresh: volume is in use - .{one}."):
                await made.volumes.remove("fresh", force=True)

    run_async(work)


def test_exec_has_its_own_code_user_and_directory(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            one = await make(made, "sleep", "600")
            await lifecycle.start(made.containers, one)
            config = ExecConfig(cmd=["sh", "-c", "exit $(id -u)"], user="7", working_dir="/tmp")
            exec_ = made.execs.create(one, config)
            await made.execs.start(exec_.id, ExecStart(detach=True))
            await asyncio.wait_for(exec_.over.wait(), 60)
            assert made.execs.document(exec_.id)["ExitCode"] == 7
            with pytest.raises(errors.Conflict, match="has already run"):
                await made.execs.start(exec_.id, ExecStart(detach=True))

    run_async(work)


def test_health_turns_unhealthy_after_retries(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            check = HealthConfig(test=["CMD-SHELL", "echo bad; exit 1"], interval=50_000_000, retries=2)
            one = await make(made, "sleep", "600", healthcheck=check)
            await lifecycle.start(made.containers, one)
            container = made.containers.get(one)
            while container.health is not None and container.health.status == "starting":
                await asyncio.sleep(0.02)
            assert container.health is not None
            assert container.health.status == "unhealthy"
            assert container.health.log[-1].output == "bad\n"

    run_async(work)


async def _fill(made: Engine, count: int) -> list[str]:
    ids = []
    for _ in range(count):
        one = await make(made, "true")
        ids.append(one)
        await finish(made, one)
    return ids


def test_many_come_and_go_and_nothing_is_left(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            descriptors = len(os.listdir("/proc/self/fd"))
            batches = await asyncio.gather(*(_fill(made, 5) for _ in range(4)))
            for one in [identity for batch in batches for identity in batch]:
                await remove.remove(made.containers, one)
            await made.cleaner.drained()
            assert list((roots.data / "containers").iterdir()) == []
            assert len(os.listdir("/proc/self/fd")) <= descriptors + 5

    run_async(work)


def test_signals_reach_the_first_process(roots: Roots) -> None:
    async def work() -> None:
        async with engine(roots) as made:
            script = "trap 'echo usr1; exit 4' USR1; echo up; while :; do sleep .05; done"
            one = await make(made, "sh", "-c", script)
            await lifecycle.start(made.containers, one)
            await until(lambda: output(made, one))
            await lifecycle.kill(made.containers, one, "SIGUSR1")
            live = made.containers.live(made.containers.get(one))
            await asyncio.wait_for(live.run_over.wait(), 60)
            assert made.containers.get(one).state.exit_code == 4
            with pytest.raises(errors.Conflict, match=f"cannot kill container: {one[:12]}: container {one}"):
                await lifecycle.kill(made.containers, one[:12], str(int(signal.SIGTERM)))

    run_async(work)
