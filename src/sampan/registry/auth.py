"""Answering a registry's challenge: Basic, or a bearer token from the server that it names.

https://distribution.github.io/distribution/spec/auth/token/ and …/oauth/. Credentials stay in memory, go
only to the registry's host and its token server, and appear in no message.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3

from sampan import errors
from sampan.images.manifest import LIMIT
from sampan.registry import limits
from sampan.registry.faults import unreachable
from sampan.registry.pools import Pools, basic

_PART = re.compile(r'[\s,]*([^\s,="]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]*))?')
_CLIENT = "sampan"
_SHORTEST = 60  # seconds that a token is good for, whatever its server says (as Docker reads it)
_MARGIN = 5  # seconds before its end in which a token isn't shown any more
_TRIES = 3
_BELIEVED = 60.0  # seconds

Challenge = tuple[str, dict[str, str]]


def challenges(field: str) -> list[Challenge]:
    """What a ``WWW-Authenticate`` field asks for (RFC 9110 section 11.6.1): schemes in small letters with their
    parameters. Several fields may have been joined by commas.
    """
    found: list[Challenge] = []
    for part in _PART.finditer(field):
        name, value = part[1].lower(), part[2]
        if value is None:
            found.append((name, {}))
        elif found:
            text = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
            found[-1][1].setdefault(name, text)
    return found


@dataclass(frozen=True)
class Credentials:
    """A user's name and password, an identity token, or a token for the registry itself."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token or self.registry_token)

    def basic(self) -> dict[str, str]:
        """The ``Authorization`` field of the name and password."""
        return {"Authorization": basic(self.username, self.password)}


class Authorizer:
    """What one user may show one registry: a password, or a token for each scope.

    ``asked`` is what registries asked for lately (see ``Hosts``), perhaps of others: who comes next shows it at
    once.
    """

    def __init__(
        self, pools: Pools, credentials: Credentials, base: str, asked: dict[str, tuple[str, float]]
    ) -> None:
        self._pools, self._credentials = pools, credentials
        self._base, self._asked = base, asked
        self._values: dict[str, tuple[str, float]] = {}
        if credentials.registry_token:
            self._values[""] = f"Bearer {credentials.registry_token}", float("inf")
        self._asking = threading.Lock()

    def _known(self, scope: str) -> dict[str, str]:
        for key in (scope, ""):
            value, until = self._values.get(key, ("", 0.0))
            if value and time.monotonic() < until:
                return {"Authorization": value}
        return {}

    def header(self, scope: str) -> dict[str, str]:
        """The ``Authorization`` field for a scope (several are separated by blanks), as far as the registry is
        known to want one.
        """
        shown = self._known(scope)
        challenge, until = self._asked.get(self._base, ("", 0.0))
        if not shown and time.monotonic() < until:
            try:
                self.learn(challenge, scope, shown)
            except errors.SampanError:  # it may ask otherwise by now
                self._asked.pop(self._base, None)
        return self._known(scope)

    def learn(self, challenge: str, scope: str, shown: Mapping[str, str]) -> bool:
        """Get what a ``WWW-Authenticate`` field asks for; False when there is nothing but what was ``shown``.

        Unauthorized when the token server refuses, SystemFailure when it can't be understood.
        """
        with self._asking:  # several threads may be asked at once: what one of them learns serves all
            if self._known(scope) == shown:
                self._get(challenge, scope)
            return self._known(scope) != shown

    def _get(self, challenge: str, scope: str) -> None:
        found = dict(reversed(challenges(challenge)))
        if self._credentials.registry_token or not found:
            return
        now = time.monotonic()
        self._values = {key: one for key, one in self._values.items() if one[1] > now}
        if found.get("bearer", {}).get("realm"):
            self._values[scope] = self._token(found["bearer"], scope)
            self._asked[self._base] = challenge, time.monotonic() + _BELIEVED
        elif "basic" in found and self._credentials.username:
            self._values.pop(scope, None)  # Harbor asks so when a token isn't enough
            self._values[""] = self._credentials.basic()["Authorization"], float("inf")
            self._asked[self._base] = challenge, time.monotonic() + _BELIEVED

    def identity_token(self, challenge: str) -> str:
        """A token that stands for the password from now on, where the token server gives one; else ""."""
        values = dict(reversed(challenges(challenge))).get("bearer", {})
        if not values.get("realm") or not self._credentials.username:
            return ""
        answer = self._ask(values, [("offline_token", "true"), ("client_id", _CLIENT)])
        return str(answer.get("refresh_token", ""))

    def _token(self, values: Mapping[str, str], scope: str) -> tuple[str, float]:
        """The field for a scope, and until when it is good."""
        mine = scope.split()
        # A challenge may name less than what is wanted (of two repositories only the first), or other things.
        scopes = mine + [one for one in values.get("scope", "").split() if not _covered(one, mine)]
        if self._credentials.identity_token:
            answer = self._exchange(values, scopes)
        else:
            answer = self._ask(values, [("scope", one) for one in scopes])
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise _no_token(values["realm"])
        life = answer.get("expires_in")
        seconds = max(_SHORTEST, life if isinstance(life, int) else 0)
        return f"Bearer {token}", time.monotonic() + seconds - _MARGIN

    def _ask(self, values: Mapping[str, str], query: list[tuple[str, str]]) -> dict[str, Any]:
        query = [("service", values["service"]), *query] if values.get("service") else query
        headers: dict[str, str] = {}
        if self._credentials.username:
            query = [*query, ("account", self._credentials.username)]
            headers = self._credentials.basic()
        realm = self._realm(values["realm"])
        url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
        return _answer(realm, lambda: self._pools.follow("GET", url, headers=headers)[0])

    def _exchange(self, values: Mapping[str, str], scopes: list[str]) -> dict[str, Any]:
        """An access token for an identity token (OAuth 2, RFC 6749 section 6)."""
        form = {"grant_type": "refresh_token", "service": values.get("service", ""), "client_id": _CLIENT}
        form |= {"scope": " ".join(scopes), "refresh_token": self._credentials.identity_token}
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        body, realm = urlencode(form).encode(), self._realm(values["realm"])
        return _answer(
            realm, lambda: self._pools.request("POST", realm, body=body, headers=kind, redirect=False)
        )

    def _realm(self, text: str) -> str:
        """The token server's address, which may be relative. A registry that speaks TLS must not have a
        password sent in the open.
        """
        realm = urljoin(self._base, text)
        if urlsplit(realm).scheme not in ("http", "https"):
            raise errors.SystemFailure(f"the registry's token server is no web server: {realm}")
        if self._base.startswith("https:") and realm.startswith("http:") and self._credentials:
            raise errors.SystemFailure(
                f"the registry wants the password sent in the open, to {realm}: refused",
                hint="The registry's settings must name its token server with https://.",
            )
        return realm


def _covered(scope: str, wanted: list[str]) -> bool:
    """Whether a scope of a challenge (``repository:x:pull``) is within those that are asked for anyway."""
    name, _, actions = scope.rpartition(":")
    for one in wanted:
        mine, _, allowed = one.rpartition(":")
        if mine == name and set(actions.split(",")) <= set(allowed.split(",")):
            return True
    return False


def _answer(realm: str, send: Callable[[], urllib3.BaseHTTPResponse]) -> dict[str, Any]:
    """What the token server says; it is asked again when it is busy."""
    for attempt in range(_TRIES):
        last = attempt == _TRIES - 1
        try:
            response = send()
        except urllib3.exceptions.HTTPError as error:
            if last:
                raise unreachable("GET", realm, error, urlsplit(realm).netloc) from error
            time.sleep(0.2 * 2**attempt)
            continue
        pause = limits.pause(response, attempt)
        if pause is None or last:
            return _read(realm, response)
        time.sleep(pause)
    raise AssertionError("unreachable")


def _read(realm: str, response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    if response.status in (400, 401, 403):
        raise errors.Unauthorized("unauthorized: incorrect username or password")
    if response.status == 429:
        text = "toomanyrequests: the registry's token server wants fewer requests"
        raise errors.SystemFailure(text, hint=limits.explained(response.headers))
    if response.status != 200:
        raise errors.SystemFailure(
            f"the registry's token server {realm} failed with status: {response.status}"
        )
    try:
        answer = json.loads(response.data[:LIMIT])
    except ValueError as error:
        raise _no_token(realm) from error
    if not isinstance(answer, dict):
        raise _no_token(realm)
    return answer


def _no_token(realm: str) -> errors.SystemFailure:
    return errors.SystemFailure(f"the registry's token server {realm} gave no token")
