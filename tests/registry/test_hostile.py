"""The registry client against registries that never end, ask for what isn't theirs, break off and die."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan import errors
from sampan.images.reference import Reference
from sampan.images.store import ImageStore
from sampan.registry import catalog
from sampan.registry.auth import Credentials
from sampan.registry.pull import Puller
from sampan.registry.push import push
from sampan.registry.transport import Settings, Transport
from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database
from sampan.storage.gates import Gates
from sampan.storage.layers import LayerStore
from tests.indexes import CONFIG, MANIFEST, descriptor
from tests.registry.front import Exchange, Front
from tests.registry.serving import Served
from tests.registry.test_client import SECRET, NewFront, TokenServer, quiet, stored
from tests.registry.test_client import front as front
from tests.registry.test_pull_push import NewStore, make_image

TWICE = Settings(tries=2)
OVERRUNS: list[str] = []
"""Endless answers of which 200 MB were taken."""


def pull(store: ImageStore, address: str, path: str = "team/x:1", **options: Any) -> str:
    name = Reference.parse(f"{address}/{path}")
    transport = Transport(address, settings=options.pop("settings", TWICE), **options)
    return Puller(store, Gates()).pull(transport, name, quiet).image.id


def nothing_left(store: ImageStore) -> None:
    assert store.list() == [] and store.layers.list() == []
    assert list((store.layers.root / "tmp").iterdir()) == []


def endless(exchange: Exchange, status: int, **headers: str) -> bool:
    """An answer without an end, until the other side hangs up."""
    exchange.send_response(status)
    exchange.send_header("Transfer-Encoding", "chunked")
    for name, value in headers.items():
        exchange.send_header(name.replace("_", "-"), value)
    exchange.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(200):
            exchange.wfile.write(b"100000\r\n" + b"x" * (1 << 20) + b"\r\n")
        OVERRUNS.append(exchange.path)
    exchange.close_connection = True
    return True


@pytest.mark.parametrize(
    ("where", "status"),
    [("/manifests/", 200), ("/manifests/", 404), ("/manifests/", 503), ("/blobs/", 200), ("/blobs/", 500)],
)
def test_answers_without_an_end(
    new_store: NewStore, front: NewFront, registry: str, where: str, status: int
) -> None:
    stored(new_store, registry)
    server, store = (
        front(lambda exchange: where in exchange.path and endless(exchange, status)),
        new_store("two"),
    )
    with pytest.raises(errors.SampanError):
        pull(store, server.address)
    nothing_left(store)
    assert OVERRUNS == []


def test_tags_without_an_end(front: NewFront) -> None:
    """Each page says that there is another one."""
    numbers = itertools.count()

    def hook(exchange: Exchange) -> bool:
        page = json.dumps({"tags": [f"{next(numbers):0100}" for _ in range(30_000)]}).encode()
        return "/tags/" in exchange.path and exchange.answer(
            200, page, Link=f'</v2/team/x/tags/list?last={next(numbers)}>; rel="next"'
        )

    server = front(hook)
    with pytest.raises(errors.SystemFailure, match="does not end"):
        catalog.tags(Transport(server.address), Reference.parse(f"{server.address}/team/x"))
    assert len(server.requests) < 20


def test_tokens_without_an_end(new_store: NewStore, front: NewFront) -> None:
    def hook(exchange: Exchange) -> bool:
        if exchange.path.startswith("/token"):
            return endless(exchange, 200)
        return exchange.answer(401, WWW_Authenticate=f'Bearer realm="http://{exchange.server.address}/token"')

    with pytest.raises(errors.SampanError):
        pull(new_store("one"), front(hook).address)
    assert OVERRUNS == []


def test_another_host_is_not_answered(new_store: NewStore, front: NewFront, registry: str) -> None:
    """Where the registry redirects to asks for a password itself: it gets none."""
    stored(new_store, registry)
    place = ""
    storage = front(
        lambda exchange: exchange.answer(401, WWW_Authenticate=f'Bearer realm="{place}/token",service="x"')
    )
    place = f"http://localhost:{storage.server_address[1]}"
    tokens = TokenServer(100)
    server = front(
        tokens.hook,
        lambda exchange: "/blobs/" in exchange.path and exchange.answer(307, Location=place + exchange.path),
    )
    with pytest.raises(errors.SampanError):
        pull(new_store("two"), server.address, credentials=Credentials("me", SECRET))
    assert storage.requests and "authorization" not in {
        field.lower() for _, _, one in storage.requests for field in one
    }


@pytest.mark.parametrize(
    "layer",
    [
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
        {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"},
    ],
)
def test_foreign_layers(new_store: NewStore, front: NewFront, layer: dict[str, Any]) -> None:
    config = b'{"os": "windows", "rootfs": {"type": "layers", "diff_ids": ["sha256:' + b"0" * 64 + b'"]}}'
    entry = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", b"elsewhere") | layer
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, config),
        "layers": [entry],
    }

    def hook(exchange: Exchange) -> bool:
        if "/manifests/" in exchange.path:
            return exchange.answer(200, json.dumps(document).encode(), Content_Type=MANIFEST)
        return "/blobs/" in exchange.path and exchange.answer(200, config)

    server, store = front(hook, lambda exchange: exchange.answer(200)), new_store("one")
    with pytest.raises(errors.Unsupported, match=r"^layer sha256:\w+ is a foreign layer"):
        pull(store, server.address)
    assert not [path for _, path, _ in server.requests if path.endswith(entry["digest"])]
    nothing_left(store)


def test_a_connection_cut_at_every_tenth(new_store: NewStore, front: NewFront, registry: str) -> None:
    """Of each layer a tenth comes, then the connection ends; what came isn't asked for again."""
    identity = stored(new_store, registry, size=1_000_000).list()[0].id
    sent = []

    def tenth(exchange: Exchange) -> bool:
        if exchange.command != "GET" or "/blobs/" not in exchange.path:
            return False
        size = len(whole(registry, exchange.path))
        if size < 10_000:
            return False
        start = int(exchange.headers.get("Range", "bytes=0-")[6:-1])
        data = whole(registry, exchange.path)[start : start + size // 10 + 1]
        sent.append((start, len(data)))
        exchange.send_response(206 if start else 200)
        exchange.send_header("Content-Length", str(size - start))
        exchange.end_headers()
        exchange.wfile.write(data)
        exchange.close_connection = True
        return True

    store = new_store("two")
    assert pull(store, front(tenth).address) == identity
    assert len(sent) == 10 and all(one[0] + one[1] == two[0] for one, two in itertools.pairwise(sent))


def whole(registry: str, path: str) -> bytes:
    import urllib.request

    with urllib.request.urlopen(f"http://{registry}{path}") as answer:
        data: bytes = answer.read()
        return data


def test_a_full_disk_then_more_room(new_store: NewStore, registry: str, tmp_path: Path) -> None:
    identity = stored(new_store, registry, size=6 << 20).list()[0].id
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "smhf", small], check=True)
    try:
        blobs = BlobStore(small)
        store = ImageStore(Database(tmp_path / "db"), blobs, LayerStore(small, blobs))
        with pytest.raises(errors.SystemFailure, match="no space left on device") as caught:
            pull(store, registry)
        assert "prune" in str(caught.value.hint)
        nothing_left(store)
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        assert pull(store, registry) == identity
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_engine_killed_in_mid_pull_goes_on_where_it_was(
    new_store: NewStore, front: NewFront, registry: str, new_sampand: Any
) -> None:
    stored(new_store, registry, size=8 << 20)
    half = threading.Event()

    def slow(exchange: Exchange) -> bool:
        if "/blobs/" not in exchange.path or half.is_set():
            return False
        data = whole(registry, exchange.path)
        if len(data) < 100_000:
            return False
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(len(data)))
        exchange.end_headers()
        exchange.wfile.write(data[: len(data) // 2])
        half.set()
        with contextlib.suppress(OSError):
            exchange.connection.settimeout(100)
            exchange.connection.recv(1)
        exchange.close_connection = True
        return True

    server, daemon = front(slow), new_sampand()
    name = f"{server.address}/team/x:1"
    client = threading.Thread(target=lambda: daemon.docker("pull", name, check=False))
    client.start()
    assert half.wait(60)
    part = daemon.root / "ingest"
    deadline = time.monotonic() + 60
    while sum(path.stat().st_size for path in part.iterdir()) < 3 << 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    daemon.kill()
    client.join()
    daemon.start()
    server.requests.clear()
    assert "Downloaded newer image" in daemon.docker("pull", name).stdout
    [start] = [int(one["Range"][6:-1]) for _, _, one in server.requests if "Range" in one]
    assert start >= 3 << 20
    assert list(part.iterdir()) == []


@pytest.mark.parametrize("direction", ["pull", "push"])
def test_a_registry_killed_in_mid_transfer(
    new_store: NewStore, serve: Callable[..., Served], direction: str
) -> None:
    """It is back after a second: the transfer goes on."""
    served, one = serve(), new_store("one")
    name = Reference.parse(f"{served.address}/team/x:1")
    image = make_image(one, name, 6 << 20)
    if direction == "pull":
        push(one, Transport(name.domain), name, quiet)
    killed = []

    def away_for_a_second() -> None:
        served.kill()
        time.sleep(1)
        served.start()

    def restart(exchange: Exchange) -> bool:
        size = int(exchange.headers.get("Content-Length") or 0)
        big = (
            size > 1 << 20
            if direction == "push"
            else exchange.command == "GET" and "/blobs/" in exchange.path
        )
        if killed or not big:
            return False
        killed.append(True)
        threading.Timer(0.2, away_for_a_second).start()
        exchange.rfile.read(min(size, 1 << 20))
        time.sleep(0.4)
        exchange.close_connection = True
        return True

    server = Front(served.address, restart)
    try:
        there = Reference.parse(f"{server.address}/team/x:1")
        if direction == "pull":
            assert (
                Puller(new_store("two"), Gates()).pull(Transport(there.domain), there, quiet).image.id
                == image.id
            )
        else:
            one.tag(there, image.id)
            digest = push(one, Transport(there.domain), there, quiet).digest
            time.sleep(0.1)
            assert served.ask("HEAD", "/v2/team/x/manifests/1").headers["Docker-Content-Digest"] == digest
    finally:
        server.close()
    assert killed
