"""Talking to one registry: scheme, certificates, authentication, retries, redirects (distribution-spec).

Synchronous, for worker threads. Credentials stay in memory, go only to the registry's own host and to the
token server that it names, and appear in no message.
"""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import urllib3

from sampan import errors
from sampan.images.manifest import LIMIT
from sampan.images.reference import is_host
from sampan.registry import limits
from sampan.registry.auth import Authorizer, Credentials
from sampan.registry.faults import unreachable
from sampan.registry.hosts import LIFE, Hosts
from sampan.registry.pools import Body, Pools, TooLong, discard

HUB = "docker.io"
_HUB_HOST = "registry-1.docker.io"
_TRIES = 5
_PATIENCE = 60.0
_WARNING = re.compile(r'299 - "((?:[^"\\]|\\.)*)"')
_MOST_WARNINGS = 4096  # bytes of them together that a registry may send (distribution-spec, "Warnings")
CERTIFICATES = (Path("/etc/docker/certs.d"), Path("/etc/sampan/certs.d"))


@dataclass(frozen=True)
class Settings:
    """How the engine is configured: hosts that may be insecure, where certificates lie, tries of a request, and
    for how many seconds a busy registry may make us wait.
    """

    insecure: tuple[str, ...] = ()
    certificates: tuple[Path, ...] = CERTIFICATES
    tries: int = _TRIES
    patience: float = _PATIENCE
    hosts: Hosts = field(default_factory=Hosts, compare=False)


class Transport:
    """One registry with one user's credentials; ``mirror`` is the URL of one that stands in for it.

    ``warnings`` are what the registry wants its users to read, each once.
    """

    def __init__(
        self,
        domain: str,
        credentials: Credentials | None = None,
        settings: Settings | None = None,
        *,
        mirror: str = "",
    ) -> None:
        """InvalidParameter when ``domain`` can't be one.

        SystemFailure when a certificate that is laid down for the host can't be used.
        """
        if not is_host(domain):
            raise errors.InvalidParameter(
                f"invalid registry host {domain!r}", hint="It is a host, or host:port, without a path."
            )
        self.domain = domain
        self._settings = settings or Settings()
        self.tries = self._settings.tries
        self.warnings: dict[str, None] = {}
        place = urlsplit(mirror)
        self._host = place.netloc or (_HUB_HOST if domain == HUB else domain)
        self._plain_only = place.scheme == "http"
        self._insecure = self._plain_only or _may_be_insecure(self._host, self._settings.insecure)
        self._pool = self._make_pools()
        self._credentials = credentials or Credentials()
        self._base = "" if self._insecure else f"https://{self._host}"
        self._believed = self._reached = False
        self._lock = threading.Lock()
        self._authorizer: Authorizer | None = None

    def _make_pools(self) -> Pools:
        places = self._settings.certificates
        try:
            return self._settings.hosts.pools(self._host, verify=not self._insecure, certificates=places)
        except (OSError, ssl.SSLError) as error:
            raise errors.SystemFailure(
                f"can't use the certificates for {self._host}: {error}",
                hint=f"Look into {' and '.join(map(str, places))}.",
            ) from error

    def base(self) -> str:
        """``https://host``, or ``http://host`` where that is allowed and https isn't spoken."""
        with self._lock:
            if not self._base:
                known, until = self._settings.hosts.bases.get(self._host, ("", 0.0))
                self._believed = time.monotonic() < until
                self._base = known if self._believed else self._find_base()
            return self._base

    def _distrust_base(self) -> bool:
        """Find out again what the host speaks, when it was only believed; whether it was."""
        with self._lock:
            believed, self._believed = self._believed, False
            if believed:
                self._settings.hosts.bases.pop(self._host, None)
                self._base, self._authorizer = "", None
            return believed

    def _find_base(self) -> str:
        schemes = ("http",) if self._plain_only else ("https", "http")
        problem: Exception | None = None
        for scheme in schemes:
            try:
                base = f"{scheme}://{self._host}"
                self._pool.request("GET", f"{base}/v2/", redirect=False)
                self._settings.hosts.bases[self._host] = base, time.monotonic() + LIFE
                self._reached = True
                return base
            except urllib3.exceptions.HTTPError as error:
                problem = error
        url = f"{schemes[-1]}://{self._host}/v2/"
        raise self._unreachable("GET", url, problem) from problem

    def _unreachable(self, method: str, url: str, error: Exception | None) -> errors.SystemFailure:
        return unreachable(method, url, error, self._host, self._settings.certificates)

    def place(self, location: str, asked: str) -> str:
        """The URL of a ``Location`` in the answer to ``asked`` (SystemFailure: nothing may be sent there)."""
        place = urljoin(urljoin(self.base(), asked), location)
        scheme = urlsplit(place).scheme
        if scheme not in ("https", urlsplit(self.base()).scheme):
            raise errors.SystemFailure(
                f"the registry {self.domain} wants uploads sent to {scheme}: refused",
                hint="A proxy before it must tell it X-Forwarded-Proto, or the registry its own address.",
            )
        return place

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
        """One request to ``path`` (or a URL); the response, whatever its status.

        401 is answered with a token or password once; 429, 5xx and broken connections are tried again with
        growing pauses, but for the first contact. With ``again=False`` only the first is done, and urllib3's errors
        come through.
        """
        for attempt in range(self.tries):
            last = attempt == self.tries - 1
            url = path if "://" in path else urljoin(self.base(), path)
            try:
                response = self._authorized(method, url, scope, headers or {}, body, stream)
            except urllib3.exceptions.HTTPError as error:
                if not again:
                    raise
                believed = self._distrust_base()
                if not self._reached and not believed:
                    raise self._unreachable("GET", f"{self.base()}/v2/", error) from error
                if last or isinstance(error, TooLong):
                    raise self._unreachable(method, url, error) from error
                time.sleep(0.2 * 2**attempt)
                continue
            self._reached = True
            if not again:
                return response
            if response.status == 400 and self._distrust_base():  # plain HTTP to what speaks TLS now
                continue
            pause = limits.pause(response, attempt, self._settings.patience)
            if pause is None or last:
                return response
            discard(response)
            time.sleep(pause)
        raise AssertionError("unreachable")

    def _auth(self) -> Authorizer:
        base = self.base()
        with self._lock:
            if self._authorizer is None:
                asked = self._settings.hosts.asked
                self._authorizer = Authorizer(self._pool, self._credentials, base, asked)
            return self._authorizer

    def _authorized(
        self, method: str, url: str, scope: str, headers: dict[str, str], body: Body, stream: bool
    ) -> urllib3.BaseHTTPResponse:
        """Credentials are for the registry itself: not for where its ``Location`` fields lead, nor redirects."""
        if not self._is_ours(url):
            return self._pool.follow(method, url, headers=headers, body=body, stream=stream)[0]
        auth = self._auth()
        shown = auth.header(scope)
        for _ in range(2):
            fields = {**headers, **shown}
            response, last = self._pool.follow(method, url, headers=fields, body=body, stream=stream)
            if not self._is_ours(last):
                return response  # what another host asks for is none of the registry's business
            self._note_warnings(response)
            if response.status != 401 or not auth.learn(
                response.headers.get("WWW-Authenticate", ""), scope, shown
            ):
                return response
            discard(response)
            shown = auth.header(scope)
        return self._pool.follow(method, url, headers={**headers, **shown}, body=body, stream=stream)[0]

    def _is_ours(self, url: str) -> bool:
        parts, mine = urlsplit(url), urlsplit(self.base())
        return parts.netloc == mine.netloc and parts.scheme in ("https", mine.scheme)

    def is_elsewhere(self, response: urllib3.BaseHTTPResponse) -> bool:
        """Whether another host gave this answer, to which the registry had sent us on."""
        return not self._is_ours(response.url or self.base())

    def _note_warnings(self, response: urllib3.BaseHTTPResponse) -> None:
        for text in _WARNING.findall(response.headers.get("Warning", "")[:_MOST_WARNINGS]):
            if sum(map(len, self.warnings)) + len(text) <= _MOST_WARNINGS:
                self.warnings[re.sub(r"\\(.)|[\x00-\x1f\x7f]", r"\1", text)] = None

    # -- logging in -------------------------------------------------------------------------------------

    def log_in(self) -> str:
        """Show the credentials; an identity token where the registry gives one, else "".

        SystemFailure in dockerd's words when they aren't taken or the registry can't be asked.
        """
        url = f"{self.base()}/v2/"
        auth = self._auth()
        try:
            response = self._pool.follow("GET", url)[0]
            challenge = response.headers.get("WWW-Authenticate", "")
            if response.status == 401 and auth.learn(challenge, "", {}):
                token = auth.identity_token(challenge)
                response = self._pool.follow("GET", url, headers=auth.header(""))[0]
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


def _may_be_insecure(host: str, listed: tuple[str, ...]) -> bool:
    """Loopback always may; others when the configuration lists host, host:port, or a network that it lies in."""
    name = urlsplit("//" + host).hostname or host
    if name == "localhost" or host in listed or name in listed:
        return True
    networks = [ipaddress.ip_network(entry, strict=False) for entry in listed if "/" in entry]
    try:
        addresses = [ipaddress.ip_address(name)]
    except ValueError:
        addresses = _addresses(name) if networks else []
    return any(address.is_loopback or any(address in one for one in networks) for address in addresses)


def _addresses(name: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]
