"""The registry client against what well-known registries do beside the specification: addresses, answers."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from sampan import errors
from sampan.images.reference import Reference
from sampan.registry import catalog
from sampan.registry.pull import Puller
from sampan.registry.push import push
from sampan.registry.transport import Transport
from sampan.storage.gates import Gates
from tests.registry.front import Exchange
from tests.registry.quirks import ME, pull, send, shown, tagged
from tests.registry.serving import CONFIG, INDEX, MANIFEST, Client
from tests.registry.test_client import NewFront, quiet, stored
from tests.registry.test_client import front as front
from tests.registry.test_pull_push import NewStore, make_image


def test_presigned_addresses(new_store: NewStore, front: NewFront, registry: str) -> None:
    """As S3 has them: for GET alone, and refusing any other way of saying who one is. Ranges work."""
    store = stored(new_store, registry, size=1_500_000)
    cut = iter([400_000])

    def storage_hook(exchange: Exchange) -> bool:
        if exchange.command != "GET" or "signature=abc" not in exchange.path:
            return exchange.answer(403)
        if shown(exchange):
            return exchange.answer(400, b"<Error><Code>InvalidArgument</Code></Error>")
        if not exchange.headers.get("Range") and (limit := next(cut, 0)):
            exchange.send_response(200)
            exchange.send_header("Content-Length", "1500000")
            exchange.end_headers()
            data = Client(registry).ask("GET", exchange.path.partition("?")[0]).data
            exchange.wfile.write(data[: min(limit, len(data) - 1)])
            exchange.close_connection = True
            return True
        return False

    storage = front(storage_hook)

    def hook(exchange: Exchange) -> bool:
        if not shown(exchange):
            return exchange.answer(401, WWW_Authenticate='Basic realm="r"')
        if "/blobs/sha256:" not in exchange.path:
            return False
        if exchange.command == "HEAD" and Client(registry).ask("HEAD", exchange.path).status == 404:
            return exchange.answer(404)
        place = f"http://localhost:{storage.server_address[1]}{exchange.path}?signature=abc"
        return exchange.answer(307, Location=place)

    server = front(hook)
    assert pull(new_store("two"), server.address, ME) == store.list()[0].id
    assert any("Range" in fields for _, _, fields in storage.requests)
    # A question that is sent on to where it is refused is no refusal of the registry.
    digest = send(store, server.address, ME, "team/x:2")
    assert tagged(registry, "/v2/team/x/manifests/2") == digest
    assert all("Authorization" not in fields for _, _, fields in storage.requests)


@pytest.mark.parametrize("status", [307, 308])
def test_writes_that_are_sent_on(new_store: NewStore, front: NewFront, registry: str, status: int) -> None:
    """To another host, which knows nothing of the password; the body goes along."""
    store = new_store("one")
    make_image(store, Reference.parse("team/x:1"), 300_000)
    other = front()
    place = f"http://localhost:{other.server_address[1]}"

    def hook(exchange: Exchange) -> bool:
        length = int(exchange.headers.get("Content-Length", 0))
        if not shown(exchange):
            exchange.rfile.read(length)
            return exchange.answer(401, WWW_Authenticate='Basic realm="r"')
        if exchange.command in ("POST", "PUT"):
            exchange.rfile.read(length)
            return exchange.answer(status, Location=place + exchange.path)
        return False

    digest = send(store, front(hook).address, ME)
    assert tagged(registry, "/v2/team/x/manifests/1") == digest
    assert {method for method, _, _ in other.requests} >= {"POST", "PUT"}
    assert all("Authorization" not in fields for _, _, fields in other.requests)


def test_uploads_at_another_address(new_store: NewStore, front: NewFront, registry: str) -> None:
    """Absolute, with a query of its own; and relative to the question."""
    store = new_store("one")
    make_image(store, Reference.parse("team/x:1"), 300_000)
    other = front()
    kinds = iter(["absolute", "relative"] * 10)

    def hook(exchange: Exchange) -> bool:
        if not shown(exchange):
            exchange.rfile.read(int(exchange.headers.get("Content-Length", 0)))
            return exchange.answer(401, WWW_Authenticate='Basic realm="r"')
        if exchange.command != "POST":
            return False
        begun = Client(registry).begin("team/x")
        begun = urlsplit(begun)._replace(scheme="", netloc="").geturl()
        if next(kinds) == "relative":
            return exchange.answer(202, Location=begun.rpartition("/")[2])
        path, _, state = begun.partition("?")
        place = f"http://localhost:{other.server_address[1]}{path}?{state}"
        return exchange.answer(202, Location=place)

    digest = send(store, front(hook).address, ME)
    assert tagged(registry, "/v2/team/x/manifests/1") == digest
    assert other.requests and all("Authorization" not in fields for _, _, fields in other.requests)


def test_uploads_in_the_open_are_refused() -> None:
    transport = Transport("registry.test")
    asked = "/v2/x/blobs/uploads/"
    with pytest.raises(errors.SystemFailure, match="wants uploads sent to http: refused") as caught:
        transport.place("http://registry.test/v2/x/blobs/uploads/1", asked)
    assert "X-Forwarded-Proto" in caught.value.hint
    assert transport.place("1?a=b", asked) == "https://registry.test/v2/x/blobs/uploads/1?a=b"
    assert transport.place("/up", asked) == "https://registry.test/up"


# -- what answers look like -----------------------------------------------------------------------------------


def without_digests(exchange: Exchange) -> bool:
    """The registry's answer without Docker-Content-Digest."""
    if "/manifests/" not in exchange.path or exchange.command == "PUT":
        return False
    answer = Client(exchange.server.upstream).ask("GET", exchange.path, Accept=f"{MANIFEST}, {INDEX}")
    return exchange.answer(answer.status, answer.data, Content_Type="text/plain; charset=utf-8")


def test_without_digests_and_odd_types(new_store: NewStore, front: NewFront, registry: str) -> None:
    identity = stored(new_store, registry).list()[0].id
    server, store = front(without_digests), new_store("two")
    for _ in range(2):
        assert pull(store, server.address) == identity
    assert Reference.parse(f"{server.address}/team/x:1").familiar in store.tags(identity)


def test_without_head(new_store: NewStore, front: NewFront, registry: str) -> None:
    identity = stored(new_store, registry).list()[0].id
    server, store = front(lambda one: one.command == "HEAD" and one.answer(405)), new_store("two")
    for _ in range(2):
        assert pull(store, server.address) == identity
    send(store, server.address, path="team/y:1")


def test_a_digest_that_is_not_the_manifests(new_store: NewStore, front: NewFront, registry: str) -> None:
    stored(new_store, registry)
    raw = Client(registry).ask("GET", "/v2/team/x/manifests/1", Accept=MANIFEST).data
    wrong = "sha256:" + "0" * 64
    server = front(
        lambda one: "/manifests/" in one.path and one.answer(200, raw, Docker_Content_Digest=wrong)
    )
    with pytest.raises(errors.SystemFailure, match=f"manifest verification failed for digest {wrong}"):
        pull(new_store("two"), server.address)


def test_a_policy_says_why(new_store: NewStore, front: NewFront) -> None:
    """Harbor's 412."""
    message = "current image with 3 vulnerabilities cannot be pulled due to configured policy"
    body = json.dumps({"errors": [{"code": "PROJECTPOLICYVIOLATION", "message": message}]}).encode()
    server = front(lambda one: "/manifests/" in one.path and one.answer(412, body))
    with pytest.raises(errors.SystemFailure, match=message):
        pull(new_store("one"), server.address)
    assert sum("/manifests/" in path for _, path, _ in server.requests) == 1


@pytest.mark.parametrize("status", [200, 202, 204])
def test_other_words_for_done(new_store: NewStore, front: NewFront, registry: str, status: int) -> None:
    """Quay and others don't say 201."""
    store = new_store("one")
    make_image(store, Reference.parse("team/x:1"), 10_000)

    def hook(exchange: Exchange) -> bool:
        if exchange.command != "PUT":
            return False
        data = exchange.rfile.read(int(exchange.headers["Content-Length"]))
        path = exchange.path.removeprefix(f"http://{exchange.server.address}")
        kind = exchange.headers.get("Content-Type", "")
        answer = Client(registry).ask("PUT", path, data, Content_Type=kind)
        assert answer.status == 201, answer.data
        return exchange.answer(status)

    digest = send(store, front(hook).address)
    assert tagged(registry, "/v2/team/x/manifests/1") == digest


def test_a_manifest_that_breaks_off_is_asked_for_again(
    new_store: NewStore, front: NewFront, registry: str
) -> None:
    identity = stored(new_store, registry).list()[0].id
    cuts = iter([10, 200])

    def hook(exchange: Exchange) -> bool:
        if "/manifests/" not in exchange.path or exchange.command == "HEAD" or not (cut := next(cuts, 0)):
            return False
        exchange.send_response(200)
        exchange.send_header("Content-Length", "700")
        exchange.end_headers()
        exchange.wfile.write(b"{" * cut)
        exchange.close_connection = True
        return True

    name = Reference.parse(f"{front(hook).address}/team/x:1")
    assert Puller(new_store("two"), Gates()).pull(Transport(name.domain), name, quiet).image.id == identity


@pytest.mark.parametrize("kind", ["416", "whole", "earlier"])
def test_ranges_that_are_not_what_was_asked_for(
    new_store: NewStore, front: NewFront, registry: str, kind: str
) -> None:
    identity = stored(new_store, registry, size=1_500_000).list()[0].id
    cut = iter([500_000])

    def hook(exchange: Exchange) -> bool:
        if exchange.command != "GET" or "/blobs/" not in exchange.path:
            return False
        data = Client(registry).ask("GET", exchange.path).data
        asked = exchange.headers.get("Range")
        if not asked:
            limit = next(cut, len(data)) if len(data) > 1_000_000 else len(data)
            exchange.send_response(200)
            exchange.send_header("Content-Length", str(len(data)))
            exchange.end_headers()
            exchange.wfile.write(data[:limit])
            exchange.close_connection = limit < len(data)
            return True
        if kind == "416":
            return exchange.answer(416)
        if kind == "whole":
            return exchange.answer(200, data)
        begin = int(asked[6:-1]) - 1000
        return exchange.answer(206, data[begin:], Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}")

    server = front(hook)
    assert pull(new_store("two"), server.address) == identity
    assert any("Range" in fields for _, _, fields in server.requests)


def test_warnings_are_told_once(new_store: NewStore, front: NewFront, registry: str) -> None:
    stored(new_store, registry)

    def hook(exchange: Exchange) -> bool:
        if "/manifests/" not in exchange.path or exchange.command == "HEAD":
            return False
        answer = Client(registry).ask("GET", exchange.path, Accept=MANIFEST)
        warning = '299 - "this registry ends in \\"May\\"", 299 - "and\x07 so on", 199 - "not this"'
        return exchange.answer(200, answer.data, Content_Type=MANIFEST, Warning=warning)

    lines: list[dict[str, Any]] = []
    name = Reference.parse(f"{front(hook).address}/team/x:1")
    Puller(new_store("two"), Gates()).pull(Transport(name.domain), name, lines.append)
    told = [line["status"] for line in lines if "Warning" in line.get("status", "")]
    assert told == ['Warning: this registry ends in "May"', "Warning: and so on"]


def test_a_layer_that_is_elsewhere_too(new_store: NewStore, front: NewFront, registry: str) -> None:
    """``urls`` of an ordinary layer are a hint, not the place to go to."""
    stored(new_store, registry)
    document = json.loads(Client(registry).ask("GET", "/v2/team/x/manifests/1", Accept=MANIFEST).data)
    document["layers"][0]["urls"] = ["http://127.0.0.1:1/layer"]
    raw = json.dumps(document).encode()
    server = front(lambda one: "/manifests/" in one.path and one.answer(200, raw, Content_Type=MANIFEST))
    assert pull(new_store("two"), server.address) == document["config"]["digest"]


def test_what_is_about_an_image_by_tags(new_store: NewStore, registry: str) -> None:
    """docker-registry 2.8 lists no referrers: who pushes notes them in an index, who asks reads that."""
    store = stored(new_store, registry)
    image = store.list()[0]
    document = json.loads(store.manifest(image))
    subject = {"mediaType": MANIFEST, "digest": image.manifest, "size": len(store.manifest(image))}
    name = Reference.parse(f"{registry}/team/x:about")
    made = []
    for number in (1, 2):
        raw = json.dumps({**document, "subject": subject, "annotations": {"n": str(number)}}).encode()
        about = store.add(store.blobs.read(image.id), manifest=raw)
        store.tag(name, about.id)
        made.append(push(store, Transport(registry), name, quiet).digest)
        push(store, Transport(registry), name, quiet)  # once more: no second note
    found = catalog.referrers(Transport(registry), name, image.manifest, "")
    assert [one["digest"] for one in found] == made
    assert found[0]["artifactType"] == document["config"]["mediaType"]
    assert found[1]["annotations"] == {"n": "2"}
    assert catalog.referrers(Transport(registry), name, image.manifest, "x/other") == []


def test_all_tags_of_a_repository_with_signatures(
    new_store: NewStore, registry: str, new_sampand: Any
) -> None:
    """As cosign and helm leave them; alone they are refused."""
    identity, client = stored(new_store, registry).list()[0].id, Client(registry)
    for number, kind in enumerate((CONFIG, "application/vnd.cncf.helm.config.v1+json")):
        config, layer = b'{"rootfs": {"type": "layers"}}', b'{"critical": {}}'
        layer_kind = "application/vnd.dev.cosign.simplesigning.v1+json"
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": kind, "digest": client.blob("team/x", config), "size": len(config)},
            "layers": [{"mediaType": layer_kind, "digest": client.blob("team/x", layer), "size": len(layer)}],
        }
        assert client.put("team/x", f"sha256-{number}.sig", json.dumps(document).encode()).status == 201
    daemon = new_sampand()
    out = daemon.docker("pull", "-a", f"{registry}/team/x").stdout
    assert out.count(f"Skipped {registry}/team/x:sha256-") == 2 and "Downloaded newer image" in out
    assert daemon.docker("images", "-q", "--no-trunc").stdout == f"{identity}\n"
    alone = daemon.docker("pull", f"{registry}/team/x:sha256-0.sig", check=False)
    assert alone.returncode == 1 and "is no image but holds application/vnd.dev.cosign" in alone.stderr
