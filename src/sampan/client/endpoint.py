"""Where the engine is: an address from the command line, the environment, a context, or the default."""

from __future__ import annotations

import os

from sampan.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SAMPAN_SOCKET = "/run/sampan.sock"
DOCKER_SOCKET = "/var/run/docker.sock"


class TLSFiles:
    """Which certificates a TLS connection uses; ``verify`` False accepts any server."""

    __slots__ = ("ca", "cert", "key", "server_name", "verify")

    def __init__(self, ca: str, cert: str, key: str, *, verify: bool, server_name: str = "") -> None:
        self.ca, self.cert, self.key = ca, cert, key
        self.verify = verify
        self.server_name = server_name


class Endpoint:
    """A parsed address. ``address`` is the socket's path or the host; ``path`` the far socket of ssh."""

    __slots__ = ("address", "path", "port", "scheme", "tls", "url", "user")

    def __init__(self, url: str) -> None:
        self.url = url
        self.scheme, self.address = url.split("://", 1)
        self.port = 0
        self.user = self.path = ""
        self.tls: TLSFiles | None = None

    @property
    def host_header(self) -> str:
        """What goes into HTTP's Host header."""
        if self.scheme != "tcp":
            return "sampan"
        name = f"[{self.address}]" if ":" in self.address else self.address
        return f"{name}:{self.port}"


def parse(url: str) -> Endpoint:
    """Parse ``unix:///path``, ``tcp://host:port`` (or bare), ``ssh://[user@]host[:port][/socket]``.

    Raises ClientError with Docker's words for anything else.
    """
    text = url.strip()
    if "://" not in text:
        text = f"unix://{text}" if text.startswith("/") else f"tcp://{text}"
    scheme, _, rest = text.partition("://")
    if scheme in ("http", "https"):
        text, scheme = f"tcp://{rest}", "tcp"
    if scheme not in ("unix", "tcp", "ssh") or not (rest or scheme in ("unix", "tcp")):
        raise ClientError(
            f"unable to parse docker host `{url}`",
            hint="Known addresses: unix:///path/to/socket, tcp://host:port, ssh://user@host.",
        )
    endpoint = Endpoint(text)
    if scheme == "unix":
        endpoint.address = rest or DOCKER_SOCKET
    elif scheme == "ssh":
        _parse_ssh(endpoint, rest)
    else:
        endpoint.address, endpoint.port = _host_port(rest.partition("/")[0], 2375, "localhost", url)
    return endpoint


def _parse_ssh(endpoint: Endpoint, rest: str) -> None:
    authority, slash, path = rest.partition("/")
    user, _, host = authority.rpartition("@")
    if ":" in user:
        raise ClientError(
            f"plain-text password is not supported in {endpoint.url}", hint="Use ssh keys or an agent."
        )
    endpoint.user = user
    endpoint.path = slash + path if path else ""
    endpoint.address, endpoint.port = _host_port(host, 0, "", endpoint.url)
    if not endpoint.address or endpoint.address.startswith("-"):
        raise ClientError(f"no host specified in {endpoint.url}")


def _host_port(text: str, port: int, default: str, url: str) -> tuple[str, int]:
    host, number = text, ""
    if text.startswith("["):
        host, _, tail = text[1:].partition("]")
        number = tail.removeprefix(":")
    elif ":" in text:
        host, _, number = text.rpartition(":")
    if number and not (number.isdigit() and int(number) < 65536):
        raise ClientError(f"invalid port in address {url!r}: {number}")
    return host or default, int(number or port)


def default_url() -> str:
    """sampan's own socket where there is one, else Docker's."""
    return f"unix://{SAMPAN_SOCKET if os.path.exists(SAMPAN_SOCKET) else DOCKER_SOCKET}"


def environment_url(environ: Mapping[str, str]) -> str:
    """``SAMPAN_HOST`` or ``DOCKER_HOST``."""
    return environ.get("SAMPAN_HOST") or environ.get("DOCKER_HOST") or ""
