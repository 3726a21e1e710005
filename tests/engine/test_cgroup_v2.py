"""Containers on a machine with cgroup v2 only; each limit is read back from the kernel's own file."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests import frames

ROOT = Path("/sys/fs/cgroup")

pytestmark = pytest.mark.skipif(
    not (ROOT / "cgroup.controllers").exists(), reason="this machine has cgroup v1; see scripts/vm-test"
)


def group(container: str) -> Path:
    """The container's directory, wherever the engine has put it."""
    found = list(ROOT.glob(f"**/{container}"))
    assert len(found) == 1, found
    return found[0]


def start(sampand: Any, busybox: str, command: list[str], **host: Any) -> str:
    body = {"Image": busybox, "Cmd": command, "HostConfig": {"NetworkMode": "none", **host}}
    container: str = sampand.json("POST", "/containers/create", body)["Id"]
    sampand.json("POST", f"/containers/{container}/start")
    return container


def end(sampand: Any, container: str) -> tuple[int, str]:
    """Exit code and output; the container and its group are gone afterwards."""
    code = sampand.json("POST", f"/containers/{container}/wait")["StatusCode"]
    _, _, log = sampand.api("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
    sampand.json("DELETE", f"/containers/{container}?force=1")
    return code, frames.text(log).decode()


def remove(sampand: Any, container: str) -> None:
    sampand.json("DELETE", f"/containers/{container}?force=1")
    deadline = time.monotonic() + 60
    while list(ROOT.glob(f"**/{container}")):
        assert time.monotonic() < deadline, "the group stays"
        time.sleep(0.05)


def test_limits_and_their_update(sampand: Any, busybox: str) -> None:
    container = start(
        sampand,
        busybox,
        ["sleep", "600"],
        Memory=64 << 20,
        MemorySwap=96 << 20,
        MemoryReservation=32 << 20,
        NanoCpus=500_000_000,
        CpuShares=512,
        PidsLimit=33,
        CpusetCpus="0",
    )
    directory = group(container)

    def read(name: str) -> str:
        return (directory / name).read_text().strip()

    assert read("memory.max") == str(64 << 20)
    assert read("memory.swap.max") == str(32 << 20)
    assert read("memory.low") == str(32 << 20)
    assert read("cpu.max") == "50000 100000"
    assert read("cpu.weight") == "20"
    assert read("pids.max") == "33"
    assert read("cpuset.cpus") == "0"
    update = {"Memory": 80 << 20, "MemorySwap": 80 << 20, "NanoCpus": 250_000_000, "PidsLimit": 44}
    sampand.json("POST", f"/containers/{container}/update", update)
    assert read("memory.max") == str(80 << 20)
    assert read("memory.swap.max") == "0"
    assert read("cpu.max") == "25000 100000"
    assert read("pids.max") == "44"
    remove(sampand, container)


def test_the_container_sees_its_own_group_as_the_root(sampand: Any, busybox: str) -> None:
    command = [
        "sh",
        "-c",
        "cat /sys/fs/cgroup/memory.max /proc/self/cgroup; echo 1 > /sys/fs/cgroup/memory.max",
    ]
    code, text = end(sampand, start(sampand, busybox, command, Memory=64 << 20))
    assert text.splitlines()[:2] == [str(64 << 20), "0::/"]
    assert code != 0
    assert "Read-only" in text


def test_out_of_memory(sampand: Any, busybox: str) -> None:
    eat = "x=x; while :; do x=$x$x; done"
    container = start(sampand, busybox, ["sh", "-c", eat], Memory=24 << 20, MemorySwap=24 << 20)
    assert sampand.json("POST", f"/containers/{container}/wait")["StatusCode"] == 137
    assert sampand.json("GET", f"/containers/{container}/json")["State"]["OOMKilled"] is True
    remove(sampand, container)


def test_pids_limit_holds(sampand: Any, busybox: str) -> None:
    many = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all"
    code, text = end(sampand, start(sampand, busybox, ["sh", "-c", many], PidsLimit=5))
    assert code != 0
    assert "can't fork" in text


def test_pause_freezes(sampand: Any, busybox: str) -> None:
    container = start(sampand, busybox, ["sleep", "600"])
    events = group(container) / "cgroup.events"
    sampand.json("POST", f"/containers/{container}/pause")
    assert "frozen 1" in events.read_text()
    sampand.json("POST", f"/containers/{container}/unpause")
    assert "frozen 0" in events.read_text()
    sampand.json("POST", f"/containers/{container}/pause")
    remove(sampand, container)  # a frozen one too


def test_devices(sampand: Any, busybox: str) -> None:
    disk = os.stat("/dev/vda").st_rdev
    numbers = f"{os.major(disk)} {os.minor(disk)}"
    peep = (
        f"mknod /disk b {numbers} && head -c 1 /disk | wc -c; head -c 3 /dev/zero | wc -c; echo x > /dev/null"
    )
    _, text = end(sampand, start(sampand, busybox, ["sh", "-c", peep]))
    assert "Operation not permitted" in text
    assert text.splitlines()[-1] == "3"
    rule = f"b {os.major(disk)}:* rm"
    _, text = end(sampand, start(sampand, busybox, ["sh", "-c", peep], DeviceCgroupRules=[rule]))
    assert text.split() == ["1", "3"]
    mapping = {"PathOnHost": "/dev/vda", "PathInContainer": "/dev/disk", "CgroupPermissions": "r"}
    look = "head -c 1 /dev/disk | wc -c; dd if=/dev/zero of=/dev/disk count=0 2>&1"
    _, text = end(sampand, start(sampand, busybox, ["sh", "-c", look], Devices=[mapping]))
    assert text.splitlines()[0] == "1"
    assert "Operation not permitted" in text
    _, text = end(sampand, start(sampand, busybox, ["sh", "-c", peep], Privileged=True))
    assert text.split() == ["1", "3"]


def test_stats(sampand: Any, busybox: str) -> None:
    spin = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 600"
    container = start(sampand, busybox, ["sh", "-c", spin], Memory=64 << 20)
    time.sleep(2)
    _, _, body = sampand.api("GET", f"/containers/{container}/stats?stream=0&one-shot=1")
    figures = json.loads(body)
    assert figures["memory_stats"]["limit"] == 64 << 20
    assert 0 < figures["memory_stats"]["usage"] < 64 << 20
    assert figures["memory_stats"]["stats"]["anon"] > 0
    assert figures["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert figures["pids_stats"]["current"] >= 1
    remove(sampand, container)


def test_exec_is_in_the_group(sampand: Any, busybox: str) -> None:
    container = start(sampand, busybox, ["sleep", "600"])
    body = {"Cmd": ["sleep", "600"]}
    made = sampand.json("POST", f"/containers/{container}/exec", body)["Id"]
    sampand.json("POST", f"/exec/{made}/start", {"Detach": True})
    pid = sampand.json("GET", f"/exec/{made}/json")["Pid"]
    assert str(pid) in (group(container) / "cgroup.procs").read_text().split()
    remove(sampand, container)
