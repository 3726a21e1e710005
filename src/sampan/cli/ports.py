"""``-p`` and ``--expose``: ports, ranges and addresses."""

from __future__ import annotations

from sampan.cli import values
from sampan.cli.errors import CLIError

PROTOCOLS = ("tcp", "udp", "sctp")
Bindings = dict[str, list[dict[str, str]]]


def port_range(text: str) -> tuple[int, int]:
    """``80`` or ``80-90``. Raises ValueError."""
    first, dash, last = text.partition("-")
    low = _port(first)
    high = _port(last) if dash else low
    if high < low:
        raise ValueError(f"invalid range specified for port: {text}")
    return low, high


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise ValueError(f"invalid port: {text}")
    return int(text)


def publish(specifications: list[str]) -> tuple[dict[str, dict[str, str]], Bindings]:
    """Exposed ports and bindings of all ``-p``. Raises CLIError with Docker's words."""
    exposed: dict[str, dict[str, str]] = {}
    bindings: Bindings = {}
    for specification in specifications:
        for port, binding in _one(specification):
            exposed[port] = {}
            bindings.setdefault(port, []).append(binding)
    return exposed, bindings


def _one(text: str) -> list[tuple[str, dict[str, str]]]:
    if "=" in text:
        text = _long_form(text)
    body, slash, protocol = text.rpartition("/")
    if not slash:
        body, protocol = text, "tcp"
    address, host, container = _split(body)
    protocol = protocol.lower()
    if not container:
        raise CLIError(f"no port specified: {text}<empty>")
    try:
        low, high = port_range(container)
    except ValueError:
        raise CLIError(f"invalid containerPort: {container}") from None
    if protocol not in PROTOCOLS:
        raise CLIError(f"invalid proto: {protocol}")
    if address and not values.is_ip(address):
        raise CLIError(f"invalid IP address: {address}", hint="An address here is a number, not a name.")
    if not host:
        return [(f"{port}/{protocol}", {"HostIp": address, "HostPort": ""}) for port in range(low, high + 1)]
    try:
        host_low, host_high = port_range(host)
    except ValueError:
        raise CLIError(f"invalid hostPort: {host}") from None
    if high - low == host_high - host_low:
        return [
            (f"{low + i}/{protocol}", {"HostIp": address, "HostPort": str(host_low + i)})
            for i in range(high - low + 1)
        ]
    if low == high:  # one port on the first free one of a range
        return [(f"{low}/{protocol}", {"HostIp": address, "HostPort": f"{host_low}-{host_high}"})]
    raise CLIError(f"invalid ranges specified for container and host Ports: {container} and {host}")


def _split(body: str) -> tuple[str, str, str]:
    """Address, host port, container port of ``[::1]:80:80``, ``127.0.0.1::80``, ``80:80``, ``80``."""
    if body.startswith("["):
        address, _, rest = body[1:].partition("]")
        host, _, container = rest.removeprefix(":").rpartition(":")
        return address, host, container
    *address_parts, host, container = ["", *body.split(":")]
    return ":".join(address_parts).removeprefix(":"), host, container


def _long_form(text: str) -> str:
    """``published=8080,target=80,protocol=udp`` as the short form."""
    fields = dict(field.partition("=")[::2] for field in text.split(","))
    unknown = set(fields) - {"published", "target", "protocol", "mode"}
    if unknown:
        raise CLIError(f"invalid field key {sorted(unknown)[0]}")
    return f"{fields.get('published', '')}:{fields.get('target', '')}/{fields.get('protocol', 'tcp')}"


def expose(specifications: list[str]) -> dict[str, dict[str, str]]:
    """Ports of all ``--expose``. Raises CLIError with Docker's words."""
    exposed: dict[str, dict[str, str]] = {}
    for text in specifications:
        if ":" in text:
            raise CLIError(f"invalid port format for --expose: {text}")
        ports, _, protocol = text.partition("/")
        try:
            low, high = port_range(ports)
        except ValueError:
            raise CLIError(
                f"invalid range format for --expose: {text}, error: "
                f'strconv.ParseUint: parsing "{ports}": invalid syntax'
            ) from None
        for port in range(low, high + 1):
            exposed[f"{port}/{(protocol or 'tcp').lower()}"] = {}
    return exposed
