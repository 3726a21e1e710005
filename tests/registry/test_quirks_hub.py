"""The registry client and Docker Hub, by a hub of our own behind a proxy; logins for builds."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sampan import errors
from sampan.engine.registries import login_for
from sampan.images.reference import Reference
from sampan.registry import catalog
from sampan.registry.auth import Credentials
from sampan.registry.pull import Puller
from sampan.registry.transport import Settings, Transport
from sampan.storage.gates import Gates
from tests.registry.front import Exchange, Front
from tests.registry.quirks import ME, give, pull, shown
from tests.registry.test_client import NewFront, quiet, stored
from tests.registry.test_client import front as front
from tests.registry.test_pull_push import NewStore
from tests.registry.test_server_access import certificate


class Tunnel:
    """A proxy that leads every CONNECT to one port of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.hosts: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._socket.accept()[0],), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        self.hosts.append(head.split()[1].decode())
        there = socket.create_connection(("127.0.0.1", self._port))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=_relay, args=(there, client), daemon=True).start()
        _relay(client, there)

    def close(self) -> None:
        self._socket.close()


def _relay(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def hub_certificate(folder: Path) -> tuple[Path, Path]:
    import subprocess

    cert, key = folder / "hub.crt", folder / "hub.key"
    names = "subjectAltName=DNS:registry-1.docker.io,DNS:auth.docker.io"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hub"
    )
    subprocess.run(
        [*command.split(), "-keyout", str(key), "-out", str(cert), "-addext", names],
        check=True,
        capture_output=True,
    )
    return cert, key


class Hub:
    """What Docker Hub does: tokens from another host, by scope; official images in library/; pulls are counted."""

    def __init__(self, limit: int = 100) -> None:
        self.left, self.limit = limit, limit
        self.scopes: list[str] = []

    def hook(self, exchange: Exchange) -> bool:
        path = urlsplit(exchange.path)
        if exchange.headers["Host"] == "auth.docker.io":
            query = parse_qs(path.query)
            assert path.path == "/token" and query["service"] == ["registry.docker.io"]
            self.scopes += query.get("scope", [])
            return give(exchange, " ".join(query.get("scope", ["none"])), expires_in=300)
        name = "/".join(path.path.split("/")[2:4])
        if shown(exchange) != f"Bearer repository:{name}:pull":
            ask = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io"'
            scope = f',scope="repository:{name}:pull"' if name.strip("/") else ""
            return exchange.answer(401, WWW_Authenticate=ask + scope)
        if "/manifests/" in path.path and exchange.command == "GET":
            if not self.left:
                body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}'
                limits = {"ratelimit_limit": f"{self.limit};w=21600", "docker_ratelimit_source": "192.0.2.1"}
                return exchange.answer(429, body, Retry_After="7200", **limits)
            self.left -= 1
        return False


@pytest.fixture
def hub(
    tmp_path: Path, registry: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Hub, Settings, Front]]:
    """A hub of our own in Docker Hub's place, behind a proxy that leads there."""
    hub = Hub()
    cert, key = hub_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = Front(registry, hub.hook)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    place = tmp_path / "certs" / "registry-1.docker.io"
    place.mkdir(parents=True)
    (place / "ca.crt").write_bytes(cert.read_bytes())
    tunnel = Tunnel(server.server_address[1])
    for variable in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{tunnel.address}")
    yield hub, Settings(certificates=(tmp_path / "certs",), tries=2), server
    tunnel.close()
    server.close()


def test_docker_hub(new_store: NewStore, registry: str, hub: tuple[Hub, Settings, Front]) -> None:
    service, settings, server = hub
    identity = stored(new_store, registry, "library/tools:1").list()[0].id
    store, name = new_store("two"), Reference.parse("tools:1")

    def once(login: Credentials | None = None) -> Any:
        return Puller(store, Gates()).pull(Transport(name.domain, login, settings), name, quiet)

    assert once().image.id == identity and service.left == 99
    assert service.scopes == ["repository:library/tools:pull"]
    server.requests.clear()
    # What is there costs no pull, and asks for nothing twice.
    assert not once().newer and service.left == 99
    assert [(method, urlsplit(path).path) for method, path, _ in server.requests] == [
        ("GET", "/token"),
        ("HEAD", "/v2/library/tools/manifests/1"),
    ]
    # Who logs in shows the password to the token server alone.
    server.requests.clear()
    once(ME)
    sent = {fields["Host"]: fields.get("Authorization", "").split()[0] for _, _, fields in server.requests}
    assert sent == {"auth.docker.io": "Basic", "registry-1.docker.io": "Bearer"}
    # The limit.
    service.left = 0
    assert not once().newer  # by HEAD
    store.delete(identity)
    with pytest.raises(errors.SystemFailure, match="toomanyrequests: You have reached") as caught:
        once()
    assert "pull 100 times in 6 hours. It ends in 2 hours. docker login raises it" in caught.value.hint


@pytest.mark.parametrize(
    ("domain", "user"),
    [("docker.io", "hub"), ("reg:5000", "plain"), ("ghcr.io", "url"), ("ghcr.io:443", ""), ("127.1", "")],
)
def test_logins_for_builds(domain: str, user: str) -> None:
    keys = {"https://index.docker.io/v1/": "hub", "reg:5000": "plain", "https://ghcr.io/v2/": "url"}
    auth = {key: {"username": name} for key, name in keys.items()}
    assert login_for(domain, auth) == ({"username": user} if user else {})


def test_a_mirror_of_presigned_addresses(
    front: NewFront, registry: str, serve: Callable[..., Any], new_store: NewStore
) -> None:
    """Its upstream sends even the question for a size on to where only GET is allowed."""
    identity = stored(new_store, registry, size=500_000).list()[0].id
    storage = front(lambda one: one.command == "HEAD" and one.answer(403))
    place = f"http://localhost:{storage.server_address[1]}"
    upstream = front(lambda one: "/blobs/" in one.path and one.answer(307, Location=place + one.path))
    mirror = serve("--mirror", f"http://{upstream.address}")
    assert pull(new_store("two"), mirror.address) == identity


def test_a_registry_that_wants_a_certificate(tmp_path: Path) -> None:
    """``client.cert`` and ``client.key`` beside the CA, as Docker has them; a key alone or junk is named."""
    mine, key = certificate(tmp_path, "me")
    cert, server_key = certificate(tmp_path, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, server_key)
    context.load_verify_locations(mine)
    context.verify_mode = ssl.CERT_REQUIRED
    server = Front("", lambda one: one.answer(200, b'{"name": "x", "tags": ["1"]}'))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    place = tmp_path / "certs" / server.address
    place.mkdir(parents=True)
    settings = Settings(certificates=(tmp_path / "certs",), tries=1)
    name = Reference.parse(f"{server.address}/x")

    def tags() -> list[str]:
        return catalog.tags(Transport(server.address, settings=settings), name)

    try:
        with pytest.raises(errors.SystemFailure):
            tags()
        (place / "client.cert").write_bytes(mine.read_bytes())
        with pytest.raises(errors.SystemFailure, match=f"can't use the certificates for {server.address}"):
            tags()
        (place / "client.key").write_bytes(key.read_bytes())
        assert tags() == ["1"]
        (place / "ca.crt").write_text("no certificate")
        with pytest.raises(errors.SystemFailure, match=f"can't use the certificates for {server.address}"):
            tags()
    finally:
        server.close()
