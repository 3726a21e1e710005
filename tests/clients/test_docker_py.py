"""docker-py, high and low level, as its users write it: containers."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest

docker = pytest.importorskip("docker", reason="docker-py is not installed")
errors = docker.errors
types = docker.types
pytestmark = pytest.mark.root


# --- the daemon -------------------------------------------------------------------------------------------


def test_daemon(client: Any) -> None:
    assert client.ping() is True
    assert client.version()["Os"] == "linux"
    info = client.info()
    assert info["OSType"] == "linux" and info["ContainersRunning"] <= info["Containers"]
    usage = client.df()
    assert {"LayersSize", "Images", "Containers", "Volumes"} <= usage.keys()


def test_every_api_version_that_the_client_knows(host: str) -> None:
    for version in ("auto", "1.24", "1.35", "1.41", docker.constants.DEFAULT_DOCKER_API_VERSION):
        with contextlib.closing(docker.DockerClient(base_url=host, version=version)) as client:
            assert client.containers.run("busybox", "echo hi", remove=True) == b"hi\n"
            assert isinstance(client.containers.list(all=True), list)


# --- run --------------------------------------------------------------------------------------------------


def test_run_gives_the_output(client: Any) -> None:
    script = ["sh", "-c", "echo out; echo err >&2"]
    assert client.containers.run("busybox", script, remove=True) == b"out\n"
    assert client.containers.run("busybox", script, remove=True, stdout=False, stderr=True) == b"err\n"
    assert sorted(client.containers.run("busybox", script, remove=True, stderr=True).splitlines()) == [
        b"err",
        b"out",
    ]


def test_run_streams(client: Any) -> None:
    lines = client.containers.run(
        "busybox", ["sh", "-c", "for i in 1 2 3; do echo $i; done"], stream=True, remove=True
    )
    assert b"".join(lines) == b"1\n2\n3\n"


def test_run_that_fails(client: Any, unique: str) -> None:
    with pytest.raises(errors.ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo wrong >&2; exit 7"], remove=True, name=unique)
    assert caught.value.exit_status == 7 and caught.value.stderr == b"wrong\n"
    with pytest.raises(errors.NotFound):
        client.containers.get(unique)
    with pytest.raises(errors.APIError, match=r"no such file or directory|not found"):
        client.containers.run("busybox", "nosuchprogram", name=unique)
    client.containers.get(unique).remove()
    with pytest.raises(errors.ImageNotFound):
        client.images.get("nosuchimage")


def test_run_with_everything(client: Any, unique: str, tmp_path: Any) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "file").write_text("from the host\n")
    for directory in (shared, *list(shared.parents)[:3]):
        directory.chmod(0o755)
    volume = client.volumes.create(unique)
    container = client.containers.run(
        "busybox",
        "sleep 1000",
        detach=True,
        name=unique,
        hostname="boxy",
        domainname="example.org",
        environment={"A": "1", "B": "two words"},
        labels={"purpose": unique},
        working_dir="/tmp",
        user="1000:100",
        group_add=["200"],
        cap_add=["NET_ADMIN"],
        cap_drop=["MKNOD"],
        extra_hosts={"far": "192.0.2.7"},
        dns=["192.0.2.53"],
        dns_search=["example.net"],
        volumes={str(shared): {"bind": "/host", "mode": "ro"}, unique: {"bind": "/vol", "mode": "rw"}},
        mounts=[types.Mount("/scratch", None, type="tmpfs", tmpfs_size=1 << 20)],
        tmpfs={"/t": "size=1m"},
        ports={"80/tcp": None, "81/tcp": ("127.0.0.1", None), "82/udp": [0]},
        mem_limit="64m",
        memswap_limit="64m",
        mem_reservation="32m",
        cpu_shares=512,
        cpu_period=100000,
        cpu_quota=50000,
        pids_limit=50,
        shm_size="8m",
        ulimits=[types.Ulimit(name="nofile", soft=100, hard=200)],
        sysctls={"net.ipv4.ip_unprivileged_port_start": "0"},
        devices=["/dev/null:/dev/nothing:rwm"],
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 3},
        log_config=types.LogConfig(type="json-file", config={"max-size": "1m"}),
        healthcheck={"test": ["CMD", "true"], "interval": 10**9, "retries": 2},
        stop_signal="SIGKILL",
        oom_score_adj=100,
        read_only=True,
        security_opt=["no-new-privileges"],
        init=True,
        ipc_mode="private",
        tty=True,
        stdin_open=True,
    )
    try:
        run = lambda text: container.exec_run(["sh", "-c", text]).output.decode().strip()  # noqa: E731
        assert run("hostname; pwd; id -u; id -g; id -G").split() == [
            "boxy",
            "/tmp",
            "1000",
            "100",
            "100",
            "200",
        ]
        assert run("echo $A $B; cat /host/file") == "1 two words\nfrom the host"
        assert "192.0.2.7" in run("grep far /etc/hosts")
        assert "192.0.2.53" in run("cat /etc/resolv.conf")
        assert run("ulimit -n; stat -c %F /dev/nothing") == "100\ncharacter special file"
        assert run("df -k /dev/shm | tail -1 | awk '{print $2}'") == "8192"
        assert run("touch /x 2>&1 | grep -c Read-only") == "1"
        container.reload()
        attrs = container.attrs
        assert attrs["HostConfig"]["Memory"] == 64 << 20 and attrs["HostConfig"]["PidsLimit"] == 50
        assert attrs["Config"]["Labels"]["purpose"] == unique
        assert set(container.ports) == {"80/tcp", "81/tcp", "82/udp"}
        assert container.ports["81/tcp"][0]["HostIp"] == "127.0.0.1"
        assert int(container.ports["80/tcp"][0]["HostPort"]) > 0
        assert [one.name for one in client.containers.list(filters={"label": f"purpose={unique}"})] == [
            unique
        ]
        assert container.image.tags == ["busybox:latest"]
        deadline = time.monotonic() + 40
        while container.health != "healthy" and time.monotonic() < deadline:
            time.sleep(0.1)
            container.reload()
        assert container.health == "healthy"
    finally:
        container.remove(force=True, v=True)
        volume.remove()


# --- life -------------------------------------------------------------------------------------------------


def test_life(client: Any, unique: str) -> None:
    script = "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"
    container = client.containers.create("busybox", ["sh", "-c", script], name=unique)
    assert container.status == "created" and len(container.short_id) == 12
    container.start()
    container.reload()
    assert container.status == "running"
    container.pause()
    container.reload()
    assert container.status == "paused"
    container.unpause()
    container.rename(unique + "b")
    container.reload()
    assert container.name == unique + "b"
    container.restart(timeout=5)
    container.kill(signal="SIGKILL")
    assert container.wait(timeout=10)["StatusCode"] == 137
    output = container.attach(stream=True)
    container.start()
    assert next(output) == b"up\n"  # the trap is set
    container.stop(timeout=10)
    assert container.wait()["StatusCode"] == 5
    container.remove()
    with pytest.raises(errors.NotFound):
        container.reload()


def begin_waiting(container: Any, condition: str) -> Any:
    """``wait``, but for its answer's body: its head comes when the engine waits."""
    api = container.client.api
    return api._post(
        api._url("/containers/{0}/wait", container.id), params={"condition": condition}, stream=True
    )


def test_waiting(client: Any) -> None:
    script = "until [ -e /go ]; do sleep 0.1; done; exit 3"
    container = client.containers.run("busybox", ["sh", "-c", script], detach=True)
    ending = begin_waiting(container, "next-exit")
    container.exec_run("touch /go")
    assert ending.json()["StatusCode"] == 3
    assert container.wait()["StatusCode"] == 3
    removed = begin_waiting(container, "removed")
    container.remove()
    assert removed.json()["StatusCode"] == 3
    box = client.containers.run("busybox", "sleep 100", detach=True)
    with pytest.raises(Exception, match="Read timed out"):
        box.wait(timeout=0.3)
    box.remove(force=True)


def test_errors_are_of_the_right_kind(client: Any, box: Any, unique: str) -> None:
    with pytest.raises(errors.NotFound) as missing:
        client.containers.get("nosuch")
    assert missing.value.explanation == "No such container: nosuch"
    with pytest.raises(errors.APIError) as conflict:
        client.containers.create("busybox", name=box.name)
    assert (
        conflict.value.status_code == 409 and "is already in use by container" in conflict.value.explanation
    )
    with pytest.raises(errors.APIError) as running:
        box.remove()
    assert (
        running.value.status_code == 409 and "container is running" in running.value.explanation
    ) or "running container" in running.value.explanation
    with pytest.raises(errors.ImageNotFound):
        client.containers.create("nosuchimage:1")
    with pytest.raises(errors.APIError) as bad:
        client.containers.create("busybox", name="a b")
    assert bad.value.status_code == 400 and "Invalid container name" in bad.value.explanation
    with pytest.raises(errors.NotFound):
        box.get_archive("/nosuch")
    with pytest.raises(errors.NotFound, match=unique):
        client.volumes.get(unique)
    with pytest.raises(errors.NotFound, match=unique):
        client.networks.get(unique)


def test_update(box: Any) -> None:
    assert box.update(mem_limit="50m", memswap_limit="50m", cpu_shares=300)["Warnings"] in (None, [])
    box.update(restart_policy={"Name": "unless-stopped"})
    box.reload()
    assert box.attrs["HostConfig"]["Memory"] == 50 << 20
    assert box.attrs["HostConfig"]["CpuShares"] == 300
    assert box.attrs["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"


def test_top_stats_diff(client: Any, box: Any) -> None:
    found = box.top()
    assert any("sleep 1000" in process[found["Titles"].index("CMD")] for process in found["Processes"])
    assert "PID" in box.top(ps_args="-o pid,comm")["Titles"]
    once = box.stats(stream=False)
    assert once["memory_stats"]["usage"] > 0 and once["pids_stats"]["current"] >= 1
    assert once["precpu_stats"]["cpu_usage"]["total_usage"] > 0
    stream = box.stats(decode=True)
    first, second = next(stream), next(stream)
    assert first["read"] < second["read"] and second["precpu_stats"]["cpu_usage"]["total_usage"] > 0
    stream.close()
    box.exec_run("sh -c 'echo x > /new; mkdir /tmp/d; rm /etc/group'")
    changes = {entry["Path"]: entry["Kind"] for entry in box.diff()}
    assert changes["/new"] == 1 and changes["/etc"] == 0 and changes["/etc/group"] == 2
    assert changes["/tmp"] == 0 and changes["/tmp/d"] == 1
