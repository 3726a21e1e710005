"""Events by filter and time, prune by filter, what takes space, and attach over a websocket."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import Daemon, import_busybox
from tests.engine.steps import made

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("busybox")]


def filtered(**filters: Any) -> str:
    """The query's ``filters``."""
    return "filters=" + quote(json.dumps({name.replace("__", "!"): value for name, value in filters.items()}))


def events(daemon: Daemon, since: float, **filters: list[str]) -> list[dict[str, Any]]:
    """What has happened since then."""
    query = f"since={since:.9f}&until={time.time():.9f}&{filtered(**filters)}"
    _, _, data = daemon.api("GET", f"/events?{query}")
    return [json.loads(line) for line in data.splitlines()]


def test_events_by_filter_and_time(sampand: Daemon) -> None:
    begin = time.time()
    sampand.json("POST", "/volumes/create", {"Name": "ev-volume", "Labels": {"v": "1"}})
    sampand.json("POST", "/networks/create", {"Name": "ev-net"})
    with made(sampand, "true", Labels={"ev": "yes"}) as container:
        sampand.json("POST", f"/containers/{container}/wait")
        name = sampand.json("GET", f"/containers/{container}/json")["Name"][1:]
        middle = time.time()
    sampand.json("DELETE", "/networks/ev-net")
    sampand.json("DELETE", "/volumes/ev-volume")

    def actions(since: float = begin, **filters: list[str]) -> list[str]:
        return [event["Action"] for event in events(sampand, since, **filters)]

    mine = {"container": [container]}
    assert actions(**mine, type=["container"]) == ["create", "start", "die", "destroy"]
    assert actions(**mine, event=["die", "start"]) == ["start", "die"]
    assert actions(label=["ev=yes"], type=["container"]) == ["create", "start", "die", "destroy"]
    assert actions(label=["ev=no"]) == []
    assert actions(container=[name], type=["container"]) == ["create", "start", "die", "destroy"]
    assert "start" in actions(image=["busybox"])
    assert actions(volume=["ev-volume"]) == ["create", "destroy"]
    assert actions(network=["ev-net"]) == ["create", "destroy"]
    assert actions(type=["image"], container=[container]) == []
    assert actions(since=middle, **mine, type=["container"]) == ["destroy"]
    for event in events(sampand, begin, **mine):
        assert event["time"] == event["timeNano"] // 10**9
        assert event["scope"] == "local"


def test_a_resize_is_an_event_also_without_a_terminal(sampand: Daemon) -> None:
    begin = time.time()
    for tty, height in ((True, "11"), (False, "12")):
        with made(sampand, "sleep", "100", Tty=tty) as container:
            assert sampand.api("POST", f"/containers/{container}/resize?h={height}&w=90")[0] == 200
            said = events(sampand, begin, container=[container], event=["resize"])
            seen = [event["Actor"]["Attributes"] for event in said]
        assert [(one["height"], one["width"]) for one in seen] == [(height, "90")]


def test_events_of_commit_and_export(sampand: Daemon) -> None:
    begin = time.time()
    with made(sampand, "sleep", "617") as container:
        for pause in (1, 0):
            sampand.json("POST", f"/commit?container={container}&repo=ev-commit&pause={pause}", {})
        assert sampand.api("GET", f"/containers/{container}/export")[0] == 200
        found = [
            event["Action"] for event in events(sampand, begin, container=[container], type=["container"])
        ]
        assert found == ["create", "start", "pause", "commit", "unpause", "commit", "export"]
    sampand.json("DELETE", "/images/ev-commit?force=1")


def test_events_stream_until_they_are_due(sampand: Daemon) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sampand.socket)
    sock.settimeout(60)
    until = time.time() + 3  # the volume is made before, however slow the disk is
    query = f"until={until:.3f}&{filtered(volume=['ev-late'])}"
    sock.sendall(f"GET /v1.50/events?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head = sock.recv(4096)
    assert head.startswith(b"HTTP/1.1 200")  # the head comes at once
    sampand.json("POST", "/volumes/create", {"Name": "ev-late"})
    rest = head.partition(b"\r\n\r\n")[2]
    while data := sock.recv(4096):
        rest += data
    assert b'"create"' in rest
    assert time.time() >= until - 0.05
    sampand.json("DELETE", "/volumes/ev-late")


def test_container_prune(sampand: Daemon) -> None:
    with (
        made(sampand, "true", start=False, Labels={"prune": "a"}) as first,
        made(sampand, "true", start=False, Labels={"prune": "b"}) as second,
        made(sampand, Labels={"prune": "c"}) as running,
    ):

        def prune(**filters: list[str]) -> list[str]:
            answer = sampand.json("POST", f"/containers/prune?{filtered(**filters)}")
            return answer["ContainersDeleted"] or []

        assert prune(label=["prune=a"], until=["1h"]) == []
        assert prune(label=["prune=a"]) == [first]
        assert prune(label=["prune"], label__=["prune=b"]) == []
        assert prune(label=["prune=b"], until=[str(time.time() + 60)]) == [second]
        assert prune(label=["prune=c"]) == []
        assert sampand.json("GET", f"/containers/{running}/json")["State"]["Running"]


def test_volume_and_network_prune(sampand: Daemon) -> None:
    for name, labels in (("pv1", {"pv": "1"}), ("pv2", {"pv": "2"})):
        sampand.json("POST", "/volumes/create", {"Name": name, "Labels": labels})
        sampand.json("POST", "/networks/create", {"Name": name, "Labels": labels})
    volumes = f"/volumes/prune?{filtered(label=['pv'], label__=['pv=2'], all=['true'])}"
    assert sampand.json("POST", volumes)["VolumesDeleted"] == ["pv1"]
    networks = f"/networks/prune?{filtered(label=['pv'], label__=['pv=2'])}"
    assert sampand.json("POST", networks)["NetworksDeleted"] == ["pv1"]
    assert not sampand.json("POST", f"/volumes/prune?{filtered(label=['pv'])}")[
        "VolumesDeleted"
    ]  # it has a name
    sampand.json("DELETE", "/volumes/pv2")
    sampand.json("DELETE", "/networks/pv2")


@pytest.fixture
def alone(new_sampand: Any) -> Iterator[Daemon]:
    """A daemon in which nothing else happens."""
    daemon = new_sampand()
    import_busybox(daemon)
    yield daemon


def test_image_prune_and_disk_usage(alone: Daemon) -> None:
    with made(alone, "sh", "-c", "head -c 100000 /dev/zero > /file; exec sleep 60") as container:
        deadline = time.monotonic() + 30
        while True:
            usage = alone.json("GET", "/v1.50/system/df")
            if usage["Containers"][0]["SizeRw"] >= 100_000 or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for comment in ("first", "second"):  # the first is without a name afterwards
            alone.json("POST", f"/commit?container={container}&repo=kept&comment={comment}", {})
            alone.docker("exec", container, "sh", "-c", "head -c 200000 /dev/zero > /second")
        usage = alone.json("GET", "/v1.50/system/df")
        sizes = sorted(image["Size"] for image in usage["Images"])
        # Both stand on busybox's layer: what they have of their own is counted once each.
        assert usage["LayersSize"] == sizes[0] + sum(size - sizes[0] for size in sizes[1:])
        assert {image["SharedSize"] for image in usage["Images"]} == {sizes[0]}
        assert usage["Containers"][0]["Id"] == container
        assert 300_000 <= usage["Containers"][0]["SizeRw"] < 400_000
        assert {image["Containers"] for image in usage["Images"]} == {0, 1}
        newest = alone.json("GET", "/v1.52/system/df")
        assert newest["ImageUsage"]["TotalCount"] == 3 and newest["ImageUsage"]["ActiveCount"] == 1
        only = alone.json("GET", "/v1.50/system/df?type=volume")
        assert only.get("Images") is None and only["Volumes"] == []
        assert not alone.json("POST", f"/images/prune?{filtered(until=['24h'])}")["ImagesDeleted"]
        freed = alone.json("POST", "/images/prune")
        assert len(freed["ImagesDeleted"]) >= 1 and freed["SpaceReclaimed"] > 100_000
        assert len(alone.json("GET", "/images/json")) == 2
        alone.json("POST", f"/images/prune?{filtered(dangling=['false'])}")
        assert [image["RepoTags"] for image in alone.json("GET", "/images/json")] == [["busybox:latest"]]


class WebSocket:
    """As little of RFC 6455 as a judge needs."""

    def __init__(self, daemon: Daemon, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(daemon.socket)
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        self.sock.sendall(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        self.file = self.sock.makefile("rb")
        assert b" 101 " in self.file.readline()
        while self.file.readline().strip():
            continue

    def send(self, data: bytes, kind: int = 2) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        size = (
            bytes((0x80 | len(data),))
            if len(data) < 126
            else bytes((0x80 | 126,)) + len(data).to_bytes(2, "big")
        )
        self.sock.sendall(bytes((0x80 | kind,)) + size + mask + masked)

    def receive(self) -> tuple[int, bytes]:
        kind, size = self.file.read(2)
        if size == 126:
            size = int.from_bytes(self.file.read(2), "big")
        elif size == 127:
            size = int.from_bytes(self.file.read(8), "big")
        return kind & 15, self.file.read(size)

    def until_closed(self) -> bytes:
        """All data up to the close."""
        data = b""
        while (message := self.receive())[0] != 8:
            data += message[1]
        return data


def test_websocket_both_ways_and_to_the_end(sampand: Daemon) -> None:
    with made(
        sampand, "sh", "-c", "read a; echo got $a; read b; echo err $b >&2; exit 0", OpenStdin=True
    ) as container:
        web = WebSocket(
            sampand, f"/v1.50/containers/{container}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1"
        )
        web.send(b"", 9)
        assert web.receive() == (10, b"")
        web.send(b"on")
        web.send(b"e\n")
        assert web.receive() == (2, b"got one\n")
        web.send(b"x" * 3000 + b"\n", 1)
        assert web.until_closed() == b"err " + b"x" * 3000 + b"\n"


def test_websocket_replays_logs(sampand: Daemon) -> None:
    with made(sampand, "sh", "-c", "echo before; sleep 60", Tty=True) as container:
        deadline = time.monotonic() + 30
        while b"before" not in sampand.api("GET", f"/containers/{container}/logs?stdout=1")[2]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        web = WebSocket(sampand, f"/v1.50/containers/{container}/attach/ws?stream=1&stdout=1&logs=1")
        assert web.receive() == (2, b"before\r\n")
        web.send(b"\x03\xe8", 8)
        assert web.receive()[0] == 8


def test_websocket_detaches_by_its_keys(sampand: Daemon) -> None:
    with made(sampand, "cat", OpenStdin=True, Tty=True) as container:
        web = WebSocket(
            sampand, f"/v1.50/containers/{container}/attach/ws?stream=1&stdin=1&stdout=1&detachKeys=ctrl-x,x"
        )
        web.send(b"\x18x")
        assert web.until_closed() == b""
        assert sampand.json("GET", f"/containers/{container}/json")["State"]["Running"]
