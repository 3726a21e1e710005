"""Talking to one registry: scheme, certificates, authentication, retries, redirects (distribution-spec).

Synchronous, for worker threads. Credentials stay in memory, go only to the registry's own host and to the
token server that it names, and appear in no message.
"""

from __future__ import annotations

import ipaddress
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3

from sampan import errors
from sampan.images.manifest import LIMIT

HUB = "docker.io"
_HUB_HOST = "registry-1.docker.io"
_TRIES = 5
_REDIRECTS = 5
_RETRY_LIMIT = 60.0  # seconds that a Retry-After may make us wait
_CHALLENGE = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
CERTIFICATES = (Path("/etc/docker/certs.d"), Path("/etc/sampan/certs.d"))


@dataclass(frozen=True)
class Credentials:
    """A user's name and password, or an identity token."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def __bool__(self) -> bool:
        return bool(self.username or self.identity_token)


@dataclass
class Settings:
    """How the engine is configured: hosts that may be insecure, mirrors of Docker Hub, a proxy."""

    insecure: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    proxy: str = ""
    certificates: tuple[Path, ...] = CERTIFICATES


class Transport:
    """One registry with one user's credentials."""

    def __init__(self, domain: str, credentials: Credentials | None = None, settings: Settings | None = None):
        self.domain = domain
        self._host = _HUB_HOST if domain == HUB else domain
        self._credentials = credentials or Credentials()
        self._settings = settings or Settings()
        self._insecure = _may_be_insecure(self._host, self._settings.insecure)
        self._pool = self._make_pool()
        self._base = ""
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()

    def _make_pool(self) -> urllib3.PoolManager:
        context = ssl.create_default_context()
        if self._insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        for place in self._settings.certificates:
            _use_certificates(context, place / self._host)
        options: dict[str, Any] = {
            "ssl_context": context,
            "timeout": urllib3.Timeout(connect=15, read=60),
            "retries": False,
            "maxsize": 8,
            "headers": {"User-Agent": "sampan"},
        }
        if self._settings.proxy:
            return urllib3.ProxyManager(self._settings.proxy, **options)
        return urllib3.PoolManager(**options)

    def base(self) -> str:
        """``https://host``, or ``http://host`` where that is allowed and https isn't spoken."""
        with self._lock:
            if not self._base:
                self._base = self._find_base()
            return self._base

    def _find_base(self) -> str:
        schemes = ("https", "http") if self._insecure else ("https",)
        problem: Exception | None = None
        for scheme in schemes:
            try:
                self._pool.request("GET", f"{scheme}://{self._host}/v2/").release_conn()
                return f"{scheme}://{self._host}"
            except urllib3.exceptions.HTTPError as error:
                problem = error
        url = f"{schemes[-1]}://{self._host}/v2/"
        raise errors.SystemFailure(f'Get "{url}": {_reason(problem, self._host)}') from problem

    # -- requests ---------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        scope: str,
        *,
        headers: dict[str, str] | None = None,
        body: Any = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """One request to ``path`` (or a URL of this registry); the response, whatever its status.

        401 is answered with a token or password once; 429, 5xx and broken connections are tried again with
        growing pauses. A ``body`` that can't be sent twice must not be an iterator of unknown origin.
        """
        url = urljoin(self.base(), path)
        for attempt in range(_TRIES):
            last = attempt == _TRIES - 1 or isinstance(body, Iterator)
            try:
                response = self._authorized(method, url, scope, headers or {}, body, stream)
            except urllib3.exceptions.HTTPError as error:
                if last:
                    raise errors.SystemFailure(
                        f'{method.title()} "{url}": {_reason(error, self._host)}'
                    ) from error
                time.sleep(0.2 * 2**attempt)
                continue
            if response.status not in (429, 500, 502, 503, 504) or last:
                return response
            pause = _pause(response, attempt)
            if pause is None:
                return response
            response.drain_conn()
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _authorized(
        self, method: str, url: str, scope: str, headers: dict[str, str], body: Any, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        response = self._follow(method, url, {**headers, **self._authorization(scope)}, body, stream)
        if response.status != 401 or not self._learn(response.headers.get("WWW-Authenticate", ""), scope):
            return response
        response.drain_conn()
        return self._follow(method, url, {**headers, **self._authorization(scope)}, body, stream)

    def _follow(
        self, method: str, url: str, headers: dict[str, str], body: Any, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        """Send; follow redirects of reads. Another host gets no credentials, https never becomes http."""
        for _ in range(_REDIRECTS):
            response = self._pool.request(
                method, url, headers=headers, body=body, preload_content=not stream, redirect=False
            )
            target = response.headers.get("Location")
            if (
                method not in ("GET", "HEAD")
                or response.status not in (301, 302, 303, 307, 308)
                or not target
            ):
                return response
            response.drain_conn()
            before, url = urlsplit(url), urljoin(url, target)
            after = urlsplit(url)
            if after.scheme not in ("https", before.scheme):
                raise errors.SystemFailure(f"the registry {self.domain} redirects to {after.scheme}: refused")
            if after.netloc != before.netloc:
                headers = {key: value for key, value in headers.items() if key != "Authorization"}
        raise errors.SystemFailure(f"the registry {self.domain} redirects in a loop")

    # -- authentication ---------------------------------------------------------------------------------

    def _authorization(self, scope: str) -> dict[str, str]:
        with self._lock:
            value = self._tokens.get(scope) or self._tokens.get("")
        return {"Authorization": value} if value else {}

    def _learn(self, challenge: str, scope: str) -> bool:
        """Get what a WWW-Authenticate header asks for; False when we have nothing to give."""
        kind, _, rest = challenge.partition(" ")
        values = dict(_CHALLENGE.findall(rest))
        if kind.lower() == "basic":
            if not self._credentials or "" in self._tokens:
                return False
            pair = f"{self._credentials.username}:{self._credentials.password}"
            with self._lock:
                self._tokens[""] = urllib3.make_headers(basic_auth=pair)["authorization"]
            return True
        if kind.lower() == "bearer" and "realm" in values:
            token = self._fetch_token(values, scope)
            with self._lock:
                self._tokens[scope] = f"Bearer {token}"
            return True
        return False

    def _fetch_token(self, values: dict[str, str], scope: str) -> str:
        query = {"service": values.get("service", ""), "scope": values.get("scope") or scope}
        headers = {}
        if self._credentials.identity_token:
            form = {**query, "grant_type": "refresh_token", "client_id": "sampan"}
            form["refresh_token"] = self._credentials.identity_token
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            response = self._pool.request("POST", values["realm"], body=urlencode(form), headers=kind)
        else:
            if self._credentials:
                pair = f"{self._credentials.username}:{self._credentials.password}"
                headers = urllib3.make_headers(basic_auth=pair)
            url = f"{values['realm']}?{urlencode(query)}"
            response = self._pool.request("GET", url, headers=dict(headers), redirect=False)
        if response.status != 200:
            raise errors.Unauthorized("unauthorized: incorrect username or password")
        try:
            answer = json.loads(response.data[:LIMIT])
            return str(answer.get("token") or answer["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise errors.SystemFailure("the registry's token server gave no token") from error


def failure(response: urllib3.BaseHTTPResponse, what: str, body: bytes | None = None) -> errors.SampanError:
    """A registry's refusal as an error: its own code and message, with a hint for the usual ones.

    ``body`` is what was read of a streamed response.
    """
    code = message = ""
    try:
        first = json.loads(response.data[:LIMIT] if body is None else body)["errors"][0]
        code, message = str(first.get("code", "")), str(first.get("message", ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        message = f"unexpected status {response.status}"
    text = f"{code.lower().replace('_', ' ')}: {message}" if code else message
    if response.status == 429:
        wait = response.headers.get("Retry-After")
        until = f" It ends in {wait} seconds." if wait else " It counts pulls of the last hours."
        hint = f"The registry limits how often this address or user may pull.{until} docker login raises it."
        return errors.SystemFailure(f"toomanyrequests: {message}", hint=hint)
    if response.status in (401, 403):
        name = what.partition(":")[0]
        return errors.NotFound(
            f"pull access denied for {name}, repository does not exist or may require 'docker login': {text}"
        )
    if response.status == 404:
        return errors.NotFound(f"{what} not found: {text}")
    return errors.SystemFailure(f"{what}: {text}")


def _pause(response: urllib3.BaseHTTPResponse, attempt: int) -> float | None:
    """Seconds to wait before the next try; None when the registry wants more than is sensible."""
    wait = response.headers.get("Retry-After", "")
    if not wait.isdigit():
        return None if response.status == 429 else 0.2 * 2**attempt
    return float(wait) if float(wait) <= _RETRY_LIMIT else None


def _may_be_insecure(host: str, listed: tuple[str, ...]) -> bool:
    """Loopback always may; others when the configuration lists host, host:port or network."""
    name = urlsplit("//" + host).hostname or host
    if name == "localhost" or host in listed or name in listed:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    networks = [ipaddress.ip_network(entry, strict=False) for entry in listed if "/" in entry]
    return address.is_loopback or any(address in network for network in networks)


def _use_certificates(context: ssl.SSLContext, place: Path) -> None:
    """CA and client certificates as Docker lays them down: ``*.crt``, ``*.cert`` with ``*.key``."""
    if not place.is_dir():
        return
    for authority in sorted(place.glob("*.crt")):
        context.load_verify_locations(authority)
    for certificate in sorted(place.glob("*.cert")):
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))


def _reason(error: Exception | None, host: str) -> str:
    """What went wrong in the words of Go's network library."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError) or "refused" in str(cause).lower():
            return f"dial tcp {host.replace('localhost', '127.0.0.1')}: connect: connection refused"
        if isinstance(cause, urllib3.exceptions.NameResolutionError):
            return f"dial tcp: lookup {host.partition(':')[0]}: no such host"
        cause = cause.__cause__ or cause.__context__
    return str(error)
