"""Every member of the bodies with values of the wrong kind: Debian's dockerd beside sampand is the judge.

Statuses aren't compared where decoding fails (dockerd 20.10 says 500, today's 400); which values are taken and
which refused is, and for what doesn't decode the kind of value and the Go type that it should have been.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from sampan.api.volumes import VolumeCreate
from sampan.runtime.config import ContainerConfig, ExecConfig, HostConfig, UpdateRequest
from tests.conftest import Daemon, UnixConnection, busybox_tar
from tests.dockerd import running_dockerd

pytestmark = [pytest.mark.root, pytest.mark.dockerd]
VALUES: list[Any] = [5, "x", True, [], {}, {"a": 5}, [{"a": 1}], -1, 2**64]

# Where the answers differ on purpose, and why.
LATER = "dockerd 20.10 didn't know it"
WANTED = {
    "Cmd": "a bare string was taken until 28",
    "Entrypoint": "a bare string was taken until 28",
    "Shell": "a bare string was taken until 28",
    "CapAdd": "a bare string was taken until 28",
    "CapDrop": "a bare string was taken until 28",
    "ExposedPorts": "today's dockerd checks ports while it decodes",
    "PortBindings": "today's dockerd checks ports while it decodes",
    "Dns": "today's dockerd checks addresses while it decodes",
    "Volumes": "relative paths are refused today",
    "StartInterval": LATER,
    "Annotations": LATER,
    "NanoCpus": "too small for the kernel: would be no limit",
    "BlkioWeight": "dockerd 20.10 doesn't know BFQ's weights",
    "BlkioWeightDevice": "dockerd 20.10 doesn't know BFQ's weights; weights out of range are refused",
    "UsernsMode": "dockerd takes any word for its default",
    "PidMode": "dockerd takes any word for its default",
    "UTSMode": "dockerd takes any word for its default",
    "IpcMode": "today's dockerd refuses what it doesn't know",
    "Cgroup": "dockerd drops it",
    "Devices": "the mode's letters are checked",
    "Ulimits": "names are checked at create",
    "MacAddress": "checked at create",
    "ConsoleSize": LATER,
    "ClusterVolumeSpec": LATER,
    "Env": "variables without a name are refused in execs too",
    "DetachKeys": "without a terminal there are none",
    "Mounts": "an unknown type is named first",
    "CgroupParent": "can't be updated: refused, not forgotten",
    "DeviceRequests": "can't be updated: refused, not forgotten",
    "DeviceCgroupRules": "can't be updated: refused, not forgotten",
    "CpuRealtimePeriod": "negative ones are refused at create, not at start",
    "CpuRealtimeRuntime": "negative ones are refused at create, not at start; dockerd drops it in updates",
    **dict.fromkeys(
        ("BlkioDeviceReadBps", "BlkioDeviceWriteBps", "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps"),
        "applied by updates: dockerd drops them there",
    ),
    "User": "looked up when the exec is made, as by today's dockerd",
}
RENAMED = {
    "nat.PortSet": "network.PortSet",
    "nat.PortMap": "network.PortMap",
    "strslice.StrSlice": "[]string",
}


def ask(host: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = UnixConnection(host.removeprefix("unix://"), 30)
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
    try:
        connection.request(method, path, data, {} if data is None else {"Content-Type": kind})
        answer = connection.getresponse()
        raw = answer.read()
        try:
            return answer.status, json.loads(raw)
        except ValueError:
            return answer.status, {}
    finally:
        connection.close()


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_dockerd(tmp_path_factory.mktemp("dockerd")) as host:
        path = "/images/create?fromSrc=-&repo=busybox&tag=latest"
        assert ask(host, "POST", path, busybox_tar())[0] == 200
        yield host


def prepare(host: str) -> None:
    """A running container in each."""
    body = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"NetworkMode": "none"}}
    assert ask(host, "POST", "/containers/create?name=bad-input", body)[0] == 201
    assert ask(host, "POST", "/containers/bad-input/start")[0] == 204


def container_body(name: str, value: Any) -> dict[str, Any]:
    return {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}, name: value}


def host_body(name: str, value: Any) -> dict[str, Any]:
    return {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none", name: value}}


BODIES: dict[str, tuple[type[msgspec.Struct], str, Any]] = {
    "container": (ContainerConfig, "/containers/create", container_body),
    "host": (HostConfig, "/containers/create", host_body),
    "exec": (ExecConfig, "/containers/bad-input/exec", lambda name, value: {"Cmd": ["true"], name: value}),
    "update": (UpdateRequest, "/containers/bad-input/update", lambda name, value: {name: value}),
    "volume": (VolumeCreate, "/volumes/create", lambda name, value: {"Name": "bad-input", name: value}),
}


def meant(message: str) -> str:
    """Of a decoder's message the kind and the type, without the path to it."""
    found = re.search(r"cannot unmarshal (\w+).* of type (.*)", message.partition("\n")[0])
    return "" if found is None else f"{found[1]} {RENAMED.get(found[2], found[2])}"


def undo(host: str, path: str, answer: Any) -> None:
    if path == "/containers/create":
        ask(host, "DELETE", f"/containers/{answer['Id']}?v=1")
    elif path == "/volumes/create":
        ask(host, "DELETE", f"/volumes/{answer['Name']}")


@pytest.mark.parametrize("part", BODIES)
def test_as_dockerd(sampand: Daemon, busybox: str, dockerd: str, part: str) -> None:
    struct, path, body = BODIES[part]
    hosts = (dockerd, sampand.host)
    for host in hosts:
        prepare(host)
    different = []
    for field in msgspec.structs.fields(struct):
        name = field.encode_name
        for value in VALUES:
            answers = [ask(host, "POST", path, body(name, value)) for host in hosts]
            for host, (status, answer) in zip(hosts, answers, strict=True):
                if status == 201:
                    undo(host, path, answer)
            (theirs, their), (ours, our) = answers
            same = (theirs < 400) == (ours < 400)
            if same and ours >= 400:
                same = meant(their.get("message", "")) == meant(our.get("message", ""))
            if not same and name not in WANTED:
                different.append(f"{name}={json.dumps(value)}: {theirs} {their} | {ours} {our}")
    for host in hosts:
        ask(host, "DELETE", "/containers/bad-input?force=1")
    assert not different, "\n".join(different)
