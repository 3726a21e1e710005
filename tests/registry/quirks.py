"""The registry client as its tests use it, and what their registries answer."""

from __future__ import annotations

import contextlib
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sampan.images.reference import Reference
from sampan.images.store import ImageStore
from sampan.registry.auth import Credentials
from sampan.registry.pull import Puller
from sampan.registry.push import push
from sampan.registry.transport import Settings, Transport
from sampan.storage.gates import Gates
from tests.registry.front import Exchange, Front
from tests.registry.serving import MANIFEST, Client
from tests.registry.test_client import quiet
from tests.registry.test_server_access import certificate

ME = Credentials("me", "open sesame")


def pull(store: ImageStore, address: str, login: Credentials | None = None, **options: Any) -> str:
    name = Reference.parse(f"{address}/team/x:1")
    return (
        Puller(store, Gates())
        .pull(Transport(address, login, Settings(tries=2)), name, quiet, **options)
        .image.id
    )


def send(store: ImageStore, address: str, login: Credentials | None = None, path: str = "team/x:1") -> str:
    """Push the image that the store has, with all its blobs; its digest."""
    name = Reference.parse(f"{address}/{path}")
    store.tag(name, store.list()[0].id)
    return push(store, Transport(address, login, Settings(tries=2)), name, quiet).digest


def tagged(registry: str, path: str) -> str:
    """The digest that a tag stands for."""
    return Client(registry).ask("HEAD", path, Accept=MANIFEST).headers["Docker-Content-Digest"]


def shown(exchange: Exchange) -> str:
    return exchange.headers.get("Authorization", "")


def give(exchange: Exchange, token: str, **more: Any) -> bool:
    return exchange.answer(200, json.dumps({"token": token, **more}).encode())


@contextlib.contextmanager
def tls_front(
    folder: Path, name: str, *hooks: Callable[[Exchange], Any], upstream: str = ""
) -> Iterator[Front]:
    """A server with TLS, its certificate laid down in ``folder``/certs for its address and for ``name``."""
    cert, key = certificate(folder, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = Front(upstream, *hooks)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    for host in (server.address, name):
        place = folder / "certs" / host
        place.mkdir(parents=True)
        (place / "ca.crt").write_bytes(cert.read_bytes())
    try:
        yield server
    finally:
        server.close()
