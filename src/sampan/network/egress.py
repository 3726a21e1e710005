"""Egress control: what a container may reach, as written in ``sampan.egress``, and as nftables elements.

``allow=example.org,*.example.net:443,10.0.0.0/8:443,[2001:db8::]/32,192.0.2.7:53/udp``: names, addresses and
networks, each with a port or a range of ports (``:8000-8010``) and a protocol (tcp without one), or with
neither. Everything else is refused. An empty text, or ``none``, refuses all.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sampan.errors import InvalidParameter
from sampan.network.firewall import Elements
from sampan.network.ports import PROTOCOLS

_ICMP = {1: "icmp", 58: "icmpv6"}
_NAMES = {number: name for name, number in PROTOCOLS.items()} | _ICMP
_NUMBERS = {**PROTOCOLS, "icmp": 1, "ipv6-icmp": 58, "icmpv6": 58}
_MOST_PORTS = 16  # each is an element of its own, for every address that a name stands for
_NAME = re.compile(r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_FORM = re.compile(
    r"(?P<host>\[[^\]]+\](/\d+)?|[^:\[\]]+?)(:(?P<port>\d{1,5})(-(?P<last>\d{1,5}))?(/(?P<protocol>\w+))?)?"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing allowed: a name (``*.`` for all below it) or a network; port 0 means every port.

    ``last`` is the last port of a range, 0 where there is only one.
    """

    name: str = ""
    network: str = ""
    port: int = 0
    protocol: str = "tcp"
    last: int = 0

    def __str__(self) -> str:
        """As it is written."""
        host = self.name or self.network
        if ":" in host:
            address, _, length = host.partition("/")
            host = f"[{address}]/{length}"
        if not self.port:
            return host
        ports = f"{self.port}-{self.last}" if self.last else str(self.port)
        return f"{host}:{ports}" + (f"/{self.protocol}" if self.protocol != "tcp" else "")

    @property
    def ports(self) -> range:
        """The ports; of 0 alone for every port."""
        return range(self.port, (self.last or self.port) + 1)

    def as_dicts(self) -> list[dict[str, Any]]:
        """As the switchboard is told, one for each port."""
        protocol = PROTOCOLS[self.protocol]
        return [{"name": self.name, "port": port, "protocol": protocol} for port in self.ports]


def parse(text: str) -> list[Rule]:
    """The rules of a label's text. InvalidParameter for what is neither a name nor an address."""
    body = text.strip().removeprefix("allow=")
    if body.lower().rstrip(".") in ("", "none"):
        return []
    return [_rule(item.strip()) for item in body.split(",") if item.strip()]


def _rule(text: str) -> Rule:
    found = _FORM.fullmatch(text)
    port = int(found["port"] or 0) if found else 0
    last = int(found["last"] or 0) if found else 0
    protocol = (found["protocol"] or "tcp") if found else ""
    if not found or max(port, last) > 65535 or protocol not in PROTOCOLS or (last and not 0 < port <= last):
        raise InvalidParameter(
            f"invalid egress rule {text!r}",
            hint="Write example.org:443, 10.0.0.0/8:53/udp or 192.0.2.7:8000-8010.",
        )
    last = last if last != port else 0
    host = found["host"].replace("[", "").replace("]", "")
    try:
        return Rule("", str(ipaddress.ip_network(host, strict=False)), port, protocol, last)
    except ValueError:
        pass
    name = host.rstrip(".").lower()
    if not _NAME.fullmatch(name) or "/" in name or re.fullmatch(r"[0-9.]+", name):
        raise InvalidParameter(f"invalid egress rule {text!r}: {host!r} is neither a name nor an address")
    rule = Rule(name, "", port, protocol, last)
    if len(rule.ports) > _MOST_PORTS:
        raise InvalidParameter(
            f"invalid egress rule {text!r}: a name is opened for at most {_MOST_PORTS} ports",
            hint="Leave the ports out, or name addresses.",
        )
    return rule


def elements(rules: Iterable[Rule], sources: Iterable[str]) -> Elements:
    """The elements that put a container with these addresses under control. Names open nothing."""
    result: Elements = {}
    allowed = [rule for rule in rules if rule.network]
    for source in sources:
        version = 6 if ":" in source else 4
        result.setdefault(f"egress{version}", []).append(source)
        usable = [rule for rule in allowed if (":" in rule.network) == (":" in source)]
        for network in _collapsed(rule for rule in usable if not rule.port):
            result.setdefault(f"allow{version}", []).append(f"{source} . {network}")
        for network, protocol, ports in _apart([rule for rule in usable if rule.port]):
            key = f"{source} . {network} . {protocol} . {ports}"
            result.setdefault(f"allowport{version}", []).append(key)
    return result


def _collapsed(rules: Iterable[Rule]) -> list[str]:
    """The networks of rules of one IP version, none within another: a set of intervals takes no others."""
    networks: list[Any] = [ipaddress.ip_network(rule.network) for rule in rules]
    return [str(network) for network in ipaddress.collapse_addresses(networks)]


def _apart(rules: Sequence[Rule]) -> Iterator[tuple[str, int, str]]:
    """Networks, protocols and ports of rules, so that no two overlap."""
    for protocol, number in PROTOCOLS.items():
        known = [rule for rule in rules if rule.protocol == protocol]
        edges = sorted({edge for rule in known for edge in (rule.ports.start, rule.ports.stop)})
        for first, beyond in pairwise(edges):
            ports = str(first) if beyond == first + 1 else f"{first}-{beyond - 1}"
            for network in _collapsed(rule for rule in known if first in rule.ports):
                yield network, number, ports


def refused_entries(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries in nft's JSON of a ``refused`` set: source, destination, protocol, port, packets."""
    result = []
    for element in item.get("set", {}).get("elem", []):
        body = element.get("elem", {})
        source, destination, protocol, port = body["val"]["concat"]
        number = protocol if isinstance(protocol, int) else _NUMBERS.get(protocol, 0)
        protocol = _NAMES.get(number, str(protocol))
        packets = body.get("counter", {}).get("packets", 0)
        result.append(
            {
                "source": source,
                "destination": destination,
                "protocol": protocol,
                "port": 0 if number in _ICMP else port,
                "packets": packets,
            }
        )
    return result


@dataclass(frozen=True, slots=True)
class Refused:
    """A packet that was refused; ``port`` is 0 where the protocol has none."""

    source: str
    destination: str
    protocol: str
    port: int

    def __str__(self) -> str:
        """The destination as people write it."""
        if not self.port:
            return f"{self.destination} ({self.protocol})"
        host = f"[{self.destination}]" if ":" in self.destination else self.destination
        return f"{host}:{self.port}/{self.protocol}"


def refused_packet(packet: bytes) -> Refused | None:
    """What the headers of a packet say (RFC 791, RFC 8200); None when they are cut off or unknown.

    An IPv6 packet with extension headers is told of by its addresses alone.
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20:
        size, protocol, source, destination = (packet[0] & 15) * 4, packet[9], packet[12:16], packet[16:20]
    elif version == 6 and len(packet) >= 40:
        size, protocol, source, destination = 40, packet[6], packet[8:24], packet[24:40]
    else:
        return None
    ports = protocol in PROTOCOLS.values() and len(packet) >= size + 4
    port = int.from_bytes(packet[size + 2 : size + 4], "big") if ports else 0
    name = _NAMES.get(protocol, f"protocol {protocol}")
    return Refused(str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination)), name, port)
