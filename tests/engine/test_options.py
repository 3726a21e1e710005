"""Each other member of ContainerConfig and HostConfig, seen from inside its container."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.engine.steps import inside, made, output, run

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("busybox")]
V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()


def host(**members: Any) -> dict[str, Any]:
    return {"HostConfig": members}


INSIDE: list[tuple[str, dict[str, Any], str]] = [
    ("id -G", host(GroupAdd=["users", "4242"]), "0 100 4242"),
    ("id -G", {"User": "nobody", **host(GroupAdd=["4242"])}, "65534 4242"),
    ("hostname", {"Hostname": "box"}, "box"),
    ("cat /proc/sys/kernel/domainname", {"Domainname": "example.org"}, "example.org"),
    ("hostname", host(UTSMode="host"), os.uname().nodename),
    ("wc -c < /proc/version; cat /proc/keys | wc -c", host(MaskedPaths=["/proc/version"]), "0\n"),
    ("touch /tmp/x 2>/dev/null || echo no; echo 64 > /proc/sys/net/ipv4/ip_default_ttl && echo yes", host(ReadonlyPaths=["/tmp"], Privileged=False), "no\nyes"),
    ("cat /proc/keys | wc -l | grep -qv ^0 && echo shown", host(SecurityOpt=["systempaths=unconfined"]), "shown"),
    ("cat /proc/sys/net/ipv4/ip_default_ttl", host(Sysctls={"net.ipv4.ip_default_ttl": "77"}), "77"),
    ("ulimit -n; ulimit -Hn", host(Ulimits=[{"Name": "nofile", "Soft": 111, "Hard": 222}]), "111\n222"),
    ("df -k /dev/shm | tail -1 | awk '{print $2}'", host(ShmSize=1 << 20), "1024"),
    ("cat /proc/self/oom_score_adj", host(OomScoreAdj=123), "123"),
    ("touch /x 2>/dev/null || echo read-only", host(ReadonlyRootfs=True), "read-only"),
    ("grep CapEff /proc/self/status", host(CapDrop=["ALL"], CapAdd=["net_admin"]), "CapEff:\t0000000000001000"),
    ("grep NoNewPrivs /proc/self/status", host(SecurityOpt=["no-new-privileges"]), "NoNewPrivs:\t1"),
    ("grep NoNewPrivs /proc/self/status", host(SecurityOpt=["no-new-privileges=false"]), "NoNewPrivs:\t0"),
    ("grep Seccomp: /proc/self/status", {}, "Seccomp:\t2"),
    ("grep Seccomp: /proc/self/status", host(SecurityOpt=["seccomp=unconfined"]), "Seccomp:\t0"),
    ("grep Seccomp: /proc/self/status", host(Privileged=True), "Seccomp:\t0"),
    ("cat /dev/xzero | head -c 3 | wc -c", host(Devices=[{"PathOnHost": "/dev/zero", "PathInContainer": "/dev/xzero", "CgroupPermissions": "r"}]), "3"),
    ("mknod /k c 1 11; head -c 1 /k >/dev/null 2>&1 && echo read || echo no", host(), "no"),
    ("mknod /k c 10 200; exec 3<>/k && echo opened", host(DeviceCgroupRules=["c 10:200 rw"]), "opened"),
    ("readlink /proc/1/exe | grep -q busybox || echo init; ps | grep -c sleep", host(Init=True), "init\n"),
    ("echo $A $B; env | grep -c ^C=", {"Env": ["A=1", "B=x y", "C"]}, "1 x y\n0"),
    ("pwd", {"WorkingDir": "/made/for/it"}, "/made/for/it"),
    ("ip link | grep -c mtu", {"NetworkDisabled": True, **host(NetworkMode="default")}, "1"),
    ("ip link show eth0 | grep -o 02:42:0a:00:00:07", {"MacAddress": "02:42:0a:00:00:07", **host(NetworkMode="default")}, "02:42:0a:00:00:07"),
    ("grep -c 9.9.9.9 /etc/resolv.conf; grep -E '^(search|options)' /etc/resolv.conf; grep extra /etc/hosts", host(NetworkMode="default", Dns=["9.9.9.9"], DnsSearch=["a.b"], DnsOptions=["ndots:3"], ExtraHosts=["extra:1.2.3.4"]), "1\nsearch a.b\noptions ndots:3\n1.2.3.4\textra"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "body", "printed"), INSIDE, ids=[script[:40] for script, _, _ in INSIDE])
def test_seen_inside(sampand: Daemon, script: str, body: dict[str, Any], printed: str) -> None:
    body = json.loads(json.dumps(body))
    shown = run(sampand, script, **body)[1]
    assert shown.startswith(printed), shown


def test_cgroup_namespace_and_parent(sampand: Daemon) -> None:
    shown = run(sampand, "cat /proc/self/cgroup", **host(CgroupnsMode="host", CgroupParent="/test-parent"))[1]
    assert "/test-parent/" in shown
    for group in Path("/sys/fs/cgroup").glob("test-parent" if V2 else "*/test-parent"):
        group.rmdir()
    shown = run(sampand, "cat /proc/self/cgroup", **host(CgroupnsMode="private"))[1]
    assert all(
        line.endswith(":/") for line in shown.splitlines() if "unified" not in line and line[:2] != "0:"
    )


def test_console_size(sampand: Daemon) -> None:
    with made(sampand, "stty", "size", Tty=True, **host(ConsoleSize=[33, 99])) as container:
        sampand.json("POST", f"/containers/{container}/wait")
        assert sampand.api("GET", f"/containers/{container}/logs?stdout=1")[2] == b"33 99\r\n"


def test_what_only_inspect_shows(sampand: Daemon) -> None:
    asked = {
        "Labels": {"a": "b"},
        "OnBuild": ["RUN x"],
        "Shell": ["/bin/ash", "-c"],
        "StopSignal": "SIGUSR1",
        "StopTimeout": 3,
        "ArgsEscaped": True,
    }
    kept = {"Annotations": {"k": "v"}, "ContainerIDFile": "/tmp/cid", "VolumeDriver": "local"}
    with made(sampand, start=False, **asked, HostConfig=dict(kept)) as container:
        shown = sampand.json("GET", f"/containers/{container}/json")
        assert {name: shown["Config"].get(name) for name in asked} == asked
        assert {name: shown["HostConfig"].get(name) for name in kept} == kept


@pytest.mark.parametrize("option", ["writable-cgroups", "writable-cgroups=true"])
def test_writable_cgroups(sampand: Daemon, option: str) -> None:
    directory = "/sys/fs/cgroup" if V2 else "/sys/fs/cgroup/pids"
    script = f"mkdir {directory}/sub 2>/dev/null && echo made && rmdir {directory}/sub || echo read-only"
    body = host(SecurityOpt=[option], CgroupnsMode="private")
    assert run(sampand, script, **body)[1] == "made\n"
    assert run(sampand, script, **host(CgroupnsMode="private"))[1] == "read-only\n"
    assert (
        run(sampand, script, **host(Privileged=True, SecurityOpt=["writable-cgroups=false"]))[1]
        == "read-only\n"
    )


def test_privileged_exec_keeps_the_filter(sampand: Daemon) -> None:
    script = "grep -E 'CapEff|Seccomp:' /proc/self/status"
    everything = inside_host("CapBnd")
    with made(sampand) as container:
        plain = inside(sampand, container, script).split()
        strong = inside(sampand, container, script, Privileged=True).split()
        assert (plain[3], strong[3]) == ("2", "2")
        assert plain[1] != strong[1] == everything
    with made(sampand, **host(SecurityOpt=["seccomp=unconfined"])) as container:
        assert inside(sampand, container, script, Privileged=True).split()[3] == "0"


def inside_host(field: str) -> str:
    """A field of this process's own status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(field))


def test_exec_has_the_containers_groups(sampand: Daemon) -> None:
    with made(sampand, **host(GroupAdd=["4242"])) as container:
        assert inside(sampand, container, "id -G", User="nobody") == "65534 4242\n"


def test_guards_that_are_not_there_are_said(sampand: Daemon) -> None:
    for option, words in (
        ("label=type:x_t", "SELinux"),
        ("label=disable", ""),
        ("apparmor=mine", "AppArmor"),
    ):
        if words == "AppArmor" and Path("/sys/module/apparmor").exists():
            continue
        made_ = sampand.json(
            "POST",
            "/containers/create",
            {"Image": "busybox", **host(NetworkMode="none", SecurityOpt=[option])},
        )
        sampand.json("DELETE", f"/containers/{made_['Id']}")
        assert [words in warning for warning in made_["Warnings"]] == ([True] if words else [])


def test_links_on_the_default_bridge(sampand: Daemon) -> None:
    with made(sampand, ExposedPorts={"5432/tcp": {}}, **host(NetworkMode="default")) as target:
        name = sampand.json("GET", f"/containers/{target}/json")["Name"][1:]
        address = sampand.json("GET", f"/containers/{target}/json")["NetworkSettings"]["Networks"]["bridge"][
            "IPAddress"
        ]
        body = host(NetworkMode="default", Links=[f"{name}:db"])
        code, text = run(sampand, "grep db /etc/hosts; ping -c 1 -W 20 db >/dev/null && echo reached", **body)
        assert code == 0
        assert text.splitlines()[0].split()[:2] == [address, "db"]
        assert text.splitlines()[-1] == "reached"


def test_absurd_texts_end_nothing(sampand: Daemon) -> None:
    """NUL bytes and sizes that execve(2) refuses: an error of the start, with its reason."""
    for body in (
        {"Cmd": ["echo", "a\0b"]},
        {"Env": ["A=\0"]},
        {"Cmd": ["x" * 200_000]},
        {"WorkingDir": "/" + "d/" * 3000},
    ):
        status, _, data = sampand.api(
            "POST",
            "/containers/create",
            {"Image": "busybox", "Cmd": ["true"], **host(NetworkMode="none"), **body},
        )
        if status == 201:
            container = json.loads(data)["Id"]
            status, _, data = sampand.api("POST", f"/containers/{container}/start")
            sampand.api("DELETE", f"/containers/{container}?force=1")
        assert 400 <= status <= 500, (str(body)[:60], status, data)
        assert len(json.loads(data)["message"]) > 10


def test_a_thousand_of_everything(sampand: Daemon) -> None:
    labels = {f"l{number}": "x" * 100 for number in range(1000)}
    env = [f"E{number}={'y' * 100}" for number in range(1000)]
    with made(sampand, "sh", "-c", "env | grep -c ^E", Labels=labels, Env=env) as container:
        sampand.json("POST", f"/containers/{container}/wait")
        assert output(sampand, container) == "1000\n"
        assert len(sampand.json("GET", f"/containers/{container}/json")["Config"]["Labels"]) == 1000


def test_stopped_by_its_own_signal_and_in_its_own_time(sampand: Daemon) -> None:
    script = "trap 'echo usr1; exit 3' USR1; echo ready; while :; do sleep .05; done"
    with made(sampand, "sh", "-c", script, StopSignal="SIGUSR1", StopTimeout=9) as container:
        deadline = time.monotonic() + 60
        while output(sampand, container) != "ready\n":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        sampand.json("POST", f"/containers/{container}/stop")
        assert sampand.json("GET", f"/containers/{container}/json")["State"]["ExitCode"] == 3
