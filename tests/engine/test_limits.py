"""Every limit of HostConfig, read back from the kernel's own file, on the cgroup version that the machine has."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root
ROOT = Path("/sys/fs/cgroup")
V2 = (ROOT / "cgroup.controllers").exists()
DISK = next((f"/dev/{path.name}" for path in sorted(Path("/sys/block").glob("[vs]d?"))), "")
NODE = f"{os.major(os.stat(DISK).st_rdev)}:{os.minor(os.stat(DISK).st_rdev)}" if DISK else ""
MIB = 1 << 20

# Field, value, then file and content on v1, then on v2; "" where that version doesn't have it.
LIMITS: list[tuple[str, Any, str, str, str, str]] = [
    ("Memory", 64 * MIB, "memory/memory.limit_in_bytes", str(64 * MIB), "memory.max", str(64 * MIB)),
    ("MemoryReservation", 32 * MIB, "memory/memory.soft_limit_in_bytes", str(32 * MIB), "memory.low", str(32 * MIB)),
    ("MemorySwappiness", 7, "memory/memory.swappiness", "7", "", ""),
    ("OomKillDisable", True, "memory/memory.oom_control", "oom_kill_disable 1", "", ""),
    ("KernelMemoryTCP", 16 * MIB, "memory/memory.kmem.tcp.limit_in_bytes", str(16 * MIB), "", ""),
    ("CpuShares", 512, "cpu/cpu.shares", "512", "cpu.weight", "20"),
    ("CpuPeriod", 50_000, "cpu/cpu.cfs_period_us", "50000", "cpu.max", "max 50000"),
    ("CpuQuota", 25_000, "cpu/cpu.cfs_quota_us", "25000", "cpu.max", "25000 100000"),
    ("NanoCpus", 500_000_000, "cpu/cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000"),
    ("CpuRealtimePeriod", 500_000, "cpu/cpu.rt_period_us", "500000", "", ""),
    ("CpuRealtimeRuntime", 1000, "cpu/cpu.rt_runtime_us", "1000", "", ""),
    ("CpusetCpus", "0", "cpuset/cpuset.cpus", "0", "cpuset.cpus", "0"),
    ("CpusetMems", "0", "cpuset/cpuset.mems", "0", "cpuset.mems", "0"),
    ("PidsLimit", 50, "pids/pids.max", "50", "pids.max", "50"),
    ("BlkioWeight", 300, "blkio/blkio.bfq.weight", "300", "io.bfq.weight", "default 300"),
    ("BlkioDeviceReadBps", [{"Path": DISK, "Rate": MIB}], "blkio/blkio.throttle.read_bps_device", f"{NODE} {MIB}", "io.max", f"{NODE} rbps={MIB} wbps=max riops=max wiops=max"),
    ("BlkioDeviceWriteBps", [{"Path": DISK, "Rate": MIB}], "blkio/blkio.throttle.write_bps_device", f"{NODE} {MIB}", "io.max", f"{NODE} rbps=max wbps={MIB} riops=max wiops=max"),
    ("BlkioDeviceReadIOps", [{"Path": DISK, "Rate": 99}], "blkio/blkio.throttle.read_iops_device", f"{NODE} 99", "io.max", f"{NODE} rbps=max wbps=max riops=99 wiops=max"),
    ("BlkioDeviceWriteIOps", [{"Path": DISK, "Rate": 99}], "blkio/blkio.throttle.write_iops_device", f"{NODE} 99", "io.max", f"{NODE} rbps=max wbps=max riops=max wiops=99"),
]  # fmt: skip


def files(container: str, name: str) -> list[Path]:
    """A control file of a container's group."""
    if V2:
        return list(ROOT.glob(f"**/{container}/{name}"))
    controller, _, file = name.partition("/")
    return list((ROOT / controller).glob(f"*/{container}/{file}"))


def known(name: str) -> bool:
    """Whether this kernel has the control file at all: a new group tells."""
    above = ROOT if V2 else ROOT / name.partition("/")[0]
    probe = above / f"test-limits-{os.getpid()}"
    probe.mkdir()
    try:
        return (probe / name.rpartition("/")[2]).exists()
    finally:
        probe.rmdir()


def create(sampand: Any, busybox: str, **host: Any) -> dict[str, Any]:
    body = {"Image": busybox, "Cmd": ["sleep", "60"], "HostConfig": {"NetworkMode": "none", **host}}
    found: dict[str, Any] = sampand.json("POST", "/containers/create", body)
    return found


def refused(sampand: Any, busybox: str, host: dict[str, Any], words: str) -> None:
    status, _, data = sampand.api("POST", "/containers/create", {"Image": busybox, "HostConfig": host})
    assert (status, json.loads(data)["message"]) == (400, words)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit[0])
def test_limit(sampand: Any, busybox: str, limit: tuple[str, Any, str, str, str, str]) -> None:
    field, value, v1, text1, v2, text2 = limit
    if field.startswith("BlkioDevice") and not DISK:
        pytest.skip("no disk here")
    if field.startswith("CpuRealtime") and (V2 or not known(v1)):
        refused(sampand, busybox, {field: value}, "kernel does not support CPU real-time scheduler")
        return
    if field == "BlkioWeight" and V2 and not known(v2):
        v2, text2 = "io.weight", "default 2930"  # its weights go to 10000
    extra = {"Memory": 64 * MIB} if field == "OomKillDisable" else {}
    made = create(sampand, busybox, **extra, **{field: value})
    container, warnings = made["Id"], made["Warnings"]
    try:
        sampand.json("POST", f"/containers/{container}/start")
        name, text = (v2, text2) if V2 else (v1, text1)
        if not name or not known(name):
            assert any("Your kernel does not support" in warning for warning in warnings)
            return
        assert not warnings
        (file,) = files(container, name)
        assert text in file.read_text().splitlines()
        shown = sampand.json("GET", f"/containers/{container}/json")["HostConfig"][field]
        assert shown == value
    finally:
        sampand.json("DELETE", f"/containers/{container}?force=1")


def test_swap(sampand: Any, busybox: str) -> None:
    container = create(sampand, busybox, Memory=32 * MIB, MemorySwap=48 * MIB)["Id"]
    try:
        sampand.json("POST", f"/containers/{container}/start")
        found = files(container, "memory.swap.max" if V2 else "memory/memory.memsw.limit_in_bytes")
        assert [int(file.read_text()) for file in found] == [(16 if V2 else 48) * MIB]
    finally:
        sampand.json("DELETE", f"/containers/{container}?force=1")


def test_what_is_left_out_is_said(sampand: Any, busybox: str) -> None:
    asked = {"KernelMemory": 64 * MIB, "CpuPercent": 5, "CpuCount": 1}
    made = create(sampand, busybox, **asked)
    host = sampand.json("GET", f"/containers/{made['Id']}/json")["HostConfig"]
    sampand.json("DELETE", f"/containers/{made['Id']}")
    assert [host.get("KernelMemory", 0), host["CpuPercent"], host["CpuCount"]] == [0, 0, 0]
    assert made["Warnings"] == [
        "Your kernel does not support kernel memory limit capabilities or the cgroup is not mounted. "
        "Limitation discarded.",
        "linux does not support CPU percent. Percent discarded.",
        "linux does not support CPU count. Count discarded.",
    ]


def test_info_says_what_there_is(sampand: Any) -> None:
    info = sampand.json("GET", "/info")
    expected = {
        "MemoryLimit": known("memory.max" if V2 else "memory/memory.limit_in_bytes"),
        "SwapLimit": known("memory.swap.max" if V2 else "memory/memory.memsw.limit_in_bytes"),
        "CpuCfsQuota": known("cpu.max" if V2 else "cpu/cpu.cfs_quota_us"),
        "CPUShares": known("cpu.weight" if V2 else "cpu/cpu.shares"),
        "CPUSet": known("cpuset.cpus" if V2 else "cpuset/cpuset.cpus"),
        "PidsLimit": known("pids.max" if V2 else "pids/pids.max"),
        "OomKillDisable": not V2 and known("memory/memory.oom_control"),
    }
    assert {name: info[name] for name in expected} == expected


def test_update_refuses_what_it_cannot_change(sampand: Any, busybox: str) -> None:
    container = create(sampand, busybox)["Id"]
    for field, value in (
        ("CgroupParent", "/elsewhere"),
        ("Ulimits", [{"Name": "nofile", "Soft": 9, "Hard": 9}]),
        ("Devices", [{"PathOnHost": "/dev/null"}]),
        ("DeviceCgroupRules", ["c 1:3 rwm"]),
    ):
        status, _, data = sampand.api("POST", f"/containers/{container}/update", {field: value})
        assert (status, field in json.loads(data)["message"]) == (400, True)
    sampand.json("DELETE", f"/containers/{container}")
