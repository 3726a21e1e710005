"""The registry client against what well-known registries do beside the specification: hubs, clouds, proxies."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sampan import errors
from sampan.engine.registries import login_for
from sampan.images.reference import Reference
from sampan.images.store import ImageStore
from sampan.registry import catalog
from sampan.registry.auth import Credentials, challenges
from sampan.registry.pull import Puller
from sampan.registry.push import push
from sampan.registry.transport import Settings, Transport
from sampan.storage.gates import Gates
from tests.registry.front import Exchange, Front
from tests.registry.serving import CONFIG, INDEX, MANIFEST, Client
from tests.registry.test_client import NewFront, quiet, stored
from tests.registry.test_client import front as front
from tests.registry.test_pull_push import NewStore, make_image
from tests.registry.test_server_access import certificate, users

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


# -- who asks how --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ('Bearer realm="a",service="b"', [("bearer", {"realm": "a", "service": "b"})]),
        ("bearer Realm=a , service = b", [("bearer", {"realm": "a", "service": "b"})]),
        (
            'Basic realm="x, y=\\"z\\"", Bearer realm="https://t/a?b=c,d",scope="r:x:pull,push"',
            [
                ("basic", {"realm": 'x, y="z"'}),
                ("bearer", {"realm": "https://t/a?b=c,d", "scope": "r:x:pull,push"}),
            ],
        ),
        ('Negotiate, Basic realm="x"', [("negotiate", {}), ("basic", {"realm": "x"})]),
        ("", []),
    ],
)
def test_challenges(field: str, found: list[tuple[str, dict[str, str]]]) -> None:
    assert challenges(field) == found


def give(exchange: Exchange, token: str, **more: Any) -> bool:
    return exchange.answer(200, json.dumps({"token": token, **more}).encode())


def test_two_challenges_in_one_answer(new_store: NewStore, front: NewFront, registry: str) -> None:
    """A registry that takes passwords and tokens: the token is got, at the realm of its own challenge."""
    identity = stored(new_store, registry).list()[0].id

    def hook(exchange: Exchange) -> bool:
        if exchange.path.startswith("/token"):
            return give(exchange, "t")
        both = f'Basic realm="http://127.0.0.1:1/no", Bearer realm="http://{exchange.server.address}/token"'
        return shown(exchange) != "Bearer t" and exchange.answer(401, WWW_Authenticate=both)

    assert pull(new_store("two"), front(hook).address, ME) == identity


def test_a_password_after_a_token(new_store: NewStore, front: NewFront, registry: str) -> None:
    """Harbor asks for a password where a token doesn't reach."""
    identity = stored(new_store, registry).list()[0].id

    def hook(exchange: Exchange) -> bool:
        if exchange.path.startswith("/token"):
            return give(exchange, "weak")
        if shown(exchange) == "Bearer weak":
            return exchange.answer(401, WWW_Authenticate='Basic realm="harbor"')
        ask = f'Bearer realm="http://{exchange.server.address}/token"'
        return not shown(exchange).startswith("Basic ") and exchange.answer(401, WWW_Authenticate=ask)

    assert pull(new_store("two"), front(hook).address, ME) == identity


def test_a_token_for_two_repositories(new_store: NewStore, front: NewFront, registry: str) -> None:
    """The challenge names the first repository alone; a mount needs both."""
    store = stored(new_store, registry, size=2_000_000)
    asked: list[list[str]] = []

    def hook(exchange: Exchange) -> bool:
        if exchange.path.startswith("/token"):
            query = parse_qs(urlsplit(exchange.path).query)
            assert query["account"] == ["me"] and query["service"] == ["s"]
            asked.append(query.get("scope", []))
            return give(exchange, base64.b64encode(json.dumps(query.get("scope", [])).encode()).decode())
        allowed = base64.b64decode(shown(exchange).removeprefix("Bearer ")).decode()
        wanted = ["team/x:pull"] if "mount=" in exchange.path else []
        if allowed and all(one in allowed for one in [*wanted, "other/y:pull,push"]):
            return False
        ask = f'Bearer realm="http://{exchange.server.address}/token",service="s",scope="repository:other/y:pull"'
        return exchange.answer(401, WWW_Authenticate=ask)

    server = front(hook)
    name = Reference.parse(f"{server.address}/other/y:1")
    store.add_digest(
        Reference.parse(f"{server.address}/team/x"), store.list()[0].manifest, store.list()[0].id
    )
    store.tag(name, store.list()[0].id)
    lines: list[dict[str, Any]] = []
    push(store, Transport(server.address, ME), name, lines.append)
    assert "Mounted from team/x" in [line.get("status") for line in lines]
    assert ["repository:other/y:pull,push", "repository:team/x:pull"] in asked


def test_a_token_for_the_registry_itself(front: NewFront, new_store: NewStore, registry: str) -> None:
    identity = stored(new_store, registry).list()[0].id
    ask = 'Bearer realm="http://127.0.0.1:1/token"'
    server = front(lambda one: shown(one) != "Bearer given" and one.answer(401, WWW_Authenticate=ask))
    assert pull(new_store("two"), server.address, Credentials(registry_token="given")) == identity
    with pytest.raises(errors.NotFound, match="pull access denied"):
        pull(new_store("three"), server.address, Credentials(registry_token="other"))


def test_a_token_server_that_is_busy_moved_or_away(
    new_store: NewStore, front: NewFront, registry: str
) -> None:
    identity = stored(new_store, registry).list()[0].id
    busy = iter([503, 429])
    tokens = front(
        lambda one: bool(status := next(busy, 0)) and one.answer(status, Retry_After="0"),
        lambda one: (
            one.path.startswith("/old") and one.answer(301, Location=one.path.replace("/old", "/new"))
        ),
        lambda one: shown(one).startswith("Basic ") and give(one, "t"),
        lambda one: one.answer(401),
    )
    realm = [f"http://{tokens.address}/old?x=y"]
    server = front(
        lambda one: (
            shown(one) != "Bearer t" and one.answer(401, WWW_Authenticate=f'Bearer realm="{realm[0]}"')
        )
    )
    assert pull(new_store("two"), server.address, ME) == identity
    assert all(path.startswith("/old?x=y&") for _, path, _ in tokens.requests[:3])
    with socket.create_server(("127.0.0.1", 0)) as free:
        realm[0] = f"http://127.0.0.1:{free.getsockname()[1]}/token"
    with pytest.raises(errors.SystemFailure, match=rf'^Get "{realm[0]}": dial tcp .* refused'):
        pull(new_store("three"), server.address, ME)


def test_tokens_are_renewed_before_they_end(front: NewFront, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is asked once gets a token at once the next time, and one that is about to end is none."""
    numbers = iter(range(100))

    def hook(exchange: Exchange) -> bool:
        if exchange.path.startswith("/token"):
            return give(exchange, f"t{next(numbers)}", expires_in=1)
        if not shown(exchange):
            ask = f'Bearer realm="http://{exchange.server.address}/token"'
            return exchange.answer(401, WWW_Authenticate=ask)
        return exchange.answer(200)

    server, settings = front(hook), Settings()
    for _ in range(2):
        Transport(server.address, ME, settings).request("GET", "/v2/a/tags/list", "repository:a:pull")
    asked = [urlsplit(path).path for _, path, _ in server.requests]
    assert asked == ["/v2/", "/v2/a/tags/list", "/token", "/v2/a/tags/list", "/token", "/v2/a/tags/list"]
    monkeypatch.setattr("sampan.registry.auth._SHORTEST", 1)
    transport = Transport(server.address, ME, settings)
    for _ in range(2):  # a second is within the margin: each request has a token of its own
        transport.request("GET", "/v2/a/tags/list", "repository:a:pull")
    assert len({one["Authorization"] for _, _, one in server.requests if "Authorization" in one}) >= 3


def test_a_registry_with_tls_gets_no_password_sent_in_the_open(tmp_path: Path) -> None:
    ask = 'Bearer realm="http://127.0.0.1:1/token"'
    with tls_front(tmp_path, "registry.test", lambda one: one.answer(401, WWW_Authenticate=ask)) as server:
        trusted = Settings(certificates=(tmp_path / "certs",), tries=1)
        with pytest.raises(errors.SystemFailure, match="password sent in the open"):
            Transport(server.address, ME, trusted).log_in()


def test_passwords_beyond_ascii(
    new_store: NewStore,
    serve: Callable[..., Any],
    tmp_path: Path,
    front: NewFront,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In UTF-8, also for a proxy, whose URL has them escaped."""
    served = serve("--htpasswd", str(users(tmp_path, zoë="пароль€ß:@")))
    store = new_store("one")
    make_image(store, Reference.parse("team/x:1"), 10_000)
    send(store, served.address, Credentials("zoë", "пароль€ß:@"))
    with pytest.raises(errors.NotFound, match="push access denied"):
        send(store, served.address, Credentials("zoë", "пароль€ß"))
    proxy = front(lambda one: one.answer(200))
    monkeypatch.setenv("HTTP_PROXY", f"http://zo%C3%AB:%3A%40%E2%82%AC@{proxy.address}")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.delenv("no_proxy", raising=False)
    Transport("registry.test:5000", settings=Settings(insecure=("registry.test:5000",))).request(
        "GET", "/v2/", ""
    )
    field = next(fields["Proxy-Authorization"] for method, _, fields in proxy.requests if method == "GET")
    assert base64.b64decode(field.removeprefix("Basic ")).decode() == "zoë::@€"


# -- where content lies ---------------------------------------------------------------------------------------


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


# -- connections ----------------------------------------------------------------------------------------------


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
    for _ in range(3):
        begun = time.monotonic()
        transport = Transport(served.address, settings=settings)
        assert transport.request("HEAD", "/v2/x/manifests/1", "").status == 200
        assert time.monotonic() - begun < 2
        served.kill()
        served.start()


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


# -- Docker Hub -----------------------------------------------------------------------------------------------


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
