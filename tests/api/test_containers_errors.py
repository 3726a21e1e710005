"""Requests that dockerd refuses, with its status and words: containers, exec, volumes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.daemons import Daemon

pytestmark = pytest.mark.root
CREATE = "/containers/create"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    made.start()
    web = made.create("sleep", "600", name="web")
    made.call("POST", f"/containers/{web}/start")
    pau = made.create("sleep", "600", name="pau")
    made.call("POST", f"/containers/{pau}/start")
    made.call("POST", f"/containers/{pau}/pause")
    made.create("true", name="made")
    made.create("true", name="ro", HostConfig={"ReadonlyRootfs": True})
    made.create("true", name="vol", HostConfig={"Binds": ["data:/d"]})
    yield made
    made.close()


def asked(**config: Any) -> dict[str, Any]:
    """A create request that is right but for ``config``."""
    return {"Image": "busybox", "Cmd": ["true"], **config}


def host(**config: Any) -> dict[str, Any]:
    return asked(HostConfig=config)


TABLE: list[tuple[str, str, Any, int, str]] = [
    ("POST", CREATE, {}, 400, "config cannot be empty in order to create a container"),
    ("POST", CREATE, "", 400, "invalid JSON: EOF"),
    ("POST", CREATE, "[]", 400, "invalid JSON: json: cannot unmarshal array into Go value of type container.CreateRequest"),
    ("POST", CREATE, {"Image": 5}, 400, "invalid JSON: json: cannot unmarshal number into Go struct field .Image of type string"),
    ("POST", CREATE, {"Image": "nosuch"}, 404, "No such image: nosuch:latest"),
    ("POST", CREATE + "?name=web", asked(), 409, 'Conflict. The container name "/web" is already in use by container '),
    ("POST", CREATE + "?name=a%20b", asked(), 400, "Invalid container name (a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"),
    ("POST", CREATE + "?platform=linux/arm64", asked(), 404, "image with reference busybox:latest was found but does not provide the specified platform (linux/arm64)"),
    ("POST", CREATE, asked(WorkingDir="relative"), 400, "the working directory 'relative' is invalid, it needs to be an absolute path"),
    ("POST", CREATE, asked(WorkingDir="/etc/passwd"), 500, "Cannot mkdir: /etc/passwd is not a directory"),
    ("POST", CREATE, asked(Env=["=b"]), 400, "invalid environment variable: =b"),
    ("POST", CREATE, asked(StopSignal="NOSUCH"), 400, "invalid signal: NOSUCH"),
    ("POST", CREATE, asked(Hostname="x" * 80), 400, "is too long (maximum 64 bytes)"),
    ("POST", CREATE, asked(Healthcheck={"Test": ["CMD", "x"], "Interval": 5}), 400, "Interval in Healthcheck cannot be less than 1ms"),
    ("POST", CREATE, asked(Entrypoint=[""], Cmd=[]), 400, "no command specified"),
    ("POST", CREATE, host(Memory=1024), 400, "Minimum memory limit allowed is 6MB"),
    ("POST", CREATE, host(Memory=6 << 20, MemorySwap=5 << 20), 400, "Minimum memoryswap limit should be larger than memory limit, see usage"),
    ("POST", CREATE, host(MemorySwap=5 << 20), 400, "You should always set the Memory limit when using Memoryswap limit, see usage"),
    ("POST", CREATE, host(Memory=50 << 20, MemoryReservation=100 << 20), 400, "Minimum memory limit can not be less than memory reservation limit, see usage"),
    ("POST", CREATE, host(NanoCpus=1000 * 10**9), 400, "range of CPUs is from 0.01 to "),
    ("POST", CREATE, host(NanoCpus=10**9, CpuQuota=5000), 400, "Conflicting options: Nano CPUs and CPU Quota cannot both be set"),
    ("POST", CREATE, host(CpuPeriod=10), 400, "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"),
    ("POST", CREATE, host(CpuQuota=10), 400, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
    ("POST", CREATE, host(CpusetCpus="99"), 400, "Requested CPUs are not available - requested 99, available: "),
    ("POST", CREATE, host(CpusetCpus="x"), 400, "Invalid value x for cpuset cpus: invalid format: x"),
    ("POST", CREATE, host(OomScoreAdj=2000), 400, "Invalid value 2000, range for oom score adj is [-1000, 1000]"),
    ("POST", CREATE, host(RestartPolicy={"Name": "sometimes"}), 400, "invalid restart policy: unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"),
    ("POST", CREATE, host(RestartPolicy={"Name": "always", "MaximumRetryCount": 3}), 400, "invalid restart policy: maximum retry count can only be used with 'on-failure'"),
    ("POST", CREATE, host(RestartPolicy={"Name": "on-failure", "MaximumRetryCount": -1}), 400, "invalid restart policy: maximum retry count cannot be negative"),
    ("POST", CREATE, host(AutoRemove=True, RestartPolicy={"Name": "always"}), 400, "can't create 'AutoRemove' container with restart policy"),
    ("POST", CREATE, host(PidMode="container:nosuch"), 400, "No such container: nosuch"),
    ("POST", CREATE, host(IpcMode="nonsense"), 400, "invalid IPC mode: nonsense"),
    ("POST", CREATE, host(IpcMode="container:nosuch"), 400, "No such container: nosuch"),
    ("POST", CREATE, host(Runtime="nosuch"), 400, "unknown or invalid runtime name: nosuch"),
    ("POST", CREATE, host(Isolation="hyperv"), 400, "invalid isolation (hyperv): linux only supports 'default'"),
    ("POST", CREATE, host(LogConfig={"Type": "nosuch"}), 400, 'error looking up logging plugin nosuch: plugin "nosuch" not found'),
    ("POST", CREATE, host(LogConfig={"Type": "json-file", "Config": {"nosuch": "1"}}), 400, "unknown log opt 'nosuch' for json-file log driver"),
    ("POST", CREATE, host(LogConfig={"Type": "json-file", "Config": {"mode": "x"}}), 400, "logger: logging mode not supported: x"),
    ("POST", CREATE, host(CapAdd=["NOSUCH"]), 400, 'invalid CapAdd: unknown capability: "CAP_NOSUCH"'),
    ("POST", CREATE, host(CapDrop=["NOSUCH"]), 400, 'invalid CapDrop: unknown capability: "CAP_NOSUCH"'),
    ("POST", CREATE, host(SecurityOpt=["nosuch=1"]), 500, 'invalid --security-opt 2: "nosuch=1"'),
    ("POST", CREATE, host(Links=["nosuch:alias"]), 400, "could not get container for nosuch: No such container: nosuch"),
    ("POST", CREATE, host(VolumesFrom=["nosuch"]), 400, "No such container: nosuch"),
    ("POST", CREATE, host(VolumesFrom=["nosuch:zz"]), 400, "invalid mode: zz"),
    ("POST", CREATE, host(Binds=["/a:/b:zz"]), 500, "invalid mode: zz"),
    ("POST", CREATE, host(Binds=["relative/path:/x"]), 400, 'create relative/path: "relative/path" includes invalid characters for a local volume name'),
    ("POST", CREATE, host(Binds=["v1:/x", "v2:/x"]), 400, "Duplicate mount point: /x"),
    ("POST", CREATE, host(VolumeDriver="nosuch", Binds=["vv:/x"]), 404, 'create vv: error looking up volume plugin nosuch: plugin "nosuch" not found'),
    ("POST", CREATE, host(Tmpfs={"relative": ""}), 400, "invalid mount path: 'relative' mount path must be absolute"),
    ("POST", CREATE, host(Mounts=[{"Type": "bind", "Source": "/nosuch/dir", "Target": "/x"}]), 400, "bind source path does not exist: /nosuch/dir"),
    ("POST", CREATE, host(NetworkMode="container:"), 400, "invalid network mode: invalid container format container:<name|id>"),
    ("GET", "/containers/nosuch/json", None, 404, "No such container: nosuch"),
    ("POST", "/containers/nosuch/start", None, 404, "No such container: nosuch"),
    ("POST", "/containers/pau/start", None, 409, "cannot start a paused container, try unpause instead"),
    ("POST", "/containers/web/start", {"a": 1}, 400, "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"),
    ("POST", "/containers/nosuch/kill", None, 404, "cannot kill container: nosuch: No such container: nosuch"),
    ("POST", "/containers/web/kill?signal=NOSUCH", None, 400, "cannot kill container: web: invalid signal: NOSUCH"),
    ("POST", "/containers/web/kill?signal=99", None, 400, "cannot kill container: web: the linux daemon does not support signal 99"),
    ("POST", "/containers/web/kill?signal=0", None, 400, "cannot kill container: web: invalid signal: 0"),
    ("POST", "/containers/made/kill", None, 409, "cannot kill container: made: container ID is not running"),
    ("POST", "/containers/web/stop?t=x", None, 400, 'strconv.Atoi: parsing "x": invalid syntax'),
    ("POST", "/containers/web/stop?signal=x", None, 500, "cannot stop container: web: invalid signal: x"),
    ("POST", "/containers/pau/pause", None, 409, "container ID is already paused"),
    ("POST", "/containers/made/pause", None, 409, "container ID is not running"),
    ("POST", "/containers/web/unpause", None, 500, "Container ID is not paused"),
    ("POST", "/containers/web/wait?condition=nonsense", None, 400, 'invalid condition: "nonsense"'),
    ("POST", "/containers/made/resize?h=x&w=1", None, 400, 'invalid resize height "x": invalid syntax'),
    ("POST", "/containers/made/resize?h=1&w=1", None, 409, "container ID is not running"),
    ("POST", "/containers/web/rename?name=", None, 400, "Neither old nor new names may be empty"),
    ("POST", "/containers/web/rename?name=web", None, 400, "Renaming a container with the same name as its current name"),
    ("POST", "/containers/web/rename?name=bad%20name", None, 400, "Error when allocating new name: Invalid container name (/bad name), only "),
    ("POST", "/containers/web/rename?name=pau", None, 409, 'Error when allocating new name: Conflict. The container name "/pau" is already in use'),
    ("DELETE", "/containers/web", None, 409, 'cannot remove container "web": container is running: stop the container before removing or force remove'),
    ("DELETE", "/containers/pau", None, 409, 'cannot remove container "pau": container is paused and must be unpaused first'),
    ("DELETE", "/containers/made?link=1", None, 500, "Conflict, cannot remove the default link name of the container"),
    ("GET", "/containers/made/top", None, 409, "container ID is not running"),
    ("GET", "/containers/web/top?ps_args=-o%20nsense", None, 500, "ps: "),
    ("GET", "/containers/web/logs", None, 400, "must specify at least one of 'stdout' or 'stderr'"),
    ("GET", "/containers/web/logs?stdout=1&since=x", None, 400, 'invalid value for "since": invalid timestamp "x": invalid seconds "x": invalid syntax'),
    ("GET", "/containers/web/archive", None, 400, "bad parameter: path cannot be empty"),
    ("GET", "/containers/web/archive?path=/nosuch", None, 404, "Could not find the file /nosuch in container web"),
    ("GET", "/containers/web/archive?path=/proc/version", None, 404, "Could not find the file /proc/version in container web"),
    ("PUT", "/containers/web/archive?path=/etc/passwd", None, 400, "extraction point is not a directory"),
    ("PUT", "/containers/web/archive?path=/nosuch/dir", None, 404, "Could not find the file /nosuch/dir in container web"),
    ("PUT", "/containers/ro/archive?path=/", None, 400, "container rootfs is marked read-only"),
    ("PUT", "/containers/web/archive?path=/tmp", "junk\n", 500, "unexpected EOF"),
    ("GET", "/containers/json?filters=nonsense", None, 400, "invalid filter"),
    ("GET", "/containers/json?filters={%22nosuch%22:[%22x%22]}", None, 400, "invalid filter 'nosuch'"),
    ("GET", "/containers/json?filters={%22status%22:[%22nonsense%22]}", None, 400, "invalid filter 'status=nonsense': invalid value for state (nonsense): must be one of created, running, paused, restarting, removing, exited, dead"),
    ("GET", "/containers/json?filters={%22exited%22:[%22x%22]}", None, 400, "invalid filter 'exited=x': strconv.Atoi: parsing \"x\": invalid syntax"),
    ("GET", "/containers/json?filters={%22before%22:[%22nosuch%22]}", None, 404, "No such container: nosuch"),
    ("GET", "/containers/json?filters={%22expose%22:[%22x%22]}", None, 500, "error while looking up for expose x: invalid start port 'x': invalid syntax"),
    ("POST", "/containers/prune?filters={%22nosuch%22:[%22x%22]}", None, 400, "invalid filter 'nosuch'"),
    ("POST", "/containers/web/update", {"Memory": 1024}, 400, "Minimum memory limit allowed is 6MB"),
    ("POST", "/containers/nosuch/update", {"Memory": 64 << 20}, 404, "No such container: nosuch"),
    ("POST", "/containers/web/exec", {"Cmd": []}, 400, "No exec command specified"),
    ("POST", "/containers/web/exec", {"Cmd": ["id"], "User": "nosuch"}, 400, "unable to find user nosuch: no matching entries in passwd file"),
    ("POST", "/containers/made/exec", {"Cmd": ["id"]}, 409, "container ID is not running"),
    ("POST", "/containers/pau/exec", {"Cmd": ["id"]}, 409, "Container pau is paused, unpause the container before exec"),
    ("GET", "/exec/nosuch/json", None, 404, "No such exec instance: nosuch"),
    ("POST", "/exec/nosuch/start", {}, 404, "No such exec instance: nosuch"),
    ("POST", "/commit?container=nosuch", {}, 404, "No such container: nosuch"),
    ("POST", "/volumes/create", {"Name": "bad name"}, 400, 'create bad name: "bad name" includes invalid characters for a local volume name'),
    ("POST", "/volumes/create", {"Name": "x"}, 400, "create x: volume name is too short, names should be at least two alphanumeric characters"),
    ("POST", "/volumes/create", {"Name": 5}, 400, "invalid JSON: json: cannot unmarshal number into Go struct field CreateRequest.Name of type string"),
    ("POST", "/volumes/create", {"Name": "x1", "DriverOpts": {"nosuch": "1"}}, 400, 'create x1: invalid option: "nosuch"'),
    ("POST", "/volumes/create", {"Name": "x2", "DriverOpts": {"type": "tmpfs"}}, 400, 'create x2: missing required option: "device"'),
    ("POST", "/volumes/create", {"Name": "x3", "Driver": "nosuch"}, 404, 'create x3: error looking up volume plugin nosuch: plugin "nosuch" not found'),
    ("GET", "/volumes/nosuch", None, 404, "get nosuch: no such volume"),
    ("DELETE", "/volumes/nosuch", None, 404, "get nosuch: no such volume"),
    ("DELETE", "/volumes/data", None, 409, "remove data: volume is in use - [ID]"),
    ("GET", "/volumes?filters={%22dangling%22:[%22x%22]}", None, 400, "invalid filter 'dangling=[x]'"),
    ("POST", "/volumes/prune?filters={%22all%22:[%22x%22]}", None, 400, "invalid filter 'all': strconv.ParseBool: parsing \"x\": invalid syntax"),
    ("PUT", "/volumes/data?version=1", {}, 503, "volume update only valid for cluster volumes, but swarm is unavailable"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status", "words"), TABLE)
def test_refusals(daemon: Daemon, method: str, path: str, body: Any, status: int, words: str) -> None:
    before = daemon.call("GET", "/containers/json?all=1")[1]
    found, answer = daemon.call(method, path, body)
    message = answer["message"] if isinstance(answer, dict) and "message" in answer else str(answer)
    plain = re.sub(r"[0-9a-f]{64}", "ID", message)
    assert (found, words in plain) == (status, True), (found, message)
    after = daemon.call("GET", "/containers/json?all=1")[1]
    assert [c["Id"] for c in after] == [c["Id"] for c in before]


NO_ANSWER = [
    ("POST", "/containers/web/start", 304),
    ("POST", "/containers/made/stop", 304),
    ("DELETE", "/volumes/nosuch?force=1", 204),
]


@pytest.mark.parametrize(("method", "path", "status"), NO_ANSWER)
def test_nothing_to_do(daemon: Daemon, method: str, path: str, status: int) -> None:
    assert daemon.call(method, path) == (status, "")
