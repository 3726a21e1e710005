"""Connections to registries: TLS as the host's certificates say, through the proxy that the environment names."""

from __future__ import annotations

import base64
import io
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urljoin, urlsplit

import urllib3

import sampan
from sampan import errors
from sampan.images.manifest import LIMIT
from sampan.proxies import Proxies

_AGENT = f"sampan/{sampan.__version__}"
Body: TypeAlias = bytes | Callable[[], Iterator[bytes]] | None
"""What a request carries: bytes, or what gives the pieces anew for each try."""

_REDIRECTS = 5
_READS = ("GET", "HEAD")
_REST = 64 << 10
_TIMEOUT = urllib3.Timeout(connect=15, read=60)


def basic(username: str, password: str) -> str:
    """The value of an ``Authorization`` field for a name and password (RFC 7617, in UTF-8)."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


class TooLong(urllib3.exceptions.ProtocolError):
    """An answer that doesn't end where it should: asking again is of no use."""


class Pools:
    """Connection pools for one registry's host and for where it redirects to."""

    def __init__(self, host: str, *, verify: bool, certificates: Iterable[Path], proxies: Proxies) -> None:
        """OSError or ssl.SSLError when a certificate file can't be used."""
        context = ssl.create_default_context() if verify else _unverified()
        for place in certificates:
            _use_certificates(context, place / host)
        self._context = context
        self._proxies = proxies
        self._pools: dict[str, urllib3.PoolManager] = {}

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        preload_content: bool = True,
        **options: Any,
    ) -> urllib3.BaseHTTPResponse:
        """One request as urllib3 does it; urllib3.exceptions.HTTPError.

        With ``preload_content`` the whole answer is read, which may have ``LIMIT`` bytes (TooLong).
        """
        proxy = self._proxies.for_url(url)
        pool = self._pools.get(proxy)
        if pool is None:
            pool = self._pools.setdefault(proxy, self._make(proxy))
        fields = {"User-Agent": _AGENT, **(headers or {})}
        response = pool.request(method, url, headers=fields, preload_content=False, **options)
        return _whole(response, url) if preload_content else response

    def follow(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        stream: bool = False,
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        """The same with redirects: the answer, and the address that gave it.

        Another host gets no credentials, https never becomes http. What writes is only sent on where method and
        body stay (307, 308). SystemFailure for a redirect that is refused, or one too many.
        """
        first, fields = url, dict(headers or {})
        for _ in range(_REDIRECTS):
            content = body() if callable(body) else body
            response = self.request(
                method, url, headers=fields, body=content, preload_content=not stream, redirect=False
            )
            target = response.headers.get("Location")
            if not target or response.status not in (
                (301, 302, 303, 307, 308) if method in _READS else (307, 308)
            ):
                return response, url
            discard(response)
            before, url = urlsplit(url), urljoin(url, target)
            after = urlsplit(url)
            if after.scheme not in ("https", before.scheme):
                host = urlsplit(first).netloc
                raise errors.SystemFailure(f"the registry {host} redirects to {after.scheme}: refused")
            if after.netloc != before.netloc:
                fields.pop("Authorization", None)
        raise errors.SystemFailure(f"the registry {urlsplit(first).netloc} redirects in a loop")

    def close(self) -> None:
        """Close the connections that nobody uses; those in use are closed when they are given back."""
        for pool in self._pools.values():
            pool.clear()

    def _make(self, proxy: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {
            "ssl_context": self._context,
            "timeout": _TIMEOUT,
            "retries": False,
            "maxsize": 8,
        }
        if not proxy:
            return urllib3.PoolManager(**options)
        user = urlsplit(proxy)
        if user.username:
            login = basic(unquote(user.username), unquote(user.password or ""))
            options["proxy_headers"] = {"Proxy-Authorization": login}
        return urllib3.ProxyManager(proxy, **options)


def _whole(response: urllib3.BaseHTTPResponse, url: str) -> urllib3.HTTPResponse:
    """An answer with its content, which has to end."""
    data = response.read(LIMIT + 1)
    if len(data) > LIMIT:
        response.close()
        raise TooLong(f"the answer is longer than {LIMIT} bytes")
    response.release_conn()
    return urllib3.HTTPResponse(
        io.BytesIO(data),
        response.headers,
        response.status,
        reason=response.reason,
        request_url=url,
        decode_content=False,
    )


def discard(response: urllib3.BaseHTTPResponse) -> None:
    """Let go of an answer: its connection serves again if the rest is short, and is closed otherwise."""
    try:
        over = len(response.read(_REST)) < _REST
    except urllib3.exceptions.HTTPError:
        over = False
    if over:
        response.release_conn()
    else:
        response.close()


def _unverified() -> ssl.SSLContext:
    """Takes any certificate. The system's aren't read for it: that takes 40 ms."""
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # who configured it so knows
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _use_certificates(context: ssl.SSLContext, place: Path) -> None:
    """CA and client certificates as Docker lays them down: ``*.crt``, ``*.cert`` with ``*.key``."""
    if not place.is_dir():
        return
    for authority in sorted(place.glob("*.crt")):
        context.load_verify_locations(authority)
    for certificate in sorted(place.glob("*.cert")):
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
