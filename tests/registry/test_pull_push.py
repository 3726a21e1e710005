"""Push to and pull from Debian's docker-registry, through connections that break and content that lies."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan import errors
from sampan.images import transfer
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore
from sampan.registry.pull import Puller
from sampan.registry.push import push
from sampan.registry.transport import Transport
from sampan.storage.gates import Gates
from tests.registry.conftest import free_port
from tests.tars import tar_of

NewStore = Callable[[str], ImageStore]


def make_image(store: ImageStore, name: Reference, size: int = 300_000) -> Image:
    archive = tar_of({"f": os.urandom(size)})
    return transfer.import_tar(store, io.BytesIO(archive).read, transfer.ImportOptions(name=name))


def test_what_is_pushed_is_what_is_pulled(new_store: NewStore, registry: str) -> None:
    one, two = new_store("one"), new_store("two")
    name = Reference.parse(f"{registry}/team/x:1")
    image = make_image(one, name)
    lines: list[dict[str, Any]] = []
    pushed = push(one, Transport(name.domain), name, lines.append)
    assert {"Tag": "1", "Digest": pushed.digest, "Size": pushed.size} in [line.get("aux") for line in lines]
    again: list[dict[str, Any]] = []
    assert push(one, Transport(name.domain), name, again.append).digest == pushed.digest
    assert "Layer already exists" in [line.get("status") for line in again]
    pulled_lines: list[dict[str, Any]] = []
    pulled = Puller(two, Gates()).pull(Transport(name.domain), name, pulled_lines.append)
    assert (pulled.image.id, pulled.digest, pulled.newer) == (image.id, pushed.digest, True)
    statuses = [line["status"] for line in pulled_lines]
    assert statuses[0] == "Pulling from team/x"
    assert statuses[-1] == f"Status: Downloaded newer image for {name.familiar}"
    assert "Pull complete" in statuses and "Downloading" in statuses
    assert two.get(f"{registry}/team/x@{pushed.digest}").id == image.id
    assert Puller(two, Gates()).pull(Transport(name.domain), name, lambda _: None).newer is False
    # A pulled image goes out as it came.
    assert push(two, Transport(name.domain), name, lambda _: None).digest == pushed.digest


def test_missing_names_and_absent_registries(new_store: NewStore, registry: str) -> None:
    store = new_store("one")
    name = Reference.parse(f"{registry}/nosuch:1")
    with pytest.raises(errors.NotFound, match=r"manifest for .*/nosuch:1 not found: manifest unknown: "):
        Puller(store, Gates()).pull(Transport(name.domain), name, lambda _: None)
    with pytest.raises(errors.NotFound, match="An image does not exist locally with the tag"):
        push(store, Transport(name.domain), name, lambda _: None)
    gone = f"127.0.0.1:{free_port()}"
    with pytest.raises(errors.SystemFailure, match=r'^Get "http://.*/v2/": dial tcp .* refused$'):
        Puller(store, Gates()).pull(Transport(gone), Reference.parse(f"{gone}/x"), lambda _: None)
    assert store.list() == []


class Cutter:
    """A TCP relay to the registry that breaks connections after so many bytes of answers."""

    def __init__(self, upstream: str, limit: int) -> None:
        host, _, port = upstream.partition(":")
        self._upstream, self._limit = (host, int(port)), limit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._upstream)
            threading.Thread(target=self._relay, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._relay, args=(server, client, self._limit), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, limit: int | None) -> None:
        left = limit
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                target.sendall(data if left is None else data[:left])
                if left is not None:
                    left -= len(data)
                    if left <= 0:
                        self.cuts += 1
                        break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def cutter(registry: str) -> Iterator[Cutter]:
    relay = Cutter(registry, 400_000)
    yield relay
    relay.close()


def test_broken_connections_are_taken_up(new_store: NewStore, registry: str, cutter: Cutter) -> None:
    one, two = new_store("one"), new_store("two")
    name = Reference.parse(f"{registry}/big:1")
    image = make_image(one, name, 3_000_000)
    push(one, Transport(name.domain), name, lambda _: None)
    there = Reference.parse(f"{cutter.address}/big:1")
    pulled = Puller(two, Gates()).pull(Transport(there.domain), there, lambda _: None)
    assert pulled.image.id == image.id
    assert cutter.cuts >= 7
    assert list((two.blobs.root / "ingest").iterdir()) == []


def test_a_layer_that_is_not_what_its_digest_says(new_store: NewStore, registry: str, tmp_path: Path) -> None:
    one, two = new_store("one"), new_store("two")
    name = Reference.parse(f"{registry}/lie:1")
    image = make_image(one, name)
    push(one, Transport(name.domain), name, lambda _: None)
    layer = json.loads(one.manifest(one.get(image.id)))["layers"][0]["digest"].partition(":")[2]
    [data] = (tmp_path / "registry").rglob(f"{layer}/data")
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(errors.SampanError):
        Puller(two, Gates()).pull(Transport(name.domain), name, lambda _: None)
    assert two.list() == [] and two.layers.list() == []
    assert list((two.layers.root / "tmp").iterdir()) == []
