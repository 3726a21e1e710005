"""Namespaces shared with another container or the host, seen from inside."""

import os
from typing import Any


def test_ipc_of_another_container(sampand: Any, busybox: str) -> None:
    make = "echo kept > /dev/shm/f; sleep 600"
    sampand.docker("run", "-d", "--name", "ipc-donor", "--ipc", "shareable", busybox, "sh", "-c", make)
    try:
        wait = "until grep -q kept /dev/shm/f 2>/dev/null; do sleep .05; done"
        inside = (f"readlink /proc/self/ns/ipc; {wait}; cat /dev/shm/f; echo back > /dev/shm/g",)
        seen = sampand.docker("run", "--rm", "--ipc", "container:ipc-donor", busybox, "sh", "-c", *inside)
        donor = sampand.docker("exec", "ipc-donor", "sh", "-c", "readlink /proc/self/ns/ipc; cat /dev/shm/g")
        assert seen.stdout.splitlines()[1] == "kept"
        assert donor.stdout.splitlines() == [seen.stdout.splitlines()[0], "back"]
    finally:
        sampand.docker("rm", "-f", "ipc-donor")


def test_ipc_of_the_host(sampand: Any, busybox: str) -> None:
    look = "readlink /proc/self/ns/ipc; grep -c ' /dev/mqueue mqueue ' /proc/mounts; stat -c %d /dev/shm"
    seen = sampand.docker("run", "--rm", "--ipc", "host", busybox, "sh", "-c", look).stdout.split()
    assert seen == [os.readlink("/proc/self/ns/ipc"), "1", str(os.stat("/dev/shm").st_dev)]


def test_ipc_none_has_no_shared_memory(sampand: Any, busybox: str) -> None:
    done = sampand.docker("run", "--rm", "--ipc", "none", busybox, "ls", "/dev/shm", check=False)
    assert "No such file" in done.stderr


def test_pid_of_another_container(sampand: Any, busybox: str) -> None:
    sampand.docker("run", "-d", "--name", "pid-donor", busybox, "sleep", "611")
    try:
        seen = sampand.docker("run", "--rm", "--pid", "container:pid-donor", busybox, "ps", "-o", "pid,args")
        assert "1 sleep 611" in [" ".join(line.split()) for line in seen.stdout.splitlines()]
    finally:
        sampand.docker("rm", "-f", "pid-donor")


def test_a_joined_container_may_be_renamed(sampand: Any, busybox: str) -> None:
    """``container:NAME`` is kept as its id, so a later start finds it; when it is gone, the start says so."""
    sampand.docker("run", "-d", "--name", "donor-a", "--ipc", "shareable", busybox, "sleep", "612")
    donor = sampand.json("GET", "/containers/donor-a/json")["Id"]
    try:
        for kind in ("network", "pid", "ipc"):
            sampand.docker(
                "create", "--name", f"joins-{kind}", f"--{kind}", "container:donor-a", busybox, "true"
            )
            host = sampand.json("GET", f"/containers/joins-{kind}/json")["HostConfig"]
            assert f"container:{donor}" in (host["NetworkMode"], host["PidMode"], host["IpcMode"])
        sampand.docker("rename", "donor-a", "donor-b")
        for kind in ("network", "pid", "ipc"):
            sampand.docker("start", "-a", f"joins-{kind}")
        sampand.docker("rm", "-f", "donor-b")
        for kind in ("network", "pid", "ipc"):
            done = sampand.docker("start", f"joins-{kind}", check=False)
            assert done.returncode == 1 and f"No such container: {donor}" in done.stderr
    finally:
        for name in ("donor-a", "donor-b", "joins-network", "joins-pid", "joins-ipc"):
            sampand.docker("rm", "-f", name, check=False)
