"""docker-py: images, volumes, networks, events, lists."""

from __future__ import annotations

import io
import os
import time
from typing import Any

import pytest

from tests.tars import tar_of

docker = pytest.importorskip("docker", reason="docker-py is not installed")
errors = docker.errors
types = docker.types
pytestmark = pytest.mark.root


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
    client.api.import_image_from_data(tar_of({"unnamed": os.urandom(1 << 20)}))
    pruned = client.images.prune()
    assert pruned["ImagesDeleted"] and pruned["SpaceReclaimed"] >= 1 << 20
    assert client.images.prune() == {"ImagesDeleted": None, "SpaceReclaimed": 0}


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
        deadline = time.monotonic() + 30
        while b"root:" not in client_box.exec_run(f"wget -qO- http://{unique}srv/passwd").output:
            assert time.monotonic() < deadline
            time.sleep(0.1)
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
    gone.put_archive("/tmp", tar_of({"big": b"x" * (1 << 20)}))
    result = client.containers.prune(filters={"label": [f"p={unique}"]})
    assert result["ContainersDeleted"] == [gone.id] and 1 << 20 <= result["SpaceReclaimed"] < 2 << 20
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


def test_files_go_into_volumes_before_any_start(client: Any, unique: str) -> None:
    """The image has no directory for the volumes; ``docker create`` and ``docker cp`` fill them all the same."""
    binds = [f"{unique}-inner:/fill/inner", f"{unique}:/fill"]
    box = client.containers.create("busybox", volumes=binds)
    try:
        assert box.put_archive("/fill", tar_of({"outer": b"1"}))
        assert box.put_archive("/fill/inner", tar_of({"deep": b"2"}))
        seen = client.containers.run(
            "busybox",
            ["cat", "/a/outer", "/b/deep"],
            volumes=[f"{unique}:/a", f"{unique}-inner:/b"],
            remove=True,
        )
        assert seen == b"12"
    finally:
        box.remove(force=True)
        for name in (unique, f"{unique}-inner"):
            client.volumes.get(name).remove()
