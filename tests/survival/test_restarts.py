"""Restart policies, and what becomes of containers when engine, monitors or machine end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.survival.world import Gone, World

pytestmark = pytest.mark.root
SLEEP = ["sleep", "1000"]
ENDLESS = "while :; do sleep 0.05; done"


@pytest.fixture
def world() -> Iterator[World]:
    found = World()
    found.start()
    found.load_busybox()
    yield found
    found.close()


def run(world: World, name: str, command: list[str], policy: str = "no", count: int = 0, **more: Any) -> None:
    host = {"NetworkMode": "none", **more.pop("HostConfig", {})}
    host["RestartPolicy"] = {"Name": policy, "MaximumRetryCount": count}
    body = {"Image": "busybox", "Cmd": command, "HostConfig": host, **more}
    world.must("POST", f"/containers/create?name={name}", body)
    world.must("POST", f"/containers/{name}/start")


def look(world: World, name: str) -> Any:
    return world.must("GET", f"/containers/{name}/json")


def state(world: World, name: str) -> Any:
    return look(world, name)["State"]


def until(true: Callable[[], object], what: str, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.03)


def waiting(world: World, number: int) -> bool:
    """Whether a signal has been sent to the engine that it has not been given yet. proc_pid_status(5)."""
    assert world.process is not None
    with contextlib.suppress(FileNotFoundError):
        status = Path(f"/proc/{world.process.pid}/status").read_text()
        return bool(int(status.partition("ShdPnd:")[2].split()[0], 16) & 1 << number - 1)
    return False


def is_now(world: World, name: str, status: str) -> None:
    until(lambda: state(world, name)["Status"] == status, f"{name} to be {status}; {state(world, name)}")


def events(world: World, name: str) -> list[tuple[str, float]]:
    filters = quote(json.dumps({"container": [name], "event": ["start", "die"]}))
    said = world.must("GET", f"/v1.44/events?since=1&until={time.time():.6f}&filters={filters}")
    lines = [said] if isinstance(said, dict) else [json.loads(line) for line in said.splitlines()]
    return [(line["status"], line["timeNano"] / 1e9) for line in lines]


# --- policies ---------------------------------------------------------------------------------------------


def test_the_back_off_doubles_and_can_be_stopped(world: World) -> None:
    run(world, "loop", ["sh", "-c", "echo x; exit 3"], "always")
    until(lambda: look(world, "loop")["RestartCount"] >= 5, "five restarts")
    is_now(world, "loop", "restarting")
    now = state(world, "loop")
    assert now["Running"] and now["Restarting"] and now["Pid"] == 0 and now["ExitCode"] == 3
    seen = events(world, "loop")
    ends = [when for what, when in seen if what == "die"]
    starts = [when for what, when in seen if what == "start"][1:]
    for number, (end, start) in enumerate(zip(ends, starts, strict=False)):
        assert 0.1 * 2**number * 0.95 <= start - end <= 0.1 * 2**number + 3.0, (number, start - end)
    told: list[Any] = []
    waiter = threading.Thread(target=lambda: told.append(world.must("POST", "/containers/loop/wait")))
    waiter.start()
    waiter.join(0.3)
    assert waiter.is_alive(), "wait is over while a restart is to come"
    status, said = world.ask("POST", "/containers/loop/exec", {"Cmd": ["true"]})
    assert status == 409 and "restarting" in said["message"]
    status, said = world.ask("DELETE", "/containers/loop")
    assert status == 409 and "container is restarting" in said["message"]
    begun = time.monotonic()
    assert world.ask("POST", "/containers/loop/stop")[0] == 204
    assert time.monotonic() - begun < 5, "as if it had to be waited for"
    waiter.join(20)
    assert told == [{"StatusCode": 3}]
    count = look(world, "loop")["RestartCount"]
    time.sleep(0.3)
    assert state(world, "loop")["Status"] == "exited" and look(world, "loop")["RestartCount"] == count
    world.must("POST", "/containers/loop/start")
    assert look(world, "loop")["RestartCount"] < 4, "a start by hand begins anew"


def test_removing_and_updating_during_the_back_off(world: World) -> None:
    run(world, "gone", ["false"], "always")
    run(world, "calmed", ["false"], "always")
    for name in ("gone", "calmed"):
        until(lambda name=name: look(world, name)["RestartCount"] >= 4, "restarts")  # type: ignore[misc]
        is_now(world, name, "restarting")
    assert world.ask("DELETE", "/containers/gone?force=1")[0] == 204
    assert world.ask("GET", "/containers/gone/json")[0] == 404
    world.must("POST", "/containers/calmed/update", {"RestartPolicy": {"Name": "no"}})
    assert state(world, "calmed")["Status"] == "exited"
    assert world.must("POST", "/containers/calmed/wait") == {"StatusCode": 1}
    run(world, "later", ["sh", "-c", ENDLESS])
    world.must(
        "POST", "/containers/later/update", {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}}
    )
    pid = state(world, "later")["Pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: state(world, "later")["Pid"] not in (0, pid), "its restart")
    assert look(world, "later")["RestartCount"] == 1
    os.kill(state(world, "later")["Pid"], signal.SIGKILL)
    is_now(world, "later", "exited")


def test_an_end_that_is_asked_for_while_a_restart_begins(world: World) -> None:
    """The restart may be under way already when stop or kill come: then they are for the new run."""
    run(world, "quick", ["sh", "-c", "sleep 0.05; exit 3"], "always")
    for number in range(12):
        until(lambda: state(world, "quick")["Status"] == "restarting", "the first end")
        died = events(world, "quick")[-1][1]
        due = 0.1 * 2 ** look(world, "quick")["RestartCount"] / 2
        # From a little before it is due until the new run has begun.
        time.sleep(max(0.0, died + due - time.time() - 0.02 + 0.01 * number))
        status, _ = world.ask("POST", f"/containers/quick/{'stop?t=0' if number % 2 else 'kill'}")
        assert status in (204, 304, 409)
        if status == 204:
            time.sleep(0.4)
            assert state(world, "quick")["Status"] == "exited", number
        world.ask("POST", "/containers/quick/stop?t=0")
        is_now(world, "quick", "exited")
        world.must("POST", "/containers/quick/start")


def test_which_ends_are_followed_by_a_restart(world: World) -> None:
    run(world, "no", ["false"])
    run(world, "success", ["true"], "on-failure")
    run(world, "thrice", ["false"], "on-failure", 2)
    run(world, "killed", SLEEP, "always")
    world.must("POST", "/containers/killed/kill")
    run(world, "restarted", SLEEP, "unless-stopped", HostConfig={"Init": True})
    world.must("POST", "/containers/restarted/restart?t=1")
    for name, code in (("no", 1), ("success", 0), ("thrice", 1), ("killed", 137)):
        is_now(world, name, "exited")
        assert state(world, name)["ExitCode"] == code
    assert [look(world, name)["RestartCount"] for name in ("no", "success", "thrice", "killed", "restarted")] == [
        0, 0, 2, 0, 0,
    ]  # fmt: skip
    assert state(world, "restarted")["Running"]


def test_an_unhealthy_one_is_restarted_where_asked_for(world: World) -> None:
    check = {"Test": ["CMD", "false"], "Interval": 10**8, "Retries": 1}
    run(world, "sick", SLEEP, "on-unhealthy", 1, Healthcheck=check, HostConfig={"Init": True}, StopTimeout=1)
    run(world, "left", SLEEP, "always", Healthcheck=check)
    until(lambda: look(world, "sick")["RestartCount"] == 1, "its restart")
    until(lambda: state(world, "sick")["Health"]["Status"] == "unhealthy", "the check")
    time.sleep(0.5)
    assert look(world, "sick")["RestartCount"] == 1 and state(world, "sick")["Running"]
    assert (
        state(world, "left")["Health"]["Status"] == "unhealthy" and look(world, "left")["RestartCount"] == 0
    )


# --- the engine ends --------------------------------------------------------------------------------------


def populate(world: World) -> dict[str, str]:
    """A container of every policy, one that runs and one that somebody stopped; when each was started."""
    for policy in ("no", "on-failure", "unless-stopped", "always"):
        run(world, policy, SLEEP, policy, HostConfig={"Init": True})
        run(world, f"{policy}-stopped", SLEEP, policy)
        world.must("POST", f"/containers/{policy}-stopped/stop?t=0")
    run(world, "done", ["true"], "on-failure")
    is_now(world, "done", "exited")
    world.must("POST", "/containers/create?name=made", {"Image": "busybox", "Cmd": SLEEP,
               "HostConfig": {"RestartPolicy": {"Name": "always"}}})  # fmt: skip
    return {
        name: state(world, name)["StartedAt"] for name in ("no", "on-failure", "unless-stopped", "always")
    }


def stopped_ones(world: World) -> None:
    """always starts again even what was stopped, unless-stopped does not; what ended well stays ended."""
    is_now(world, "always-stopped", "running")
    for name in ("no-stopped", "on-failure-stopped", "unless-stopped-stopped", "done"):
        assert state(world, name)["Status"] == "exited", name
    assert state(world, "made")["Status"] == "created"


@pytest.mark.parametrize("way", ["killed", "terminated"])
def test_containers_outlive_the_engine(world: World, way: str) -> None:
    started = populate(world)
    if way == "killed":
        world.kill()
    else:
        world.stop()
    world.start()
    for name, when in started.items():
        now = state(world, name)
        assert now["Running"] and now["StartedAt"] == when, name
        world.must("POST", f"/containers/{name}/stop?t=5")
        assert state(world, name)["ExitCode"] == 143
    stopped_ones(world)


def test_without_live_restore_they_end_with_it_and_come_back(world: World) -> None:
    started = populate(world)
    # Its own stop timeout is longer than what the engine gives those that have none.
    slow = "trap 'sleep 3.5; exit 9' TERM; echo up; " + ENDLESS
    run(world, "slow", ["sh", "-c", slow], StopTimeout=9)
    run(world, "stubborn", ["sh", "-c", "trap '' TERM; echo up; " + ENDLESS])
    for name in ("slow", "stubborn"):
        until(lambda name=name: "up" in world.must("GET", f"/containers/{name}/logs?stdout=1"), name)  # type: ignore[misc]
    world.stop()
    world.flags = ("--live-restore=false", "--shutdown-timeout=3")
    world.start()  # taken over by one that will not let them live
    assert state(world, "slow")["Running"]
    begun = time.monotonic()
    world.stop()
    assert 2.5 < time.monotonic() - begun < 9.5  # less than without the flag
    assert not [text for text in world._processes() if "sleep" in text]
    world.start()
    stopped_ones(world)
    for name in ("on-failure", "unless-stopped", "always"):
        is_now(world, name, "running")
        assert state(world, name)["StartedAt"] != started[name]
    assert state(world, "no")["ExitCode"] == 143 and state(world, "no")["Status"] == "exited"
    assert state(world, "slow")["ExitCode"] == 9 and state(world, "stubborn")["ExitCode"] == 137


def test_a_restart_by_hand_that_the_engines_death_cuts_short_comes_true(world: World) -> None:
    slow = "trap 'echo asked; sleep 2; exit 9' TERM; echo up; " + ENDLESS
    run(world, "box", ["sh", "-c", slow], "unless-stopped")
    until(lambda: "up" in world.must("GET", "/containers/box/logs?stdout=1"), "it")
    before = state(world, "box")["StartedAt"]

    def ask() -> None:
        with contextlib.suppress(Gone):
            world.ask("POST", "/containers/box/restart")

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: "asked" in world.must("GET", "/containers/box/logs?stdout=1"), "its stop")
    world.kill()
    asking.join()
    world.start()
    until(lambda: state(world, "box")["StartedAt"] != before and state(world, "box")["Running"], "a new run")


def test_an_end_that_takes_too_long_is_cut_short_by_the_third_signal(world: World) -> None:
    """What was being stopped goes on, and is taken over."""
    world.stop()
    world.flags = ("--live-restore=false",)
    world.start()
    run(world, "stubborn", ["sh", "-c", "trap '' TERM; echo up; " + ENDLESS], "always", StopTimeout=100)
    until(lambda: "up" in world.must("GET", "/containers/stubborn/logs?stdout=1"), "it")
    before = state(world, "stubborn")
    assert world.process is not None
    for number in range(3):
        assert world.process.poll() is None, number
        world.process.terminate()
        until(lambda: not waiting(world, signal.SIGTERM), "the signal to be taken")
        time.sleep(0.3)
    assert world.process.wait(20) == 1
    world.start()
    assert state(world, "stubborn") == before
    assert look(world, "stubborn")["RestartCount"] == 0


def test_a_restart_that_was_due_comes_after_the_engine_is_back(world: World) -> None:
    run(world, "loop", ["sh", "-c", "echo x; exit 1"], "on-failure", 6)
    until(lambda: look(world, "loop")["RestartCount"] >= 4, "restarts")
    is_now(world, "loop", "restarting")
    world.kill()
    world.start()
    is_now(world, "loop", "exited")
    assert look(world, "loop")["RestartCount"] == 6
    assert world.must("GET", "/containers/loop/logs?stdout=1").count("x\n") == 7


def test_those_that_need_another_come_after_it(world: World) -> None:
    world.stop()
    world.flags = ("--live-restore=false",)
    world.start()
    world.must("POST", "/containers/create?name=a-user", {"Image": "busybox", "Cmd": SLEEP, "HostConfig": {
               "NetworkMode": "none", "RestartPolicy": {"Name": "always"}}})  # fmt: skip
    run(world, "b-base", SLEEP, "always", HostConfig={"Init": True})
    world.must("DELETE", "/containers/a-user")
    shared = {"NetworkMode": "container:b-base", "IpcMode": "shareable", "Init": True}
    run(world, "a-user", SLEEP, "always", HostConfig=shared)
    world.stop()
    world.start()
    is_now(world, "b-base", "running")
    is_now(world, "a-user", "running")


def test_those_that_died_with_another_come_back_after_it(world: World) -> None:
    run(world, "base", SLEEP, "always", HostConfig={"Init": True})
    run(world, "user", SLEEP, "always", HostConfig={"PidMode": "container:base", "Init": True})
    for _ in range(3):  # the wait doubles each time, and the second is never the first
        before = state(world, "user")["StartedAt"]
        os.kill(state(world, "base")["Pid"], signal.SIGKILL)
        until(lambda before=before: state(world, "user")["StartedAt"] != before, "another run")  # type: ignore[misc]
        is_now(world, "base", "running")
        is_now(world, "user", "running")


# --- the machine ends -------------------------------------------------------------------------------------


def monitors(world: World) -> dict[str, int]:
    """Monitors' pids by container name."""
    names = {one["Id"]: one["Names"][0].strip("/") for one in world.must("GET", "/containers/json?all=1")}
    found = {}
    for text in world._processes():
        pid, _, command = text.partition(": ")
        words = command.split()
        if "sampan-monitor" in command and words[-1] in names:
            found[names[words[-1]]] = int(pid)
    return found


def fetched(world: World, address: str) -> str:
    """What is served there, nothing as long as nobody listens."""
    with contextlib.suppress(subprocess.CalledProcessError):
        return world.inside("busybox", "wget", "-qO-", address)
    return ""


def test_a_machine_restart(world: World) -> None:
    started = populate(world)
    ports = {"80/tcp": [{"HostPort": ""}]}
    run(world, "server", ["httpd", "-f", "-p", "80", "-h", "/etc"], "always", ExposedPorts={"80/tcp": {}},
        HostConfig={"NetworkMode": "bridge", "PortBindings": ports, "Init": True})  # fmt: skip
    pids = monitors(world)
    world.kill()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: not [text for text in world._processes() if "sleep 1000" in text], "all to end")
    # what a machine that starts has of them: the data root, and perhaps an exec root that nobody serves
    subprocess.run(["ip", "netns", "del", world.netns], check=True)
    subprocess.run(["ip", "netns", "add", world.netns], check=True)
    world.inside("ip", "link", "set", "lo", "up")
    (world.data / "boot-id").write_text("another boot\n")
    world.start()
    stopped_ones(world)
    for name in ("on-failure", "unless-stopped", "always", "server"):
        is_now(world, name, "running")
        assert state(world, name)["StartedAt"] > started.get(name, "")
    assert state(world, "no")["Status"] == "exited" and state(world, "no")["ExitCode"] == 255
    port = look(world, "server")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    until(lambda: "root:" in fetched(world, f"http://127.0.0.1:{port}/passwd"), "its port")
    world.kill()
    shutil.rmtree(world.run)
    world.start()  # its exec root was lost under it, monitors can't be found: their containers are ended
    for name in ("on-failure", "unless-stopped", "always", "server"):
        is_now(world, name, "running")
    assert len([text for text in world._processes() if "httpd" in text and "init" not in text]) <= 2


def test_a_monitor_passes_the_machines_sigterm_on(world: World) -> None:
    run(world, "polite", ["sh", "-c", "trap 'sleep 0.5; echo bye; exit 7' TERM; echo up; " + ENDLESS])
    run(world, "stubborn", ["sh", "-c", "trap '' TERM; echo up; " + ENDLESS], StopTimeout=1)
    run(world, "own", ["sh", "-c", "trap 'exit 4' USR1; echo up; " + ENDLESS], StopSignal="SIGUSR1")
    run(world, "paused", ["sh", "-c", "trap 'exit 3' TERM; echo up; " + ENDLESS])
    for name in ("polite", "stubborn", "own", "paused"):
        until(lambda name=name: "up" in world.must("GET", f"/containers/{name}/logs?stdout=1"), name)  # type: ignore[misc]
    world.must("POST", "/containers/paused/pause")
    pids = monitors(world)
    world.kill()
    for pid in pids.values():
        os.kill(pid, signal.SIGTERM)
    for pid in pids.values():
        until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), "the monitors to end")  # type: ignore[misc]
    world.start()
    codes = {name: state(world, name)["ExitCode"] for name in pids}
    assert codes == {"polite": 7, "stubborn": 137, "own": 4, "paused": 3}
    assert "bye" in world.must("GET", "/containers/polite/logs?stdout=1")


def test_a_container_whose_monitor_was_killed_is_ended(world: World) -> None:
    run(world, "box", SLEEP)
    run(world, "other", SLEEP, User="65534:65534")  # who changes its user loses the tie to its parent
    pids = monitors(world)
    os.kill(pids["box"], signal.SIGKILL)
    is_now(world, "box", "exited")
    assert state(world, "box")["ExitCode"] == 137
    world.kill()
    os.kill(pids["other"], signal.SIGKILL)
    world.start()
    is_now(world, "other", "exited")
    until(lambda: not [text for text in world._processes() if "sleep 1000" in text], "its process to end")


def test_a_monitor_that_is_stopped_keeps_no_engine_from_starting(world: World) -> None:
    """Its container goes on and is shown with what the record says; it is taken over when it answers."""
    talk = ["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"]
    for name in ("late", "killed", "lost"):
        run(world, name, talk)
    before = {name: state(world, name) for name in ("late", "killed", "lost")}
    for name in before:
        until(lambda name=name: "up" in world.must("GET", f"/containers/{name}/logs?stdout=1"), name)  # type: ignore[misc]
    pids = monitors(world)
    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    try:
        world.kill()
        assert world.start() < 15
        shown = {name: state(world, name) for name in before}
        assert shown == before
        assert "up" in world.must("GET", "/containers/late/logs?stdout=1")
        made = world.must("POST", "/containers/late/exec", {"Cmd": ["touch", "/here"]})
        world.must("POST", f"/exec/{made['Id']}/start", {"Detach": True})
        os.kill(before["killed"]["Pid"], signal.SIGKILL)
        os.kill(pids["lost"], signal.SIGKILL)
        is_now(world, "lost", "exited")
    finally:
        for name in ("late", "killed"):
            os.kill(pids[name], signal.SIGCONT)
    is_now(world, "killed", "exited")
    assert state(world, "killed")["ExitCode"] == 137
    world.must("POST", "/containers/late/stop")
    ended = state(world, "late")
    assert (ended["Status"], ended["ExitCode"]) == ("exited", 5)
    world.must("POST", "/containers/killed/start")
    assert state(world, "killed")["Running"]


def test_a_monitor_that_is_stopped_keeps_nobody_else_waiting_and_can_be_ended(world: World) -> None:
    """The others go on; stop, kill and rm -f let it go on, for it has the container's end to tell."""
    names = ("stop", "kill", "rm", "silent")
    for name in (*names, "other"):
        run(world, name, ["sh", "-c", "echo up; " + ENDLESS])
    pids = monitors(world)
    for name in names:
        os.kill(pids[name], signal.SIGSTOP)
    begun = time.monotonic()
    assert world.ask("POST", "/containers/other/stop?t=0")[0] == 204
    assert {state(world, name)["Status"] for name in names} == {"running"}
    assert time.monotonic() - begun < 5
    assert world.ask("POST", "/containers/stop/stop?t=0")[0] == 204
    assert world.ask("POST", "/containers/kill/kill")[0] == 204
    assert world.ask("DELETE", "/containers/rm?force=1")[0] == 204
    assert [state(world, name)["ExitCode"] for name in ("stop", "kill")] == [137, 137]
    assert "up" in world.must("GET", "/containers/stop/logs?stdout=1")
    world.kill()
    world.start()
    assert world.ask("DELETE", "/containers/silent?force=1")[0] == 204
    until(
        lambda: not [pid for pid in pids.values() if os.path.exists(f"/proc/{pid}")], "their monitors' ends"
    )


def half_started(world: World, folder: Path, name: str) -> int:
    """The engine killed in the midst of a start that was told to go; the monitor's pid, which is stopped."""
    veths = links(world)
    with contextlib.suppress(FileNotFoundError):
        (folder / "began").unlink()
    devices = [{"Driver": "cdi", "DeviceIDs": ["test.org/gate=it"]}]
    body = {"Image": "busybox", "Cmd": SLEEP, "HostConfig": {"DeviceRequests": devices}}
    world.must("POST", f"/containers/create?name={name}", body)

    def ask() -> None:
        with contextlib.suppress(Gone):
            world.ask("POST", f"/containers/{name}/start")

    asking = threading.Thread(target=ask)
    asking.start()
    until(lambda: (folder / "began").exists() and len(links(world)) > len(veths), "the start's network")
    time.sleep(1)  # what the engine does next is to let it go, when the hook has ended
    monitor = monitors(world)[name]
    os.kill(monitor, signal.SIGSTOP)
    world.kill()
    asking.join()
    return monitor


def links(world: World) -> list[str]:
    """The host's ends of containers' links."""
    lines = world.inside("ip", "-o", "link", "show", "type", "veth").splitlines()
    return [line.split()[1] for line in lines]


def test_a_start_whose_monitor_is_stopped_keeps_its_network_until_it_is_known_how_it_went(
    tmp_path: Path,
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ncat > /dev/null\n: > {tmp_path}/began\ncat {gate}\n")
    hook.chmod(0o755)
    edits = {"hooks": [{"hookName": "createContainer", "path": str(hook)}], "env": ["A=b"]}
    device = {
        "cdiVersion": "0.6.0",
        "kind": "test.org/gate",
        "devices": [{"name": "it", "containerEdits": edits}],
    }
    (tmp_path / "gate.json").write_text(json.dumps(device))
    world = World(f"--cdi-spec-dir={tmp_path}")
    world.start()
    try:
        world.load_busybox()
        monitor = half_started(world, tmp_path, "late")
        world.start()
        assert not state(world, "late")["Running"] and len(links(world)) == 1
        gate.write_text("")  # the hook ends
        os.kill(monitor, signal.SIGCONT)
        is_now(world, "late", "running")
        found = look(world, "late")
        inside = ["nsenter", f"--net=/proc/{found['State']['Pid']}/ns/net"]
        shown = subprocess.run(
            [*inside, "ip", "-o", "addr"], capture_output=True, text=True, check=True
        ).stdout
        assert found["NetworkSettings"]["Networks"]["bridge"]["IPAddress"] + "/" in shown
        ping = [*inside, "/bin/busybox", "ping", "-c1", "-W20", "10.219.0.1"]
        assert subprocess.run(ping, capture_output=True).returncode == 0
        world.must("DELETE", "/containers/late?force=1")
        until(lambda: not links(world), "its link to go")

        monitor = half_started(world, tmp_path, "lost")
        world.start()
        assert len(links(world)) == 1
        os.kill(monitor, signal.SIGKILL)
        until(lambda: not links(world), "its link to go")
        assert not state(world, "lost")["Running"]
    finally:
        with contextlib.suppress(OSError):
            os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        world.close()


# --- execs ------------------------------------------------------------------------------------------------


def test_execs_are_forgotten_and_leave_nothing(world: World) -> None:
    check = {"Test": ["CMD", "sleep", "777"], "Interval": 10**8, "Timeout": 300 * 10**9}
    run(world, "box", SLEEP, HostConfig={"Init": True}, Healthcheck=check)
    short = world.must("POST", "/containers/box/exec", {"Cmd": ["sh", "-c", "sleep 1; echo late > /late"]})[
        "Id"
    ]
    long = world.must("POST", "/containers/box/exec", {"Cmd": ["sleep", "888"], "AttachStdout": True})["Id"]
    for one in (short, long):
        world.must("POST", f"/exec/{one}/start", {"Detach": True})

    def running() -> str:
        return "\n".join(world._processes())

    def probes_now() -> list[str]:
        return [text for text in world._processes() if "sleep 777" in text and "monitor" not in text]

    until(probes_now, "the check to run")
    probes = probes_now()
    world.kill()
    until(lambda: not Path(f"/proc/{probes[0].split(':')[0]}").exists(), "the check to end with its engine")
    world.start()
    for one in (short, long):
        status, said = world.ask("GET", f"/exec/{one}/json")
        assert (status, said["message"]) == (404, f"No such exec instance: {one}")
    assert look(world, "box")["ExecIDs"] is None or long not in look(world, "box")["ExecIDs"]
    until(lambda: world.ask("HEAD", "/containers/box/archive?path=/late")[0] == 200, "the exec to go on")
    assert "sleep 888" in running()
    world.must("DELETE", "/containers/box?force=1")
    left = world.settle()
    assert not left, left
