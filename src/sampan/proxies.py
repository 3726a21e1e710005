"""Which proxy an address is reached through, as the environment says: for registries, downloads of builds."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Proxies:
    """Which proxy an address is reached through: HTTP_PROXY, HTTPS_PROXY, NO_PROXY as Go's clients read them."""

    by_scheme: Mapping[str, str] = field(default_factory=dict)
    exempt: tuple[str, ...] = ()

    @classmethod
    def of_environment(cls) -> Proxies:
        """The daemon's own environment; upper case before lower case."""

        def value(name: str) -> str:
            return os.environ.get(name) or os.environ.get(name.lower(), "")

        found = {scheme: value(f"{scheme}_proxy".upper()) for scheme in ("http", "https")}
        exempt = tuple(part.strip().lower() for part in value("NO_PROXY").split(",") if part.strip())
        return cls({scheme: _with_scheme(url) for scheme, url in found.items() if url}, exempt)

    def for_url(self, url: str) -> str:
        """The proxy's URL, "" for none. This machine itself is never reached through one."""
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        if host == "localhost" or self._is_exempt(host, parts.port):
            return ""
        return self.by_scheme.get(parts.scheme, "")

    def _is_exempt(self, host: str, port: int | None) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return any(_covers(entry, host, port) for entry in self.exempt)
        return address.is_loopback or any(_holds(entry, address) for entry in self.exempt)


def _with_scheme(url: str) -> str:
    return url if "://" in url else f"http://{url}"


def _covers(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of NO_PROXY means a name: itself, what ends with it, everything."""
    name, _, wanted = entry.partition(":")
    if wanted and wanted != str(port):
        return False
    name = name.removeprefix("*")
    return not name or host == name.lstrip(".") or host.endswith("." + name.lstrip("."))


def _holds(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if entry == "*":
        return True
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
