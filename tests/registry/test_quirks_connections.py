"""The registry client's connections: kept, restarted, through proxies; insecure networks by name."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sampan import errors
from sampan.images.reference import Reference
from sampan.registry import catalog
from sampan.registry.pull import Puller
from sampan.registry.transport import Settings, Transport
from sampan.storage.gates import Gates
from tests.registry.test_client import NewFront, quiet, stored
from tests.registry.test_client import front as front
from tests.registry.test_pull_push import NewStore


def test_connections_are_kept(
    new_store: NewStore, front: NewFront, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the certificates for the host are the same."""
    stored(new_store, registry)
    server, store = front(), new_store("two")
    settings = Settings(certificates=(new_store("x").blobs.root / "certs",))
    name = Reference.parse(f"{server.address}/team/x:1")

    def once() -> None:
        Puller(store, Gates()).pull(Transport(name.domain, None, settings), name, quiet)

    once()
    begun = server.connections
    for _ in range(5):
        once()
    assert server.connections == begun
    folder = settings.certificates[0] / server.address
    folder.mkdir(parents=True)
    (folder / "readme").write_text("changed")
    once()
    assert server.connections > begun
    begun = server.connections
    settings.hosts.drop_idle()
    once()
    assert server.connections == begun and settings.hosts.bases
    monkeypatch.setattr("sampan.registry.hosts.LIFE", 0.0)
    settings.hosts.drop_idle()
    assert not settings.hosts.bases
    once()
    assert server.connections > begun


def test_a_registry_that_was_restarted(serve: Callable[..., Any]) -> None:
    """A kept connection that ended meanwhile is no trouble, and costs no pause."""
    served, settings = serve(), Settings(tries=2)
    served.image("x", "1")
    took = []
    for _ in range(5):
        begun = time.monotonic()
        transport = Transport(served.address, settings=settings)
        assert transport.request("HEAD", "/v2/x/manifests/1", "").status == 200
        took.append(time.monotonic() - begun)
        served.kill()
        served.start()
    assert min(took[1:]) < 0.2, "the shortest pause"  # a busy machine may need longer now and then


def test_a_name_within_an_insecure_network(registry: str, new_store: NewStore) -> None:
    identity = stored(new_store, registry).list()[0].id
    port = registry.rpartition(":")[2]
    name = Reference("127.1", "team/x", "1")
    # no address, but it lies in 127.0.0.0/8
    for networks, fine in (((), False), (("127.0.0.0/8",), True), (("10.0.0.0/8",), True)):
        transport = Transport(f"127.1:{port}", settings=Settings(insecure=networks, tries=1))
        puller = Puller(new_store(f"s{len(networks)}{fine}"), Gates())
        if fine:
            assert puller.pull(transport, name, quiet).image.id == identity
        else:
            with pytest.raises(errors.SystemFailure, match="HTTP response to HTTPS client"):
                puller.pull(transport, name, quiet)


def test_proxies_of_the_configuration(
    new_store: NewStore, front: NewFront, registry: str, new_sampand: Any, tmp_path: Path
) -> None:
    stored(new_store, registry)
    proxy = front()
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"proxies": {"http-proxy": f"http://me:secret@{proxy.address}"}}))
    daemon = new_sampand(
        "--config-file", str(file), "--insecure-registry", "registry.test:5000", "--no-proxy=x"
    )
    assert "Downloaded newer image" in daemon.docker("pull", "registry.test:5000/team/x:1").stdout
    assert all(
        path.startswith("http://registry.test:5000/") for method, path, _ in proxy.requests if method == "GET"
    )
    info = daemon.json("GET", "/info")
    assert (info["HttpProxy"], info["NoProxy"]) == (f"http://xxxxx:xxxxx@{proxy.address}", "x")
    assert "secret" not in json.dumps(info)


def test_a_proxy_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(errors.SystemFailure) as caught:
        catalog.tags(Transport("registry.test"), Reference.parse("registry.test/x"))
    wanted = "proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused"
    assert caught.value.message == f'Get "https://registry.test/v2/": {wanted}'
    assert "NO_PROXY" in caught.value.hint
