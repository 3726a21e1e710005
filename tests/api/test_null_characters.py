"""A null character ends a string for the kernel: what holds one must be refused, not done to another path."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Daemon

pytestmark = pytest.mark.root
CREATE: list[dict[str, Any]] = [
    {"Cmd": ["a\0b"]},
    {"Env": ["A=\0"]},
    {"WorkingDir": "/\0"},
    {"Hostname": "a\0"},
    {"Volumes": {"/a\0": {}}},
    {"Healthcheck": {"Test": ["CMD", "\0"]}},
    {"HostConfig": {"Binds": ["/t\0:/a"]}},
    {"HostConfig": {"Tmpfs": {"/\0": ""}}},
    {"HostConfig": {"Mounts": [{"Type": "tmpfs", "Target": "/x\0"}]}},
    {"HostConfig": {"CgroupParent": "/\0"}},
    {"HostConfig": {"MaskedPaths": ["/\0"]}},
    {"HostConfig": {"ReadonlyPaths": ["/\0"]}},
    {"HostConfig": {"SecurityOpt": ["seccomp=\0"]}},
    {"HostConfig": {"BlkioDeviceReadBps": [{"Path": "\0", "Rate": 1}]}},
]
EXEC: list[dict[str, Any]] = [
    {"Cmd": ["a\0b"]},
    {"Cmd": ["true"], "Env": ["A=\0"]},
    {"Cmd": ["true"], "WorkingDir": "/\0"},
]


@pytest.mark.parametrize("member", CREATE, ids=repr)
def test_create(sampand: Daemon, busybox: str, member: dict[str, Any]) -> None:
    status, _, body = sampand.api("POST", "/containers/create", {"Image": busybox, "Cmd": ["true"], **member})
    assert status == 400 and b"null character" in body, body


def test_labels_are_kept_as_they_are(sampand: Daemon, busybox: str) -> None:
    made = sampand.json("POST", "/containers/create", {"Image": busybox, "Labels": {"a\0": "\0"}})
    try:
        assert sampand.json("GET", f"/containers/{made['Id']}/json")["Config"]["Labels"] == {"a\0": "\0"}
    finally:
        sampand.api("DELETE", f"/containers/{made['Id']}")


def test_running_containers(sampand: Daemon, busybox: str) -> None:
    made = sampand.json("POST", "/containers/create", {"Image": busybox, "Cmd": ["sleep", "100"]})
    one = f"/containers/{made['Id']}"
    try:
        sampand.json("POST", f"{one}/start")
        for body in EXEC:
            status, _, text = sampand.api("POST", f"{one}/exec", body)
            assert status == 400 and b"null character" in text, text
        for method in ("GET", "HEAD"):
            assert sampand.api(method, f"{one}/archive?path=/a%00b")[0] == 500  # dockerd's "invalid argument"
        assert b"Invalid argument" in sampand.api("GET", f"{one}/archive?path=%00")[2]
        assert sampand.api("POST", f"{one}/update", {"CpusetCpus": "0\0"})[0] == 400
    finally:
        sampand.api("DELETE", f"{one}?force=1")


def test_volumes_and_registries(sampand: Daemon) -> None:
    options = {"type": "tmpfs", "device": "x\0", "o": "size=1m"}
    assert sampand.api("POST", "/volumes/create", {"DriverOpts": options})[0] == 400
    for server in ("\0", "host:latest", "host:99999"):
        login = {"username": "u", "password": "p", "serveraddress": server}
        status, _, body = sampand.api("POST", "/auth", login)
        assert status == 400 and b"invalid registry host" in body, body
