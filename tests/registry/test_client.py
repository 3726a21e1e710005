"""The registry client against registries that ask for tokens, limit, redirect, break off and lie."""

from __future__ import annotations

import base64
import email.utils
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sampan import errors
from sampan.images.reference import Reference
from sampan.images.store import ImageStore
from sampan.proxies import Proxies
from sampan.registry import catalog
from sampan.registry.auth import Credentials
from sampan.registry.pull import Puller
from sampan.registry.push import push
from sampan.registry.transport import Settings, Transport
from sampan.storage.gates import Gates
from tests.registry.front import Exchange, Front, Hook
from tests.registry.test_pull_push import NewStore, make_image

NewFront = Callable[..., Front]
SECRET = "open sesame"


@pytest.fixture
def front(registry: str) -> Iterator[NewFront]:
    """Makes servers before Debian's registry."""
    made: list[Front] = []

    def make(*hooks: Hook) -> Front:
        made.append(Front(registry, *hooks))
        return made[-1]

    yield make
    for one in made:
        one.close()


def quiet(_: dict[str, Any]) -> None:
    """A report that nobody reads."""


def stored(new_store: NewStore, registry: str, path: str = "team/x:1", size: int = 300_000) -> ImageStore:
    """A store with an image that the registry has, too."""
    store = new_store("pusher")
    name = Reference.parse(f"{registry}/{path}")
    make_image(store, name, size)
    push(store, Transport(name.domain), name, quiet)
    return store


class TokenServer:
    """Asks for tokens that are good for ``uses`` requests, and gives them for the password or a refresh token."""

    def __init__(self, uses: int) -> None:
        self._uses, self._numbers = uses, itertools.count()
        self._left: dict[str, int] = {}
        self.scopes: list[list[str]] = []
        self.forms: list[dict[str, list[str]]] = []

    def hook(self, exchange: Exchange) -> bool:
        if exchange.path.startswith("/token"):
            return self._give(exchange)
        token = exchange.headers.get("Authorization", "").removeprefix("Bearer ")
        if self._left.get(token, 0) > 0:
            self._left[token] -= 1
            return False
        length = int(exchange.headers.get("Content-Length", 0))
        exchange.rfile.read(length)
        path = urlsplit(exchange.path).path.split("/")
        scope = f',scope="repository:{"/".join(path[2:4])}:pull,push"' if len(path) > 4 else ""
        realm = f"http://{exchange.server.address}/token"
        return exchange.answer(401, WWW_Authenticate=f'Bearer realm="{realm}",service="reg"{scope}')

    def _give(self, exchange: Exchange) -> bool:
        if exchange.command == "POST":
            form = parse_qs(exchange.rfile.read(int(exchange.headers["Content-Length"])).decode())
            self.forms.append(form)
            allowed = form["refresh_token"] == ["for ever"]
        else:
            query = parse_qs(urlsplit(exchange.path).query)
            self.scopes.append(query.get("scope", []))
            pair = base64.b64encode(f"me:{SECRET}".encode()).decode()
            allowed = exchange.headers.get("Authorization") == f"Basic {pair}"
        if not allowed:
            return exchange.answer(401)
        token = f"t{next(self._numbers)}"
        self._left[token] = self._uses
        answer = {"access_token": token}
        if "offline_token=true" in exchange.path:
            answer["refresh_token"] = "for ever"
        return exchange.answer(200, json.dumps(answer).encode())


@pytest.mark.parametrize("uses", [1, 2, 1000])
def test_tokens_that_run_out_in_mid_transfer(
    new_store: NewStore, front: NewFront, registry: str, uses: int
) -> None:
    tokens = TokenServer(uses)
    address = front(tokens.hook).address
    name = Reference.parse(f"{address}/team/x:1")
    store, two = new_store("one"), new_store("two")
    image = make_image(store, name, 3_000_000)
    login = Credentials("me", SECRET)
    push(store, Transport(address, login), name, quiet)
    assert Puller(two, Gates()).pull(Transport(address, login), name, quiet).image.id == image.id
    assert ["repository:team/x:pull,push"] in tokens.scopes
    third = new_store("three")
    by_token = Transport(address, Credentials(identity_token="for ever"))
    assert Puller(third, Gates()).pull(by_token, name, quiet).image.id == image.id
    assert tokens.forms[0]["grant_type"] == ["refresh_token"]


def test_a_wrong_password_is_said_and_never_shown(new_store: NewStore, front: NewFront) -> None:
    address = front(TokenServer(9).hook).address
    name = Reference.parse(f"{address}/team/x:1")
    for login in (Credentials("me", "wrong-password"), Credentials(identity_token="wrong-token")):
        with pytest.raises(errors.Unauthorized, match="incorrect username or password") as caught:
            Puller(new_store("one"), Gates()).pull(Transport(address, login), name, quiet)
        assert "wrong" not in str(caught.value) and "wrong" not in repr(login)


def test_logging_in(front: NewFront) -> None:
    address = front(TokenServer(9).hook).address
    assert Transport(address, Credentials("me", SECRET)).log_in() == "for ever"
    with pytest.raises(errors.Unauthorized, match=f'^Get "http://{address}/v2/": unauthorized: incorrect'):
        Transport(address, Credentials("me", "no")).log_in()


def test_a_limit_that_ends_soon_is_waited_for(new_store: NewStore, front: NewFront, registry: str) -> None:
    image_id = stored(new_store, registry).list()[0].id
    refusals = iter([True, True])

    def limit(exchange: Exchange) -> bool:
        return (
            "/manifests/" in exchange.path and next(refusals, False) and exchange.answer(429, Retry_After="0")
        )

    address = front(limit).address
    name = Reference.parse(f"{address}/team/x:1")
    assert Puller(new_store("two"), Gates()).pull(Transport(address), name, quiet).image.id == image_id


def test_a_limit_that_lasts_is_explained(new_store: NewStore, front: NewFront) -> None:
    body = b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}]}'
    headers = {
        "Retry_After": email.utils.formatdate(time.time() + 3 * 3600, usegmt=True),
        "ratelimit_limit": "100;w=21600",
        "docker_ratelimit_source": "192.0.2.7",
    }
    address = front(
        lambda exchange: "/manifests/" in exchange.path and exchange.answer(429, body, **headers)
    ).address
    with pytest.raises(errors.SystemFailure, match="You have reached your pull rate limit") as caught:
        Puller(new_store("one"), Gates()).pull(Transport(address), Reference.parse(f"{address}/x:1"), quiet)
    assert caught.value.hint == (
        "The registry lets this address pull 100 times in 6 hours. It ends in 3 hours. docker login raises it; "
        "so does a mirror (registry-mirrors)."
    )


def test_another_host_gets_no_credentials(new_store: NewStore, front: NewFront, registry: str) -> None:
    image_id = stored(new_store, registry).list()[0].id
    storage = front()

    def redirect(exchange: Exchange) -> bool:
        if "/blobs/" not in exchange.path:
            return False
        return exchange.answer(307, Location=f"http://localhost:{storage.server_address[1]}{exchange.path}")

    tokens = TokenServer(100)
    address = front(tokens.hook, redirect).address
    name = Reference.parse(f"{address}/team/x:1")
    login = Credentials("me", SECRET)
    assert Puller(new_store("two"), Gates()).pull(Transport(address, login), name, quiet).image.id == image_id
    assert "authorization" not in {field.lower() for _, _, one in storage.requests for field in one}
    assert storage.requests


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/v2/again"])
def test_redirects_in_a_loop_or_to_elsewhere(new_store: NewStore, front: NewFront, target: str) -> None:
    address = front(
        lambda exchange: exchange.path != "/v2/" and exchange.answer(302, Location=target)
    ).address
    with pytest.raises(errors.SystemFailure, match="redirects"):
        Puller(new_store("one"), Gates()).pull(Transport(address), Reference.parse(f"{address}/x:1"), quiet)


@pytest.mark.parametrize("bytes_of_it", range(200_000, 3_000_000, 700_000))
def test_an_upload_that_breaks_is_taken_up(
    new_store: NewStore, front: NewFront, registry: str, bytes_of_it: int
) -> None:
    breaks = iter([True])

    def cut(exchange: Exchange) -> bool:
        big = int(exchange.headers.get("Content-Length", 0)) > 1_000_000
        if exchange.command != "PUT" or not big or not next(breaks, False):
            return False
        exchange.relay(limit=bytes_of_it)
        return True

    relay = front(cut)
    name = Reference.parse(f"{relay.address}/team/x:1")
    image = make_image(new_store("one"), name, 3_000_000)
    pushed = push(new_store("one"), Transport(relay.address), name, quiet)
    methods = [method for method, path, _ in relay.requests if "/blobs/uploads/" in path]
    assert methods.count("PUT") >= 2 and "GET" in methods
    there = Reference.parse(f"{registry}/team/x:1")
    pulled = Puller(new_store("two"), Gates()).pull(Transport(registry), there, quiet)
    assert (pulled.image.id, pulled.digest) == (image.id, pushed.digest)


def test_a_layer_is_mounted_from_another_repository(
    new_store: NewStore, front: NewFront, registry: str
) -> None:
    store = stored(new_store, registry, size=2_000_000)
    other = Reference.parse(f"{registry}/other/y:2")
    store.tag(other, store.list()[0].id)
    lines: list[dict[str, Any]] = []
    push(store, Transport(registry), other, lines.append)
    assert "Mounted from team/x" in [line.get("status") for line in lines]
    assert (
        Puller(new_store("two"), Gates()).pull(Transport(registry), other, quiet).image.id
        == store.list()[0].id
    )


def test_tags_come_in_pages(front: NewFront) -> None:
    def pages(exchange: Exchange) -> bool:
        if "/tags/list" not in exchange.path:
            return False
        last = parse_qs(urlsplit(exchange.path).query).get("last", ["0"])[0]
        tags = [str(int(last) + number) for number in (1, 2)]
        link = {} if last == "4" else {"Link": f'</v2/team/x/tags/list?n=2&last={tags[-1]}>; rel="next"'}
        return exchange.answer(200, json.dumps({"name": "team/x", "tags": tags}).encode(), **link)

    address = front(pages).address
    assert catalog.tags(Transport(address), Reference.parse(f"{address}/team/x")) == [
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
    ]

    def elsewhere(exchange: Exchange) -> bool:
        return "/tags/list" in exchange.path and exchange.answer(
            200, b'{"tags": []}', Link='<http://169.254.169.254/latest>; rel="next"'
        )

    address = front(elsewhere).address
    with pytest.raises(errors.SystemFailure, match="elsewhere: refused"):
        catalog.tags(Transport(address), Reference.parse(f"{address}/team/x"))


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        ("/manifests/", b"{" * 100),
        ("/manifests/", b'{"schemaVersion": 2}'),
        ("/manifests/", b"x" * (5 << 20)),
        ("/blobs/", b"not what was asked for"),
        ("/blobs/", b"x" * 400_000),
    ],
)
def test_lies_are_refused_and_leave_nothing(
    new_store: NewStore, front: NewFront, registry: str, where: str, answer: bytes
) -> None:
    stored(new_store, registry)
    address = front(lambda exchange: where in exchange.path and exchange.answer(200, answer)).address
    two = new_store("two")
    with pytest.raises(errors.SampanError):
        Puller(two, Gates()).pull(
            Transport(address, settings=Settings(tries=2)), Reference.parse(f"{address}/team/x:1"), quiet
        )
    assert two.list() == [] and two.layers.list() == [] and list((two.layers.root / "tmp").iterdir()) == []


def test_what_several_pulls_want_comes_once(new_store: NewStore, front: NewFront, registry: str) -> None:
    stored(new_store, registry, size=4_000_000)
    relay = front()
    two, gates = new_store("two"), Gates()
    name = Reference.parse(f"{relay.address}/team/x:1")
    threads = [
        threading.Thread(target=lambda: Puller(two, gates).pull(Transport(relay.address), name, quiet))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    layer = json.loads(two.manifest(two.list()[0]))["layers"][0]["digest"]
    assert [path for method, path, _ in relay.requests if path.endswith(layer)] == [
        f"/v2/team/x/blobs/{layer}"
    ]


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://registry.test/v2/", "http://plain:1"),
        ("https://registry.test/v2/", "http://secure:2"),
        ("https://127.0.0.1:5000/", ""),
        ("https://localhost/", ""),
        ("https://[::1]:5000/", ""),
        ("https://10.1.2.3/", ""),
        ("https://11.1.2.3/", "http://secure:2"),
        ("https://inside.example/", ""),
        ("https://deep.inside.example/", ""),
        ("https://beside.example/", "http://secure:2"),
        ("https://ported.example:5000/", ""),
        ("https://ported.example/", "http://secure:2"),
    ],
)
def test_proxies_of_the_environment(monkeypatch: pytest.MonkeyPatch, url: str, proxy: str) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "plain:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://secure:2")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8, inside.example,ported.example:5000")
    assert Proxies.of_environment().for_url(url) == proxy
    monkeypatch.setenv("NO_PROXY", "*")
    assert Proxies.of_environment().for_url(url) == ""


def test_a_registry_behind_a_proxy(
    new_store: NewStore, front: NewFront, registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = stored(new_store, registry).list()[0].id
    proxy = front(lambda exchange: exchange.command == "CONNECT" and exchange.answer(403))
    monkeypatch.setenv("HTTP_PROXY", f"http://user:pass@{proxy.address}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy.address}")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.delenv("no_proxy", raising=False)
    name = Reference.parse("registry.test:5000/team/x:1")
    transport = Transport(name.domain, settings=Settings(insecure=("registry.test:5000",)))
    assert Puller(new_store("two"), Gates()).pull(transport, name, quiet).image.id == image_id
    asked = [path for method, path, _ in proxy.requests if method == "GET"]
    assert asked and all(path.startswith("http://registry.test:5000/v2/") for path in asked)
    assert (
        base64.b64encode(b"user:pass").decode()
        in {k.lower(): v for k, v in proxy.requests[-1][2].items()}["proxy-authorization"]
    )


def test_a_pull_of_what_is_there_asks_once(new_store: NewStore, front: NewFront, registry: str) -> None:
    stored(new_store, registry)
    server, store = front(), new_store("two")
    name, settings = Reference.parse(f"{server.address}/team/x:1"), Settings()
    for _ in range(2):
        Puller(store, Gates()).pull(Transport(name.domain, None, settings), name, quiet)
        asked, server.requests = server.requests, []
    assert [(method, path) for method, path, _ in asked] == [("HEAD", "/v2/team/x/manifests/1")]
    # What was known of the host is found out again where it has changed.
    settings.hosts.bases[name.domain] = f"https://{name.domain}", float("inf")
    Puller(store, Gates()).pull(Transport(name.domain, None, settings), name, quiet)
    assert settings.hosts.bases[name.domain][0] == f"http://{name.domain}"
    settings.hosts.bases[name.domain] = f"http://{name.domain}", float("inf")
    refuse = [True]
    server.hooks.append(lambda exchange: bool(refuse) and refuse.pop() and exchange.answer(400))
    assert not Puller(store, Gates()).pull(Transport(name.domain, None, settings), name, quiet).newer


def test_a_tag_that_moves_back_to_what_is_here(new_store: NewStore, registry: str) -> None:
    """The digest is known already, the tag stands for another image: it is pointed anew."""
    store, name = new_store("one"), Reference.parse(f"{registry}/team/x:1")
    transport = Transport(name.domain)
    images = []
    for _ in range(2):
        images.append(make_image(store, name, 1000))
        push(store, transport, name, quiet)
        push_tag = name.with_tag(f"t{len(images)}")
        store.tag(push_tag, images[-1].id)
        push(store, transport, push_tag, quiet)
    store.tag(name, images[0].id)
    assert push(store, transport, name, quiet)
    store.tag(name, images[1].id)
    pulled = Puller(store, Gates()).pull(transport, name, quiet)
    assert pulled.newer and store.get(name.familiar).id == images[0].id == pulled.image.id
    assert not Puller(store, Gates()).pull(transport, name, quiet).newer
