"""The registry client against what well-known registries do beside the specification: challenges, tokens, passwords."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from sampan import errors
from sampan.images.reference import Reference
from sampan.registry.auth import Credentials, challenges
from sampan.registry.push import push
from sampan.registry.transport import Settings, Transport
from tests.registry.front import Exchange
from tests.registry.quirks import ME, give, pull, send, shown, tls_front
from tests.registry.test_client import NewFront, stored
from tests.registry.test_client import front as front
from tests.registry.test_pull_push import NewStore, make_image
from tests.registry.test_server_access import users


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
