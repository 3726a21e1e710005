"""Execs that their container's monitor starts: as those with a monitor of their own, and nothing is left of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import StartFailure
from sampan.runtime import calls, seccomp
from sampan.runtime.processes import NotDirectly
from sampan.runtime.supervisor import AttachEnd, Process, Supervisor
from tests.runtime import machines
from tests.runtime.plans import Box
from tests.runtime.running import by_itself, read_all, start, supervised, unframe, until

_LOOK = """
id; pwd; umask; env | sort; ls /proc/self/fd; ulimit -n; ulimit -c
grep -E '^(Sig[PBIC]|Cap|NoNew|Seccomp|Groups|Uid|Gid)' /proc/self/status
cat /proc/self/cgroup /proc/self/oom_score_adj
for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done
stat -c '%u %a' -L /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2
set -- $(cat /proc/self/stat); echo $(($5 - $$)) $(($6 - $$)) $7
"""


@pytest.mark.parametrize("machine", machines.MACHINES)
def test_the_code_is_what_its_source_says(tmp_path: Path, machine: str) -> None:
    code = machines.assembled("calls", machine, tmp_path)
    assert len(code) % 8 == 0
    assert code in calls.Calls(machine).program(1, b"", 0)


@pytest.mark.parametrize("machine", machines.MACHINES)
def test_a_failure_leads_where_its_entry_says(tmp_path: Path, machine: str) -> None:
    program = calls.Calls(machine)
    for number, name in enumerate(("/proc/nosuch", "/")):
        path = program.text(name)
        program.call("chdir", path, failed=2)
        program.call("write", 1, program.put(b"%d" % number), 1)
    program.call("getcwd", calls.BUFFER, calls.BUFFER_SIZE)
    program.require(calls.BUFFER, ord("/"))
    program.call("close", 999)
    program.call("write", 1, program.put(b"no"), 2)
    command = machines.command(program.program(1, b" failed", 7), machine, tmp_path)
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (7, b"1 failed")


async def begin(
    box: Box, supervisor: Supervisor, target: Process, args: list[str], *, known: bool = True, **more: Any
) -> tuple[Process, socket.socket]:
    end, ours = AttachEnd.pair(stdin=more.get("stdin", False))
    plan = box.exec_plan(args, **more)
    return await supervisor.exec(target, plan, [end], by_itself(box, target, plan) if known else None), ours


async def output(
    box: Box, supervisor: Supervisor, target: Process, args: list[str], **more: Any
) -> tuple[int, str, str]:
    process, ours = await begin(box, supervisor, target, args, **more)
    streams = unframe(await read_all(ours))
    return (await process.wait()).code, streams[1].decode(), streams[2].decode()


def descriptors(process: Process) -> list[str]:
    """Where the descriptors of its monitor lead, which come and go by number."""
    directory = f"/proc/{process.monitor_pid}/fd"
    return sorted(os.readlink(f"{directory}/{name}").split(":")[0] for name in os.listdir(directory))


_FILTER = seccomp.SeccompCache()


def default_filter() -> bytes:
    return _FILTER.program(_FILTER.section("", ["CAP_CHOWN"]))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"user": {"name": "alice", "groups": ["staff", "7"]}, "cwd": "/tmp"},
        {"user": {"name": "1234:99", "groups": []}, "stdin": True, "stdin_once": True},
        {"rlimits": [[7, 100, 200], [4, 0, -1]], "umask": 0o077, "env": ["PATH=/nosuch:/bin", "A=é", "B="]},
        {"seccomp": True},
        {"seccomp": True, "no_new_privs": True, "user": {"name": "daemon", "groups": []}},
        {"caps": dict.fromkeys(("bounding", "effective", "permitted"), (1 << 41) - 1)},
    ],
    ids=["root", "user", "numbers", "limits", "filtered", "no new privileges", "privileged"],
)
def test_both_ways_lead_to_the_same(more: dict[str, Any]) -> None:
    if more.get("seccomp"):
        more = {**more, "seccomp": default_filter()}
    if "caps" in more:
        more = {**more, "caps": {**more["caps"], "inheritable": 0, "ambient": 0}}

    async def go() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "60"]))
            found = []
            for known in (True, False):
                process, ours = await begin(box, supervisor, target, ["sh", "-c", _LOOK], known=known, **more)
                assert process.guest == known
                ours.shutdown(socket.SHUT_WR)
                streams = unframe(await read_all(ours))
                assert (await process.wait()).code == 0, streams
                found.append((streams[1].decode(), streams[2].decode()))
            assert found[0][0].splitlines() == found[1][0].splitlines()
            assert found[0][1] == found[1][1]
            assert "uid=" in found[0][0]
            await target.abort()

    asyncio.run(go())


def test_its_parent_is_the_monitor_which_keeps_nothing() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "60"]))
            await output(box, supervisor, target, ["true"])
            await asyncio.sleep(0.1)  # the end is told first
            before = Counter(descriptors(target))
            process, ours = await begin(box, supervisor, target, ["sleep", "60"])
            stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
            assert int(stat[1]) == target.monitor_pid
            process.signal(signal.SIGTERM)
            assert (await process.wait()).code == 143
            ours.close()
            many = [output(box, supervisor, target, ["sh", "-c", f"echo {n}; exit {n}"]) for n in range(20)]
            assert await asyncio.gather(*many) == [(n, f"{n}\n", "") for n in range(20)]
            with pytest.raises(StartFailure):
                await output(box, supervisor, target, ["nosuch"])
            await until(lambda: not Counter(descriptors(target)) - before)
            await target.abort()

    asyncio.run(go())


def test_many_leave_no_memory() -> None:
    """A monitor collects no garbage."""

    async def go() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "60"]))

            async def some(rounds: int) -> int:
                for _ in range(rounds):
                    await output(box, supervisor, target, ["echo", "x"])
                    process, ours = await begin(box, supervisor, target, ["true"], stdin=True)
                    await process.wait()
                    ours.close()
                    with pytest.raises(NotDirectly):
                        plan = box.exec_plan(["nosuch"])
                        program = by_itself(box, target, plan) or b""
                        await supervisor._exec_below(target, plan, program, ())
                lines = Path(f"/proc/{target.monitor_pid}/smaps_rollup").read_text().splitlines()
                return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:"))

            before = await some(20)
            assert await some(60) - before < 100  # KiB
            await target.abort()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("hierarchy", "killed_before"), [("pids", False), ("unified", False), ("unified", True)]
)
def test_it_is_in_its_group(hierarchy: str, killed_before: bool) -> None:
    base = Path("/sys/fs/cgroup")
    base = base / hierarchy if (base / hierarchy).is_dir() else base
    if (base / "tasks").exists() != (hierarchy == "pids"):
        pytest.skip("no such hierarchy here")
    group = base / f"smpa-direct-{os.getpid()}"

    async def go() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "60"], join=[str(group)]))
            for known in (True, False):
                process, ours = await begin(
                    box, supervisor, target, ["sleep", "60"], known=known, join=[str(group)]
                )
                assert process.guest == known or killed_before
                assert str(process.pid) in (group / "cgroup.procs").read_text().split()
                process.signal(signal.SIGTERM)
                assert (await process.wait()).code == 143
                ours.close()
            found = [
                await output(box, supervisor, target, ["sh", "-c", _LOOK], known=known, join=[str(group)])
                for known in (True, False)
            ]
            assert [line.splitlines() for line in found[0][1:]] == [
                line.splitlines() for line in found[1][1:]
            ]
            with pytest.raises(StartFailure):
                await output(box, supervisor, target, ["nosuch"], join=[str(group)])
            await target.abort()
            while (group / "cgroup.procs").read_text():
                await asyncio.sleep(0.02)

    group.mkdir()
    try:
        if killed_before:  # Linux 6.18 then kills who is born there, see monitor.py
            (group / "cgroup.kill").write_text("1")
        asyncio.run(asyncio.wait_for(go(), 90))
    finally:
        group.rmdir()


def test_what_path_holds_before_the_program() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            for name in ("one/true", "two"):
                (box.layer / name).mkdir(parents=True)
            (box.layer / "two/true").write_text("not executable")
            (box.layer / "three").mkdir()
            (box.layer / "three/true").write_text("#!/nosuch\n")
            (box.layer / "three/true").chmod(0o755)
            target = await start(supervisor, box.plan(["sleep", "60"]))
            run = ["sh", "-c", "true"]
            for path in ("/two:/bin", "/nosuch:/bin"):
                process, ours = await begin(box, supervisor, target, run, env=[f"PATH={path}"])
                assert process.guest
                assert (await process.wait()).code == 0
                ours.close()
            # A directory is passed over: by the long way, which knows.
            assert (await output(box, supervisor, target, ["true"], env=["PATH=/one:/bin"]))[0] == 0
            with pytest.raises(StartFailure, match="no such file or directory"):
                await output(box, supervisor, target, ["true"], env=["PATH=/three:/bin"])
            await target.abort()

    asyncio.run(go())


def test_its_clients_are_there_for_the_long_way() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            (box.layer / "d/sh").mkdir(parents=True)
            target = await start(supervisor, box.plan(["sleep", "60"]))
            code, out, err = await output(
                box, supervisor, target, ["sh", "-c", "echo here; echo there >&2"], env=["PATH=/d:/bin"]
            )
            assert (code, out, err) == (0, "here\n", "there\n")
            await target.abort()

    asyncio.run(go())


def test_without_its_engine() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "60"]))
            script = "sleep 1; echo on; touch /on"
            free, _ = await begin(box, supervisor, target, ["sh", "-c", script])
            bound, _ = await begin(box, supervisor, target, ["sleep", "60"], bound=True)
            pid = bound.pid
            for process in (free, bound):
                process.forget()
            while os.path.exists(f"/proc/{pid}"):
                await asyncio.sleep(0.02)
            while not os.path.exists(f"/proc/{target.pid}/root/on"):
                await asyncio.sleep(0.02)
            await target.abort()

    asyncio.run(asyncio.wait_for(go(), 60))


def test_its_container_ends() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "60"]))
            process, ours = await begin(
                box,
                supervisor,
                target,
                ["sh", "-c", "dd if=/dev/zero bs=1000000 count=3; touch /done; sleep 60"],
            )  # what its client doesn't read is kept
            await until(lambda: os.path.exists(f"/proc/{target.pid}/root/done"))
            target.signal(signal.SIGKILL)
            assert (await target.wait()).code == 137
            assert (await process.wait()).code == 137
            monitor = target.monitor_pid
            assert len(unframe(await read_all(ours))[1]) == 3_000_000
            while os.path.exists(f"/proc/{monitor}"):
                await asyncio.sleep(0.02)

    asyncio.run(asyncio.wait_for(go(), 60))


def test_a_stopped_monitor_goes_on() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            target = await start(supervisor, box.plan(["sleep", "60"]))
            os.kill(target.monitor_pid, signal.SIGSTOP)
            assert (await output(box, supervisor, target, ["echo", "awake"]))[1] == "awake\n"
            await target.abort()

    asyncio.run(asyncio.wait_for(go(), 60))
