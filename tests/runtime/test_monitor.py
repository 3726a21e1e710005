from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Conflict, StartFailure
from sampan.runtime.supervisor import AttachEnd
from tests.runtime.plans import Box
from tests.runtime.running import (
    by_itself,
    feed,
    finish,
    logged,
    read_all,
    records,
    start,
    supervised,
    unframe,
    until,
)

pytestmark = pytest.mark.root


def test_streams_are_framed_and_logged() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["sh", "-c", "echo out; echo err >&2; printf tail"])
            code, out, err = await finish(supervisor, plan)
            assert (code, out, err) == (0, b"out\ntail", b"err\n")
            assert logged(plan["log"]["path"]) == "out\ntail"
            assert logged(plan["log"]["path"], "stderr") == "err\n"

    asyncio.run(go())


def test_only_the_wanted_streams() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            end, ours = AttachEnd.pair(stdout=False)
            process = await supervisor.launch(box.plan(["sh", "-c", "echo out; echo err >&2"]), [end])
            await process.proceed()
            assert unframe(await read_all(ours)) == {1: b"", 2: b"err\n"}

    asyncio.run(go())


def test_terminal() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            script = "tty; stty size; ls -l /dev/console | head -c 1; echo; readlink /proc/self/fd/2"
            plan = box.plan(["sh", "-c", script], tty=True, console_size=[33, 77])
            code, out, _ = await finish(supervisor, plan)
            assert out.decode().split() == ["/dev/pts/0", "33", "77", "c", "/dev/pts/0"]
            assert code == 0
            assert logged(plan["log"]["path"]).endswith("\r\n")

    asyncio.run(go())


def test_resize_and_control_c() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            script = "trap 'stty size' WINCH; trap 'echo caught; exit 9' INT; echo up; "
            script += "while :; do usleep 20000; done"
            plan = box.plan(["sh", "-c", script], tty=True, stdin=True)
            end, ours = AttachEnd.pair(stdin=True)
            process = await supervisor.launch(plan, [end])
            await process.proceed()
            loop = asyncio.get_running_loop()
            seen = b""
            while b"up" not in seen:
                seen += await loop.sock_recv(ours, 4096)
            await process.resize(12, 34)
            while b"12 34" not in seen:
                seen += await loop.sock_recv(ours, 4096)
            await loop.sock_sendall(ours, b"\x03")
            seen += await read_all(ours)
            assert b"caught" in seen
            assert (await process.wait()).code == 9

    asyncio.run(go())


def test_stdin_ends_with_its_client_only_when_asked() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["cat"], stdin=True, stdin_once=True)
            assert (await finish(supervisor, plan, b"some text"))[:2] == (0, b"some text")
            process = await start(
                supervisor, box.plan(["sh", "-c", "read a; read b; echo $a $b"], stdin=True)
            )
            for word in (b"one\n", b"two\n"):
                ours = await process.attach(stdin=True, stdout=True, stderr=True)
                await asyncio.get_running_loop().sock_sendall(ours, word)
                ours.shutdown(socket.SHUT_WR)
            assert unframe(await read_all(ours))[1] == b"one two\n"
            process = await start(supervisor, box.plan(["cat"], stdin=True))
            await process.close_stdin()
            assert (await process.wait()).code == 0

    asyncio.run(go())


def test_without_stdin_it_is_empty() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            assert (await finish(supervisor, box.plan(["cat"]), b"ignored"))[:2] == (0, b"")

    asyncio.run(go())


def test_a_hundred_megabytes_through_stdin() -> None:
    data = os.urandom(1 << 20) * 100

    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["sha256sum"], stdin=True, stdin_once=True)
            code, out, _ = await finish(supervisor, plan, data)
            assert code == 0
            assert out.split()[0].decode() == hashlib.sha256(data).hexdigest()

    asyncio.run(go())


def test_input_and_output_at_once() -> None:
    data = os.urandom(1 << 20) * 8

    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["cat"], stdin=True, stdin_once=True, log=None)
            assert (await finish(supervisor, plan, data))[1] == data

    asyncio.run(go())


def test_the_container_ends_before_its_input() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["head", "-n1"], stdin=True, stdin_once=True)
            assert (await finish(supervisor, plan, b"first\n" + b"x" * (4 << 20)))[:2] == (0, b"first\n")

    asyncio.run(go())


def test_big_output_is_complete_and_fast() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(
                [
                    "sh",
                    "-c",
                    "yes 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef | head -c 20000000",
                ]
            )
            process = await supervisor.launch(plan)
            await process.proceed()
            await process.wait()
            assert len(logged(plan["log"]["path"])) == 20_000_000

    asyncio.run(go())


def test_a_slow_reader_disturbs_nobody_and_loses_nothing() -> None:
    size = 30_000_000

    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["sh", "-c", f"yes {'0123456789abcdef' * 8} | head -c {size}"])
            slow_end, slow = AttachEnd.pair()
            end, ours = AttachEnd.pair()
            process = await supervisor.launch(plan, [slow_end, end])
            await process.proceed()
            assert len(unframe(await read_all(ours))[1]) == size
            await process.wait()
            assert len(logged(plan["log"]["path"])) == size
            assert len(unframe(await read_all(slow))[1]) == size
            await until(lambda: not os.path.exists(f"/proc/{process.monitor_pid}"))

    asyncio.run(go())


def test_a_reader_that_leaves_is_forgotten() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            end, ours = AttachEnd.pair()
            process = await supervisor.launch(box.plan(["sh", "-c", "yes | head -c 3000000"]), [end])
            ours.close()
            await process.proceed()
            assert (await process.wait()).code == 0

    asyncio.run(go())


def test_attach_after_the_end_is_refused() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            process = await start(supervisor, box.plan(["true"]))
            await process.wait()
            await until(lambda: not os.path.exists(f"/proc/{process.monitor_pid}"))
            with pytest.raises(Conflict):
                await process.attach(stdin=False, stdout=True, stderr=True)
            with pytest.raises(ProcessLookupError):
                process.signal(15)

    asyncio.run(go())


def test_unfinished_lines_are_logged_when_nothing_follows() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["sh", "-c", "printf 'login: '; sleep 60"])
            process = await start(supervisor, plan)
            await until(lambda: logged(plan["log"]["path"]) == "login: ")
            await process.sync_log()
            await process.abort()

    asyncio.run(go())


def test_exit_record_and_out_of_memory() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            counter = box.root / "oom"
            counter.write_text("under_oom 0\noom_kill 2\n")
            plan = box.plan(["sh", "-c", "exit 7"], oom=[[str(counter), "oom_kill"]])
            before = time.time_ns()
            process = await start(supervisor, plan)
            end = await process.wait()
            assert (end.code, end.oom_killed) == (7, True)
            assert before < process.started_ns < end.finished_ns < time.time_ns()
            assert type(end).load(Path(plan["state_dir"])) == end
            assert process.exit == end

    asyncio.run(go())


@pytest.mark.parametrize("killed_before", [False, True])
def test_a_process_is_born_in_its_v2_group(killed_before: bool) -> None:
    """Where cgroup.kill was once written, some kernels kill at birth: then it enters by itself."""
    base = "/sys/fs/cgroup/unified" if os.path.isdir("/sys/fs/cgroup/unified") else "/sys/fs/cgroup"
    if not os.path.exists(f"{base}/cgroup.procs"):
        pytest.skip("no cgroup v2 hierarchy is mounted")
    group = f"{base}/smpa-test-{os.getpid()}"

    async def go() -> None:
        async with supervised() as (supervisor, box):
            process = await start(supervisor, box.plan(["sleep", "100"], join=[group]))
            members = Path(f"{group}/cgroup.procs").read_text().split()
            assert members == [str(process.pid)]
            await process.abort()
            await until(lambda: not Path(f"{group}/cgroup.procs").read_text())

    os.mkdir(group)
    try:
        if killed_before:
            Path(f"{group}/cgroup.kill").write_text("1")
        asyncio.run(go())
    finally:
        os.rmdir(group)


def test_output_that_outlives_the_container_without_pid_namespace() -> None:
    """The rest of a container in the host's pid namespace is found through its cgroup."""
    base = "/sys/fs/cgroup/pids" if os.path.isdir("/sys/fs/cgroup/pids") else "/sys/fs/cgroup"
    group = f"{base}/smpa-test-{os.getpid()}"

    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["sh", "-c", "setsid sleep 100 & exit 3"], join=[group])
            plan["unshare"] &= ~0x20000000
            plan["mounts"] = [m for m in plan["mounts"] if m[1] != "proc"]
            plan["masked"] = plan["readonly_paths"] = []
            process = await start(supervisor, plan)
            assert (await asyncio.wait_for(process.wait(), 60)).code == 3
            await until(lambda: not Path(f"{group}/cgroup.procs").read_text())

    os.mkdir(group)
    try:
        asyncio.run(go())
    finally:
        os.rmdir(group)


@pytest.fixture(params=[True, False], ids=["directly", "by a monitor of its own"])
def directly(request: pytest.FixtureRequest) -> bool:
    """Whether an exec's user is known, so that it may take the short way."""
    return bool(request.param)


async def execute(
    box: Box,
    supervisor: Any,
    target: Any,
    args: list[str],
    given: bytes | None = None,
    *,
    directly: bool,
    **more: Any,
) -> Any:
    end, ours = AttachEnd.pair(stdin=given is not None)
    plan = box.exec_plan(args, **more)
    process = await supervisor.exec(target, plan, [end], by_itself(box, target, plan) if directly else None)
    assert process.guest == (directly and not plan["tty"])
    feeding = asyncio.create_task(feed(ours.dup(), given)) if given is not None else None
    data = await read_all(ours)
    if feeding:
        await feeding
    return (await process.wait()).code, data


def test_exec(directly: bool) -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "60"]))
            script = "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done; hostname; "
            script += "echo e >&2; exit 3"
            code, data = await execute(box, supervisor, target, ["sh", "-c", script], directly=directly)
            streams = unframe(data)
            names = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
            links = [os.readlink(f"/proc/{target.pid}/ns/{n}") for n in names]
            assert streams[1].decode().split() == [*links, "box"]
            assert (code, streams[2]) == (3, b"e\n")
            code, data = await execute(
                box,
                supervisor,
                target,
                ["cat"],
                b"piped" * 100_000,
                directly=directly,
                stdin=True,
                stdin_once=True,
            )
            assert unframe(data)[1] == b"piped" * 100_000
            terminal = {"tty": True, "console_size": [5, 6]}
            command = ["sh", "-c", "tty; stty size"]
            code, data = await execute(box, supervisor, target, command, directly=directly, **terminal)
            assert data.split() == [b"/dev/pts/0", b"5", b"6"]
            alice = {"name": "alice", "groups": []}
            code, data = await execute(box, supervisor, target, ["id", "-u"], directly=directly, user=alice)
            assert unframe(data)[1] == b"1000\n"
            await target.abort()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("args", "more", "message", "code"),
    [
        (["nosuch"], {}, 'exec: "nosuch": executable file not found in $PATH', 127),
        (["/etc"], {}, 'exec: "/etc": is a directory: permission denied', 126),
        (
            ["pwd"],
            {"cwd": "/nosuch", "make_cwd": False},
            'chdir to cwd ("/nosuch") set in config.json failed: no such file or directory',
            127,
        ),
    ],
)
def test_exec_failures(
    args: list[str], more: dict[str, Any], message: str, code: int, directly: bool
) -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "60"]))
            with pytest.raises(StartFailure) as caught:
                plan = box.exec_plan(args, **more)
                await supervisor.exec(target, plan, (), by_itself(box, target, plan) if directly else None)
            prefix = "OCI runtime exec failed: exec failed: unable to start container process: "
            assert caught.value.message == prefix + message
            assert caught.value.exit_code == code
            await target.abort()

    asyncio.run(go())


def test_background_processes_of_an_exec_keep_their_pipe(directly: bool) -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "60"]))
            script = "(until [ -e /go ]; do sleep .05; done; echo late && touch /survived) & echo early"
            began = time.monotonic()
            code, data = await execute(box, supervisor, target, ["sh", "-c", script], directly=directly)
            assert (code, unframe(data)[1]) == (0, b"early\n")
            assert time.monotonic() - began > 1.5
            Path(f"/proc/{target.pid}/root/go").touch()
            await until(lambda: os.path.exists(f"/proc/{target.pid}/root/survived"))
            await target.abort()

    asyncio.run(go())


def test_log_records_have_ascending_times() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            plan = box.plan(["sh", "-c", "for i in 1 2 3; do echo $i; usleep 2000; done"])
            await finish(supervisor, plan)
            times = [r["time"] for r in records(plan["log"]["path"])]
            assert len(times) == 3
            assert times == sorted(times)

    asyncio.run(go())
