"""What is remembered of networks and of containers on them: msgspec records, one JSON row each."""

from __future__ import annotations

import ipaddress
import secrets
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from sampan.storage.db import Database

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network

_SCHEMA = [
    "CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL)",
    "CREATE TABLE sandboxes (container TEXT PRIMARY KEY, record BLOB NOT NULL)",
]


DEFAULT = "bridge"
"""The network of containers that ask for none."""
JOINING, LEAVING = "joining", "leaving"


class Subnet(msgspec.Struct, omit_defaults=True):
    """One subnet of a network, as CIDR texts.

    An empty one is yet to be chosen, of ``family``; so is 0.0.0.0/N or ::/N, with this prefix length.
    """

    subnet: str
    gateway: str = ""
    ip_range: str = ""
    aux: dict[str, str] = {}
    family: int = 4

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.subnet else 4 if self.subnet else self.family

    @property
    def chosen(self) -> bool:
        """Whether it is known which one it is."""
        return bool(self.subnet) and not self.prefix().network_address.is_unspecified

    def prefix(self) -> Prefix:
        """The subnet, parsed."""
        return ipaddress.ip_network(self.subnet)


class NetworkRecord(msgspec.Struct, omit_defaults=True):
    """A network. ``device`` is its bridge, or the parent that was made for it; "" for the others."""

    id: str
    name: str
    driver: str
    created_ns: int
    subnets: list[Subnet] = []
    ipv4: bool = True
    ipv6: bool = False
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_from: str = ""
    config_only: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    device: str = ""
    predefined: bool = False

    @property
    def is_default_bridge(self) -> bool:
        """Whether it is the network called bridge, where names aren't resolved and addresses not chosen."""
        return self.predefined and self.driver == "bridge"


class Binding(msgspec.Struct, omit_defaults=True):
    """A published port (network.ports.Published, storable)."""

    port: int
    protocol: str
    host_ip: str
    host_port: int


class Endpoint(msgspec.Struct, omit_defaults=True):
    """A container's place on one network, while it runs."""

    id: str
    network_id: str
    network: str
    driver: str
    interface: str = ""
    outer: str = ""
    mac: str = ""
    ipv4: str = ""
    prefix4: int = 0
    gateway4: str = ""
    ipv6: str = ""
    prefix6: int = 0
    gateway6: str = ""
    aliases: list[str] = []
    dns_names: list[str] = []
    links: dict[str, str] = {}
    gw_priority: int = 0
    sysctls: dict[str, str] = {}
    # Further addresses of the interface (--link-local-ip), with their prefixes.
    link_local: list[str] = []
    # What is under way while the container runs: JOINING, LEAVING, or nothing.
    phase: str = ""

    def addresses(self) -> list[str]:
        """Its addresses, IPv4 first."""
        return [item for item in (self.ipv4, self.ipv6) if item]


class Sandbox(msgspec.Struct, omit_defaults=True):
    """The network side of a container that is started: from its preparation to its release."""

    container: str
    name: str
    hostname: str
    id: str
    mode: str
    endpoints: list[Endpoint] = []
    published: list[Binding] = []
    exposed: list[str] = []
    pid: int = 0
    resolver: bool = False
    servers: list[str] = []
    servers_inside: bool = False
    extra_hosts: dict[str, str] = {}
    egress: list[str] | None = None
    announced: list[str] = []
    # Links on the default bridge: container ids by alias.
    links: dict[str, str] = {}
    domainname: str = ""

    @property
    def label(self) -> str:
        """What its own addresses are called in its /etc/hosts."""
        return f"{self.hostname}.{self.domainname} {self.hostname}" if self.domainname else self.hostname


def new_id() -> str:
    """A random id of 64 hex digits."""
    return secrets.token_hex(32)


class Store:
    """The rows of networks and sandboxes. For one thread."""

    def __init__(self, db: Database) -> None:
        self._db = db
        db.migrate("networks", _SCHEMA)

    def load(self) -> tuple[list[NetworkRecord], list[Sandbox]]:
        """Everything stored, networks in the order in which they were made."""
        with self._db.transaction() as tx:
            networks = list(tx.execute("SELECT record FROM networks ORDER BY rowid"))
            sandboxes = list(tx.execute("SELECT record FROM sandboxes ORDER BY rowid"))
        return (
            [msgspec.json.decode(row[0], type=NetworkRecord) for row in networks],
            [msgspec.json.decode(row[0], type=Sandbox) for row in sandboxes],
        )

    def save_network(self, network: NetworkRecord) -> None:
        """Store a network, new or changed."""
        with self._db.transaction() as tx:
            tx.execute(
                "INSERT INTO networks (id, name, record) VALUES (?, ?, ?) "
                "ON CONFLICT (id) DO UPDATE SET name = excluded.name, record = excluded.record",
                (network.id, network.name, msgspec.json.encode(network)),
            )

    def delete_network(self, network_id: str) -> None:
        """Forget a network."""
        with self._db.transaction() as tx:
            tx.execute("DELETE FROM networks WHERE id = ?", (network_id,))

    def save_sandbox(self, sandbox: Sandbox) -> None:
        """Store a sandbox, new or changed."""
        self._db.execute(
            "INSERT OR REPLACE INTO sandboxes (container, record) VALUES (?, ?)",
            (sandbox.container, msgspec.json.encode(sandbox)),
        )

    def delete_sandbox(self, container: str) -> None:
        """Forget a sandbox."""
        self._db.execute("DELETE FROM sandboxes WHERE container = ?", (container,))
