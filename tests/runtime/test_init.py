"""``--init``: the small program, on both machines, and the interpreter where it can't be executed."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import subprocess
import time
from pathlib import Path

import pytest

from sampan.runtime import init
from tests.runtime import machines
from tests.runtime.running import logged, start, supervised, until

_SIGNALS = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV}


@pytest.mark.parametrize("machine", machines.MACHINES)
def test_the_code_is_what_its_source_says(tmp_path: Path, machine: str) -> None:
    assert init.program(machine, ()).endswith(machines.assembled("init", machine, tmp_path) + bytes(8))


@pytest.fixture(params=machines.MACHINES)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """The command of the program for a machine, emulated if it isn't this one's."""
    return machines.command(init.program(request.param, _SIGNALS), request.param, tmp_path)


def below(program: list[str], script: str) -> int:
    """The pid of an init with a shell script below it, not below this process's thread of pytest."""
    pid = os.fork()
    if pid:
        return pid
    try:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # no shell can trap what nohup(1) has ignored
            os.execv("/bin/sh", ["sh", "-c", script])
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        reader, writer = os.pipe()
        os.write(writer, child.to_bytes(4, "little"))
        os.dup2(reader, 0)
        os.execv(program[0], program)
    finally:
        os._exit(99)


def code_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("true", 0), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_it_ends_as_its_child(program: list[str], script: str, code: int) -> None:
    assert code_of(below(program, script)) == code


def test_signals_are_passed_on(program: list[str], tmp_path: Path) -> None:
    names = ["HUP", "INT", "QUIT", "USR1", "USR2", "WINCH", "CONT", "ALRM", "URG"]
    traps = "; ".join(f"trap 'echo {name} >> {tmp_path}/got' {name}" for name in names)
    script = f"{traps}; trap 'exit 5' TERM; touch {tmp_path}/up; while :; do sleep 0.02; done"
    pid = below(program, script)
    wait_for(tmp_path / "up")
    for name in names:
        os.kill(pid, getattr(signal, f"SIG{name}"))
        deadline = time.monotonic() + 60
        while not (tmp_path / "got").exists() or name not in (tmp_path / "got").read_text().split():
            assert time.monotonic() < deadline, name
            time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    assert code_of(pid) == 5


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.root
def test_orphans_are_reaped_by_little_memory() -> None:
    if platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("this machine has no small init")
    script = "for i in 1 2 3 4 5; do (sleep .05 &) ; done; touch /up; sleep 60"

    async def go() -> None:
        async with supervised() as (supervisor, box):
            process = await start(supervisor, box.plan(["sh", "-c", script], init=True, env=["A=b"]))
            own = Path(f"/proc/{process.pid}")
            await until((own / "root/up").exists)
            assert (own / "comm").read_text() == "docker-init\n"
            assert (own / "environ").read_bytes().split(b"\0")[0] == b"A=b"
            assert (own / "cmdline").read_bytes().startswith(b"/sbin/docker-init\0--\0sh\0")
            children = ["ps", "-o", "args=", "--ppid", str(process.pid)]

            def alone() -> bool:
                """Whether none of the orphans is there any more, alive or dead."""
                found = subprocess.run(children, capture_output=True, text=True).stdout.splitlines()
                return found == ["sleep 60"]

            await until(alone)
            (size,) = [line for line in (own / "smaps_rollup").read_text().splitlines() if line[:4] == "Pss:"]
            assert int(size.split()[1]) < 100  # kB
            with pytest.raises(OSError):
                os.truncate(own / "exe", 0)
            await process.abort()

    asyncio.run(go())


@pytest.mark.root
def test_rules_that_forbid_it_leave_the_interpreter() -> None:
    async def go() -> None:
        async with supervised() as (supervisor, box):
            script = "trap 'exit 6' TERM; echo up; while :; do sleep .05; done"
            plan = box.plan(["sh", "-c", script], init=True)
            plan["rlimits"] = [[1, 0, 0]]  # RLIMIT_FSIZE: nothing can be written, the program neither
            process = await start(supervisor, plan)
            await until(lambda: logged(plan["log"]["path"]) == "up\n")
            assert "memfd" not in os.readlink(f"/proc/{process.pid}/exe")
            process.signal(15)
            assert (await process.wait()).code == 6

    asyncio.run(go())
