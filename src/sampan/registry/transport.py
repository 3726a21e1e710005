"""Talking to one registry: scheme, certificates, authentication, retries, redirects (distribution-spec).

Synchronous, for worker threads. Credentials stay in memory, go only to the registry's own host and to the
token server that it names, and appear in no message.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urljoin, urlsplit

import urllib3

from sampan import errors
from sampan.images.manifest import LIMIT
from sampan.registry import limits
from sampan.registry.auth import Authorizer, Credentials
from sampan.registry.faults import unreachable
from sampan.registry.pools import Pools, Proxies, discard

Body: TypeAlias = bytes | Callable[[], Iterator[bytes]] | None
"""What a request carries: bytes, or what gives the pieces anew for each try."""

HUB = "docker.io"
_HUB_HOST = "registry-1.docker.io"
_TRIES = 5
_REDIRECTS = 5
_BASE_LIFE = 60.0  # seconds
_RETRY_LIMIT = 60.0  # seconds that a Retry-After may make us wait
CERTIFICATES = (Path("/etc/docker/certs.d"), Path("/etc/sampan/certs.d"))


@dataclass(frozen=True)
class Settings:
    """How the engine is configured: hosts that may be insecure, where certificates lie, tries of a request."""

    insecure: tuple[str, ...] = ()
    certificates: tuple[Path, ...] = CERTIFICATES
    tries: int = _TRIES
    bases: dict[str, tuple[str, float]] = field(default_factory=dict, compare=False)
    """By host the address that it was last found at, and until when that is believed (time.monotonic())."""


class Transport:
    """One registry with one user's credentials; ``mirror`` is the URL of one that stands in for it."""

    def __init__(
        self,
        domain: str,
        credentials: Credentials | None = None,
        settings: Settings | None = None,
        *,
        mirror: str = "",
    ) -> None:
        """SystemFailure when a certificate that is laid down for the host can't be used."""
        self.domain = domain
        self.tries = (settings or Settings()).tries
        self._settings = settings or Settings()
        place = urlsplit(mirror)
        self._host = place.netloc or (_HUB_HOST if domain == HUB else domain)
        self._plain_only = place.scheme == "http"
        self._insecure = self._plain_only or _may_be_insecure(self._host, self._settings.insecure)
        self._pool = self._make_pools()
        self._auth = Authorizer(self._pool, credentials or Credentials())
        self._base, self._believed = "", False
        self._lock = threading.Lock()

    def _make_pools(self) -> Pools:
        try:
            return Pools(
                self._host,
                verify=not self._insecure,
                certificates=self._settings.certificates,
                proxies=Proxies.of_environment(),
            )
        except (OSError, ssl.SSLError) as error:
            raise errors.SystemFailure(
                f"can't use the certificates for {self._host}: {error}",
                hint=f"Look into {' and '.join(map(str, self._settings.certificates))}.",
            ) from error

    def base(self) -> str:
        """``https://host``, or ``http://host`` where that is allowed and https isn't spoken."""
        with self._lock:
            if not self._base:
                known, until = self._settings.bases.get(self._host, ("", 0.0))
                self._believed = time.monotonic() < until
                self._base = known if self._believed else self._find_base()
            return self._base

    def _distrust_base(self) -> bool:
        """Find out again what the host speaks, when it was only believed; whether it was."""
        with self._lock:
            believed, self._believed = self._believed, False
            if believed:
                self._settings.bases.pop(self._host, None)
                self._base = ""
            return believed

    def guessed_base(self) -> str:
        """:meth:`base` where it has to be found out, else https without asking first."""
        return self.base() if self._insecure else f"https://{self._host}"

    def _find_base(self) -> str:
        schemes = ("https", "http") if self._insecure else ("https",)
        if self._plain_only:
            schemes = ("http",)
        problem: Exception | None = None
        for scheme in schemes:
            try:
                base = f"{scheme}://{self._host}"
                self._pool.request("GET", f"{base}/v2/").release_conn()
                self._settings.bases[self._host] = base, time.monotonic() + _BASE_LIFE
                return base
            except urllib3.exceptions.HTTPError as error:
                problem = error
        url = f"{schemes[-1]}://{self._host}/v2/"
        raise self._unreachable("GET", url, problem) from problem

    def _unreachable(self, method: str, url: str, error: Exception | None) -> errors.SystemFailure:
        return unreachable(method, url, error, self._host, self._settings.certificates)

    # -- requests ---------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        scope: str,
        *,
        headers: dict[str, str] | None = None,
        body: Body = None,
        stream: bool = False,
        again: bool = True,
    ) -> urllib3.BaseHTTPResponse:
        """One request to ``path`` (or a URL of this registry); the response, whatever its status.

        401 is answered with a token or password once; 429, 5xx and broken connections are tried again with
        growing pauses. With ``again=False`` only the first is done, and urllib3's errors come through.
        """
        if not again:
            url = path if "://" in path else urljoin(self.base(), path)
            return self._authorized(method, url, scope, headers or {}, body, stream)
        for attempt in range(self.tries):
            last = attempt == self.tries - 1
            url = path if "://" in path else urljoin(self.base(), path)
            try:
                response = self._authorized(method, url, scope, headers or {}, body, stream)
            except urllib3.exceptions.HTTPError as error:
                self._distrust_base()
                if last:
                    raise self._unreachable(method, url, error) from error
                time.sleep(0.2 * 2**attempt)
                continue
            if response.status == 400 and self._distrust_base():  # plain HTTP to what speaks TLS now
                continue
            if response.status not in (429, 500, 502, 503, 504) or last:
                return response
            pause = _pause(response, attempt)
            if pause is None:
                return response
            discard(response)
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _authorized(
        self, method: str, url: str, scope: str, headers: dict[str, str], body: Body, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        shown = self._auth.header(scope)
        response, elsewhere = self._follow(method, url, {**headers, **shown}, body, stream)
        if response.status != 401 or elsewhere:
            return response  # what another host asks for is none of the registry's business
        challenge = response.headers.get("WWW-Authenticate", "")
        # several threads may ask at once: what one of them learned meanwhile serves the others, too
        known = self._auth.header(scope) != shown or self._auth.learn(challenge, scope)
        if not known and self._auth.header(scope) == shown:
            return response
        discard(response)
        return self._follow(method, url, {**headers, **self._auth.header(scope)}, body, stream)[0]

    def _follow(
        self, method: str, url: str, headers: dict[str, str], body: Body, stream: bool
    ) -> tuple[urllib3.BaseHTTPResponse, bool]:
        """Send; follow redirects of reads. Another host gets no credentials, https never becomes http.

        The response, and whether it is another host's.
        """
        first = urlsplit(url).netloc
        for _ in range(_REDIRECTS):
            response = self._pool.request(
                method,
                url,
                headers=headers,
                body=body() if callable(body) else body,
                preload_content=not stream,
                redirect=False,
            )
            target = response.headers.get("Location")
            if (
                method not in ("GET", "HEAD")
                or response.status not in (301, 302, 303, 307, 308)
                or not target
            ):
                return response, urlsplit(url).netloc != first
            discard(response)
            before, url = urlsplit(url), urljoin(url, target)
            after = urlsplit(url)
            if after.scheme not in ("https", before.scheme):
                raise errors.SystemFailure(f"the registry {self.domain} redirects to {after.scheme}: refused")
            if after.netloc != before.netloc:
                headers = {key: value for key, value in headers.items() if key != "Authorization"}
        raise errors.SystemFailure(f"the registry {self.domain} redirects in a loop")

    # -- logging in -------------------------------------------------------------------------------------

    def log_in(self) -> str:
        """Show the credentials; an identity token where the registry gives one, else "".

        SystemFailure in dockerd's words when they aren't taken or the registry can't be asked.
        """
        url = f"{self.base()}/v2/"
        try:
            response = self._pool.request("GET", url, redirect=False)
            challenge = response.headers.get("WWW-Authenticate", "")
            if response.status == 401 and self._auth.learn(challenge, ""):
                token = self._auth.identity_token(challenge)
                response = self._pool.request("GET", url, headers=self._auth.header(""), redirect=False)
                if response.status == 200:
                    return token
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable("GET", url, error) from error
        except errors.Unauthorized as error:
            raise errors.Unauthorized(f'Get "{url}": {error.message}') from error
        if response.status != 200:
            status = f"{response.status} {response.reason or ''}".rstrip()
            raise errors.SystemFailure(f"login attempt to {url} failed with status: {status}")
        return ""


def failure(
    response: urllib3.BaseHTTPResponse, what: str, body: bytes | None = None, *, pushing: bool = False
) -> errors.SampanError:
    """A registry's refusal as an error: its own code and message, with a hint for the usual ones.

    ``what`` ends with the name of an image; ``body`` is what was read of a streamed response.
    """
    code = message = ""
    try:
        first = json.loads(response.data[:LIMIT] if body is None else body)["errors"][0]
        code, message = str(first.get("code", "")), str(first.get("message", ""))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        message = f"unexpected status {response.status}"
    text = f"{code.lower().replace('_', ' ')}: {message}" if code else message
    if response.status == 429:
        hint = limits.explained(response.headers)
        return errors.SystemFailure(f"toomanyrequests: {message}", hint=hint)
    if response.status in (401, 403):
        return _denied(response, what, text if code else "", pushing=pushing)
    if response.status == 404:
        return errors.NotFound(f"{what} not found: {text}")
    return errors.SystemFailure(f"{what}: {text}")


def _denied(response: urllib3.BaseHTTPResponse, what: str, text: str, *, pushing: bool) -> errors.NotFound:
    """401 and 403. The answer to a HEAD has no words of its own."""
    if not text and response.status == 401:
        text = "unauthorized: authentication required"
    text = text or "denied: requested access to the resource is denied"
    if pushing:
        return errors.NotFound(
            f"push access denied, repository does not exist or may require authorization: {text}",
            hint="Log in with an account that may push there: docker login REGISTRY",
        )
    front, slash, last = what.rpartition(" ")[2].partition("@")[0].rpartition("/")
    name = front + slash + last.partition(":")[0]
    return errors.NotFound(
        f"pull access denied for {name}, repository does not exist or may require 'docker login': {text}"
    )


def _pause(response: urllib3.BaseHTTPResponse, attempt: int) -> float | None:
    """Seconds to wait before the next try; None when the registry wants more than is sensible."""
    wait = limits.retry_after(response.headers)
    if wait is None:
        return None if response.status == 429 else 0.2 * 2**attempt
    return wait if wait <= _RETRY_LIMIT else None


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
