"""Answering a registry's challenge: Basic, or a bearer token from the server that it names.

https://distribution.github.io/distribution/spec/auth/token/ and …/oauth/. Credentials stay in memory, go
only to the registry's host and its token server, and appear in no message.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import urllib3

from sampan import errors
from sampan.images.manifest import LIMIT
from sampan.registry.pools import Pools

_CHALLENGE = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_CLIENT = "sampan"


@dataclass(frozen=True)
class Credentials:
    """A user's name and password, or an identity token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token)

    def basic(self) -> dict[str, str]:
        """The ``authorization`` field of the name and password."""
        return dict(urllib3.make_headers(basic_auth=f"{self.username}:{self.password}"))


class Authorizer:
    """What one user may show one registry: a password, or a token for each scope."""

    def __init__(self, pools: Pools, credentials: Credentials) -> None:
        self._pools = pools
        self._credentials = credentials
        self._values: dict[str, str] = {}
        self._lock = threading.Lock()

    def header(self, scope: str) -> dict[str, str]:
        """The ``Authorization`` field for a scope (several are separated by blanks), as far as known."""
        with self._lock:
            value = self._values.get(scope) or self._values.get("")
        return {"Authorization": value} if value else {}

    def learn(self, challenge: str, scope: str) -> bool:
        """Get what a ``WWW-Authenticate`` field asks for; False when there is nothing (new) to give.

        Unauthorized when the token server refuses, SystemFailure when it can't be understood.
        """
        kind, _, rest = challenge.partition(" ")
        values = dict(_CHALLENGE.findall(rest))
        if kind.lower() == "basic":
            if not self._credentials.username or "" in self._values:
                return False
            with self._lock:
                self._values[""] = self._credentials.basic()["authorization"]
            return True
        if kind.lower() == "bearer" and "realm" in values:
            token = self._token(values, scope)
            with self._lock:
                self._values[scope] = f"Bearer {token}"
            return True
        return False

    def identity_token(self, challenge: str) -> str:
        """A token that stands for the password from now on, where the token server gives one; else ""."""
        kind, _, rest = challenge.partition(" ")
        values = dict(_CHALLENGE.findall(rest))
        if kind.lower() != "bearer" or "realm" not in values or not self._credentials.username:
            return ""
        query = {"service": values.get("service", ""), "offline_token": "true", "client_id": _CLIENT}
        return str(self._ask(values["realm"], query, self._credentials.basic()).get("refresh_token", ""))

    def _token(self, values: Mapping[str, str], scope: str) -> str:
        scopes = (values.get("scope") or scope).split()
        if self._credentials.identity_token:
            answer = self._exchange(values, scopes)
        else:
            query = [("service", values.get("service", "")), *(("scope", one) for one in scopes)]
            headers = self._credentials.basic() if self._credentials else {}
            answer = self._ask(values["realm"], query, headers)
        token = answer.get("token") or answer.get("access_token")
        if not isinstance(token, str) or not token:
            raise errors.SystemFailure("the registry's token server gave no token")
        return token

    def _ask(self, realm: str, query: Any, headers: dict[str, str]) -> dict[str, Any]:
        mark = "&" if "?" in realm else "?"
        url = f"{realm}{mark}{urlencode(query)}"
        return _answer(self._pools.request("GET", url, headers=headers, redirect=False))

    def _exchange(self, values: Mapping[str, str], scopes: list[str]) -> dict[str, Any]:
        """An access token for an identity token (OAuth 2, RFC 6749 section 6)."""
        form = {"grant_type": "refresh_token", "service": values.get("service", ""), "client_id": _CLIENT}
        form |= {"scope": " ".join(scopes), "refresh_token": self._credentials.identity_token}
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        response = self._pools.request(
            "POST", values["realm"], body=urlencode(form), headers=kind, redirect=False
        )
        return _answer(response)


def _answer(response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    if response.status in (400, 401, 403):
        raise errors.Unauthorized("unauthorized: incorrect username or password")
    if response.status != 200:
        raise errors.SystemFailure(f"the registry's token server failed with status: {response.status}")
    try:
        answer = json.loads(response.data[:LIMIT])
    except ValueError as error:
        raise errors.SystemFailure("the registry's token server gave no token") from error
    if not isinstance(answer, dict):
        raise errors.SystemFailure("the registry's token server gave no token")
    return answer
