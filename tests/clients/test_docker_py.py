"""docker-py, high and low level, as its users write it."""

from __future__ import annotations

import contextlib
import io
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.tars import tar_of

docker = pytest.importorskip("docker", reason="docker-py is not installed")
errors = docker.errors
types = docker.types
pytestmark = pytest.mark.root


@pytest.fixture
def client(host: str) -> Iterator[Any]:
    with contextlib.closing(docker.DockerClient(base_url=host, timeout=60)) as found:
        yield found


@pytest.fixture
def box(client: Any) -> Iterator[Any]:
    """A container that runs and does nothing."""
    container = client.containers.run("busybox", "sleep 1000", detach=True, init=True)
    yield container
    container.remove(force=True)


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
        deadline = time.monotonic() + 10
        while container.health != "healthy" and time.monotonic() < deadline:
            time.sleep(0.1)
            container.reload()
        assert container.health == "healthy"
    finally:
        container.remove(force=True, v=True)
        volume.remove()


# --- life -------------------------------------------------------------------------------------------------


def test_life(client: Any, unique: str) -> None:
    container = client.containers.create(
        "busybox", ["sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"], name=unique
    )
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
    container.start()
    time.sleep(0.3)
    container.stop(timeout=10)
    assert container.wait()["StatusCode"] == 5
    container.remove()
    with pytest.raises(errors.NotFound):
        container.reload()


def test_waiting(client: Any) -> None:
    container = client.containers.run("busybox", ["sh", "-c", "sleep 0.5; exit 3"], detach=True)
    assert container.wait(condition="next-exit")["StatusCode"] == 3
    removed: list[Any] = []
    waiter = threading.Thread(target=lambda: removed.append(container.wait(condition="removed")))
    waiter.start()
    time.sleep(0.2)
    container.remove()
    waiter.join(10)
    assert [one["StatusCode"] for one in removed] == [3]
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


# --- logs and attach --------------------------------------------------------------------------------------


def test_logs(client: Any) -> None:
    container = client.containers.run(
        "busybox", ["sh", "-c", "for i in 1 2 3; do echo line $i; done; echo oops >&2"], detach=True
    )
    container.wait()
    assert container.logs(stderr=False) == b"line 1\nline 2\nline 3\n"
    assert container.logs(stdout=False) == b"oops\n"
    assert container.logs(tail=2) == b"line 3\noops\n"
    stamp = container.logs(timestamps=True, tail=1).split()[0].decode()
    assert datetime.fromisoformat(stamp[:19]).year >= 2026
    assert container.logs(since=int(time.time()) + 100) == b""
    assert container.logs(until=int(time.time()) - 100) == b""
    assert b"".join(container.logs(stream=True, stderr=False)) == b"line 1\nline 2\nline 3\n"
    container.remove()


def test_following_logs(client: Any) -> None:
    script = "i=0; while [ $i -lt 5 ]; do i=$((i+1)); echo $i; sleep 0.2; done"
    container = client.containers.run("busybox", ["sh", "-c", script], detach=True)
    arrived = []
    for chunk in container.logs(stream=True, follow=True):
        arrived.append((chunk, time.monotonic()))
    assert b"".join(chunk for chunk, _ in arrived) == b"1\n2\n3\n4\n5\n"
    assert arrived[-1][1] - arrived[0][1] > 0.5, "they came all at once"
    container.remove()


def test_closing_a_followed_log_lets_go(client: Any, box: Any) -> None:
    stream = box.logs(stream=True, follow=True)
    threading.Timer(0.5, stream.close).start()
    assert list(stream) == []


def test_attach(client: Any) -> None:
    container = client.containers.run("busybox", "cat", detach=True, stdin_open=True)
    sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
    sock._sock.sendall(b"hello\n")
    frame = b""
    while len(frame) < 14:
        frame += sock._sock.recv(100)
    assert frame == b"\x01\0\0\0\0\0\0\x06hello\n"
    sock._sock.sendall(b"last\n")
    sock._sock.shutdown(socket.SHUT_WR)
    # Without StdinOnce its end of input ends the attach, not the container's input.
    rest = b""
    while data := sock._sock.recv(100):
        rest += data
    assert rest == b"\x01\0\0\0\0\0\0\x05last\n"
    sock.close()
    container.reload()
    assert container.status == "running"
    container.stop(timeout=0)
    container.remove()


def test_attach_streams_and_logs(client: Any) -> None:
    container = client.containers.run(
        "busybox", ["sh", "-c", "echo before; sleep 1; echo after; echo e >&2"], detach=True
    )
    time.sleep(0.2)
    assert b"after\n" in b"".join(container.attach(stream=True, logs=True, stdout=True))
    container.wait()
    container.remove()
    container = client.containers.create("busybox", ["sh", "-c", "echo out; echo err >&2"])
    stream = container.attach(stream=True, demux=True, stdout=True, stderr=True)
    container.start()
    pieces = list(stream)
    assert b"".join(out or b"" for out, _ in pieces) == b"out\n"
    assert b"".join(err or b"" for _, err in pieces) == b"err\n"
    container.remove()


# --- exec -------------------------------------------------------------------------------------------------


def test_exec(box: Any) -> None:
    assert box.exec_run("echo hi") == (0, b"hi\n")
    assert box.exec_run(["sh", "-c", "exit 9"]).exit_code == 9
    code, output = box.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True)
    assert (code, output) == (0, (b"o\n", b"e\n"))
    assert box.exec_run("id -u", user="nobody").output == b"65534\n"
    assert (
        box.exec_run(["sh", "-c", "echo $X; pwd"], environment={"X": "y"}, workdir="/tmp").output
        == b"y\n/tmp\n"
    )
    assert box.exec_run("tty", tty=True).output == b"/dev/pts/0\r\n"
    code, stream = box.exec_run(["sh", "-c", "echo 1; sleep 0.2; echo 2"], stream=True)
    assert code is None and b"".join(stream) == b"1\n2\n"
    assert box.exec_run("sleep 100", detach=True).exit_code is None
    code, output = box.exec_run("nosuch")
    assert code in (126, 127) and b"nosuch" in output
    code, output = box.exec_run("true", workdir="tmp")
    assert code == 126 and b"Cwd must be an absolute path" in output


def test_exec_socket(box: Any) -> None:
    _, sock = box.exec_run("cat", stdin=True, socket=True)
    sock._sock.sendall(b"ping\n")
    data = b""
    while len(data) < 13:
        data += sock._sock.recv(100)
    assert data == b"\x01\0\0\0\0\0\0\x05ping\n"
    sock._sock.shutdown(socket.SHUT_WR)
    assert sock._sock.recv(10) == b""
    sock.close()


def test_low_level_exec(client: Any, box: Any) -> None:
    api = client.api
    made = api.exec_create(box.id, ["sh", "-c", "stty size; exit 4"], tty=True, stdin=True)
    assert not api.exec_inspect(made["Id"])["Running"]
    sock = api.exec_start(made["Id"], tty=True, socket=True)
    data = b"".join(iter(lambda: sock._sock.recv(100), b""))
    assert data.strip().split()[-2:] != []
    found = api.exec_inspect(made["Id"])
    assert found["ExitCode"] == 4 and found["ProcessConfig"]["tty"] is True and found["ContainerID"] == box.id
    made = api.exec_create(box.id, "sleep 100", tty=True)
    api.exec_start(made["Id"], detach=True, tty=True)
    api.exec_resize(made["Id"], height=40, width=100)
    assert api.exec_inspect(made["Id"])["Running"] is True
    with pytest.raises(errors.NotFound):
        api.exec_inspect("nosuch")


# --- files ------------------------------------------------------------------------------------------------


def test_archives(box: Any) -> None:
    assert box.put_archive("/tmp", tar_of({"one": b"1", "two": b"22"})) is True
    stream, stat = box.get_archive("/tmp/two")
    assert stat["name"] == "two" and stat["size"] == 2 and stat["linkTarget"] == ""
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        member = archive.extractfile("two")
        assert member is not None and member.read() == b"22"
    stream, _ = box.get_archive("/tmp", encode_stream=True)
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
        assert {"tmp", "tmp/one", "tmp/two"} <= set(archive.getnames())
    with pytest.raises(errors.NotFound):
        box.put_archive("/nosuch", tar_of({"a": b""}))


def test_export_commit_import(client: Any, box: Any, unique: str) -> None:
    box.exec_run("sh -c 'echo made > /made'")
    with tarfile.open(fileobj=io.BytesIO(b"".join(box.export()))) as archive:
        member = archive.extractfile("made")
        assert member is not None and member.read() == b"made\n"
    image = box.commit(unique, "v1", message="m", author="a", changes=["ENV X=1", 'CMD ["cat", "/made"]'])
    assert image.tags == [f"{unique}:v1"]
    assert client.containers.run(f"{unique}:v1", remove=True) == b"made\n"
    assert image.attrs["Author"] == "a" and "X=1" in image.attrs["Config"]["Env"]
    assert image.history()[0]["Comment"] == "m"
    client.images.remove(f"{unique}:v1")


# --- images -----------------------------------------------------------------------------------------------


def test_images(client: Any, unique: str) -> None:
    image = client.images.get("busybox")
    assert image.id.startswith("sha256:") and "busybox:latest" in image.tags
    assert image.short_id.startswith("sha256:")
    assert image.tag(unique, "x") is True
    assert f"{unique}:x" in client.images.get("busybox").tags
    saved = b"".join(client.images.get(f"{unique}:x").save(named=f"{unique}:x"))
    client.images.remove(f"{unique}:x")
    loaded = client.images.load(saved)
    assert any(f"{unique}:x" in one.tags for one in loaded)
    assert [one.id for one in client.images.list(name=f"{unique}:x")] == [image.id]
    assert any(one.id == image.id for one in client.images.list(all=True))
    client.images.remove(f"{unique}:x", force=True)
    assert client.images.get("busybox").id == image.id
    with pytest.raises(errors.ImageNotFound):
        client.images.get(f"{unique}:x")
    with pytest.raises(errors.ImageLoadError):
        client.images.load(tar_of({"manifest": b"not one"}))
    with pytest.raises(errors.APIError):
        client.images.get_registry_data("localhost:1/nosuch")
    with pytest.raises(errors.APIError):
        client.images.pull("localhost:1/nosuch", tag="1")
    assert client.images.prune()["SpaceReclaimed"] >= 0


def test_building(client: Any, unique: str, tmp_path: Any) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nARG WHO=nobody\nLABEL a=b\nCOPY data /data\nRUN echo $WHO >> /data\nCMD cat /data\n"
    )
    (tmp_path / "data").write_text("hello\n")
    (tmp_path / ".dockerignore").write_text("ignored\n")
    (tmp_path / "ignored").write_text("x")
    image, log = client.images.build(
        path=str(tmp_path), tag=unique, buildargs={"WHO": "me"}, labels={"c": "d"}, rm=True
    )
    assert image.tags == [f"{unique}:latest"] and image.labels["c"] == "d"
    text = "".join(entry.get("stream", "") for entry in log)
    assert "Step 1/7" in text and "Successfully built" in text
    assert client.containers.run(unique, remove=True) == b"hello\nme\n"
    client.images.remove(unique)
    with pytest.raises(errors.BuildError) as failed:
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 3\n"), rm=True)
    assert "returned a non-zero code: 3" in failed.value.msg
    assert any("Step 2/2" in entry.get("stream", "") for entry in failed.value.build_log)
    with pytest.raises(errors.APIError, match="unknown instruction"):
        client.images.build(fileobj=io.BytesIO(b"FROM busybox\nNOSUCH x\n"))
    lines = list(client.api.build(fileobj=io.BytesIO(b"FROM busybox\nRUN true\n"), decode=True, rm=True))
    assert any("aux" in line for line in lines) and not any("error" in line for line in lines)


# --- volumes and networks ---------------------------------------------------------------------------------


def test_volumes(client: Any, unique: str) -> None:
    volume = client.volumes.create(unique, labels={"l": unique})
    assert volume.name == unique and volume.attrs["Driver"] == "local"
    assert [one.name for one in client.volumes.list(filters={"label": f"l={unique}"})] == [unique]
    mount = {unique: {"bind": "/v"}}
    client.containers.run("busybox", ["sh", "-c", "echo kept > /v/f"], volumes=mount, remove=True)
    assert client.containers.run("busybox", "cat /v/f", volumes=mount, remove=True) == b"kept\n"
    user = client.containers.create("busybox", volumes=mount)
    with pytest.raises(errors.APIError) as used:
        volume.remove()
    assert used.value.status_code == 409 and "volume is in use" in used.value.explanation
    user.remove()
    assert unique in client.volumes.prune(filters={"label": f"l={unique}", "all": "1"})["VolumesDeleted"]
    with pytest.raises(errors.NotFound):
        volume.reload()


def test_networks(client: Any, unique: str) -> None:
    pool = types.IPAMPool(subnet="10.214.77.0/24", gateway="10.214.77.1")
    network = client.networks.create(
        unique,
        driver="bridge",
        ipam=types.IPAMConfig(pool_configs=[pool]),
        labels={"n": unique},
        check_duplicate=True,
    )
    server = client.containers.run(
        "busybox", "httpd -f -p 80 -h /etc", detach=True, network=unique, name=unique + "srv", init=True
    )
    client_box = client.containers.run("busybox", "sleep 100", detach=True, init=True)
    try:
        network.connect(client_box, aliases=["caller"], ipv4_address="10.214.77.50")
        network.reload()
        assert {one.name for one in network.containers} == {server.name, client_box.name}
        assert b"root:" in client_box.exec_run(f"wget -qO- http://{unique}srv/passwd").output
        client_box.reload()
        found = client_box.attrs["NetworkSettings"]["Networks"][unique]
        assert found["IPAddress"] == "10.214.77.50" and "caller" in found["Aliases"]
        assert b"10.214.77.50" in server.exec_run("nslookup caller").output
        with pytest.raises(errors.APIError) as used:
            network.remove()
        assert used.value.status_code == 403 and "has active endpoints" in used.value.explanation
        network.disconnect(client_box)
        client_box.reload()
        assert unique not in client_box.attrs["NetworkSettings"]["Networks"]
    finally:
        server.remove(force=True)
        client_box.remove(force=True)
    assert [one.name for one in client.networks.list(names=[unique])] == [unique]
    assert unique in (client.networks.prune(filters={"label": f"n={unique}"})["NetworksDeleted"] or [])
    assert client.networks.get("bridge").attrs["Scope"] == "local"


# --- events and prune -------------------------------------------------------------------------------------


def test_events(client: Any, unique: str) -> None:
    since = int(time.time()) - 1
    stream = client.events(decode=True, filters={"type": "container", "label": f"e={unique}"})
    client.containers.run("busybox", "true", labels={"e": unique}, remove=True)
    actions = []
    for event in stream:
        assert event["Actor"]["Attributes"]["e"] == unique and event["Type"] == "container"
        actions.append(event["Action"])
        if event["Action"] == "destroy":
            stream.close()
            break
    assert [one for one in actions if one != "attach"] == ["create", "start", "die", "destroy"]
    past = client.events(
        decode=True, since=since, until=int(time.time()) + 1, filters={"label": f"e={unique}"}
    )
    assert [event["Action"] for event in past if event["Action"] != "attach"] == [
        "create",
        "start",
        "die",
        "destroy",
    ]


def test_prune(client: Any, unique: str) -> None:
    gone = client.containers.create("busybox", labels={"p": unique})
    kept = client.containers.create("busybox", labels={"p": "other"})
    result = client.containers.prune(filters={"label": [f"p={unique}"]})
    assert result["ContainersDeleted"] == [gone.id] and result["SpaceReclaimed"] >= 0
    kept.remove()


def test_list_filters(client: Any, box: Any, unique: str) -> None:
    ended = client.containers.create("busybox", ["sh", "-c", "exit 3"], name=unique)
    ended.start()
    ended.wait()
    ids = lambda **what: {one.id for one in client.containers.list(**what)}  # noqa: E731
    assert box.id in ids() and ended.id not in ids()
    assert ended.id in ids(all=True)
    assert ids(all=True, filters={"name": unique}) == {ended.id}
    assert ended.id in ids(all=True, filters={"exited": 3}) and box.id not in ids(
        all=True, filters={"exited": 3}
    )
    assert ended.id in ids(filters={"status": "exited"}, all=True)
    assert box.id in ids(filters={"ancestor": "busybox"})
    assert len(client.containers.list(all=True, limit=1)) == 1
    assert ended.id in ids(before=client.containers.create("busybox", name=unique + "c").id, all=True)
    assert client.containers.list(all=True, sparse=True)[0].attrs["Id"]
    ended.remove()
    client.containers.get(unique + "c").remove()


def test_low_level(client: Any, unique: str) -> None:
    api = client.api
    config = api.create_host_config(
        binds=["/tmp:/host:ro"], port_bindings={8080: None}, links=None, network_mode="bridge",
        log_config=types.LogConfig(type="none"), auto_remove=False, nano_cpus=500_000_000,
    )  # fmt: skip
    made = api.create_container(
        "busybox", ["cat"], name=unique, host_config=config, ports=[8080], stdin_open=True, volumes=["/host"],
        stop_timeout=1,
    )  # fmt: skip
    assert made["Warnings"] in (None, [])
    api.start(made)
    api.resize(made, 30, 90)
    assert api.port(made, 8080)[0]["HostPort"]
    assert api.inspect_container(made)["HostConfig"]["NanoCpus"] == 500_000_000
    with pytest.raises(errors.APIError, match="does not support reading"):
        api.logs(made)
    assert api.containers(filters={"id": made["Id"]}, size=True)[0]["SizeRootFs"] > 0
    api.stop(made)
    assert api.wait(made)["StatusCode"] == 137
    api.remove_container(made, v=True, force=True)
    assert api.networks(names=["bridge"])[0]["Driver"] == "bridge"
    assert api.images("busybox", quiet=True)
    assert api.history("busybox")
