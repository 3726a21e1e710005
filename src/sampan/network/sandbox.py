"""The inside of a container's network namespace: links, addresses, routes and its own few nftables rules.

Everything here runs in a short thread that enters the namespace. The outer half of a veth is made from the
host's socket and put on its bridge by the same message that makes the inner half, so nothing is moved, and
nothing is ever deleted: when the namespace's last process ends, the kernel takes the pair away.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Message, Netlink
from sampan.kernel.netns import enter
from sampan.kernel.nft import Nft, NftError
from sampan.network import fallback
from sampan.network.fallback import Fallback
from sampan.network.files import RESOLVER

TABLE = "sampan"
_UNHEARD = "UDP apps that listen on ::1 only are not reached"
_CLEAR = "".join(f"add table {family} {TABLE}\ndelete table {family} {TABLE}\n" for family in ("ip", "ip6"))
# The resolver's ports are changed to 53 and back packet by packet: address translation would have the kernel
# track every connection of the container. Questions are changed before a tracking that other rules ask for,
# answers after it, so that it sees one connection.
_RESOLVER = f"""  chain asked {{{{ type filter hook output priority raw; policy accept;
    ip daddr {RESOLVER} udp dport 53 udp dport set {{udp}}
    ip daddr {RESOLVER} tcp dport 53 tcp dport set {{tcp}}
  }}}}
  chain answered {{{{ type filter hook output priority mangle; policy accept;
    ip saddr {RESOLVER} udp sport {{udp}} udp sport set 53
    ip saddr {RESOLVER} tcp sport {{tcp}} tcp sport set 53
  }}}}
"""


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface to make. ``parent`` is the index of the bridge, or of the macvlan's or ipvlan's parent.

    ``gateways`` are the default routes this interface gives (at most one of each IP version); ``outer`` is
    the name of the host's end of a veth.
    """

    name: str
    kind: str
    parent: int
    addresses: tuple[rt.Interface, ...]
    outer: str = ""
    mac: str = ""
    mtu: int = 0
    mode: str = ""
    flag: str = ""
    hairpin: bool = False
    isolated: bool = False
    gateways: tuple[rt.Address, ...] = ()
    routes: tuple[rt.Network, ...] = ()
    sysctls: Mapping[str, str] = field(default_factory=dict)

    @property
    def ipv6(self) -> bool:
        """Whether it has an IPv6 address."""
        return any(address.version == 6 for address in self.addresses)

    @property
    def ipv4(self) -> str:
        """Its IPv4 address, "" for none."""
        return next((str(address.ip) for address in self.addresses if address.version == 4), "")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the namespace's own tables are to do.

    ``fallback`` is for published ports; ``resolver`` are the UDP and TCP port behind 127.0.0.11:53, 0 for none.
    """

    fallback: Fallback = field(default_factory=Fallback)
    resolver: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Sockets:
    """What the switchboard serves inside: the resolver's sockets (UDP, TCP), and relays to the loopback.

    ``relays`` are those for TCP, ``unheard`` those for UDP, each first for IPv4.
    """

    resolver: tuple[socket.socket, socket.socket] | None = None
    relays: tuple[socket.socket, ...] = ()
    unheard: tuple[socket.socket, ...] = ()

    def in_order(self) -> tuple[socket.socket, ...]:
        """All, as they are handed over."""
        return (*(self.resolver or ()), *self.relays, *self.unheard)

    @property
    def any(self) -> bool:
        """Whether there is one at all."""
        return bool(self.in_order())

    def close(self) -> None:
        """Close all that is still here."""
        for sock in self.in_order():
            sock.close()


@dataclass(slots=True)
class Built:
    """What :func:`build` made: sockets, and what it had to leave out."""

    sockets: Sockets = field(default_factory=Sockets)
    warnings: list[str] = field(default_factory=list)
    contexts: list[Nft] = field(default_factory=list)

    def finish(self) -> None:
        """Close what isn't needed any more, when nobody waits: after a deletion the kernel takes over 10 ms."""
        while self.contexts:
            self.contexts.pop().close()


def build(
    built: Built,
    netns: int,
    host: Netlink,
    interfaces: Iterable[Interface],
    *,
    loopback_ports: tuple[tuple[str, int], ...] = (),
    resolver: bool = False,
) -> None:
    """Make all interfaces and rules of a new sandbox, whose loopback is up already.

    Enters the namespace: for a thread that ends after.

    ``host`` is a route socket of the host's namespace; call ``built.finish`` when nobody waits.
    Raises OSError; what was made ends with the namespace.
    """
    planned = list(interfaces)
    for item in planned:
        make_link(host, netns, item)
    enter(netns)
    with Netlink() as inside:
        for item in planned:
            configure(inside, item, localnet=bool(loopback_ports))
    serve(built, planned, loopback_ports=loopback_ports, resolver=resolver)


def serve(
    built: Built,
    interfaces: Iterable[Interface],
    *,
    loopback_ports: tuple[tuple[str, int], ...],
    resolver: bool,
    again: bool = False,
) -> None:
    """The sockets for resolver and relays, and the rules that lead to them. From a thread in the namespace."""
    planned = list(interfaces)
    sockets = built.sockets
    if resolver:
        sockets.resolver = resolver_sockets()
    protocols = {protocol for protocol, _port in loopback_ports}
    ipv6 = any(item.ipv6 for item in planned)
    if "tcp" in protocols:
        sockets.relays = fallback.relay_sockets(ipv6=ipv6)
    if "udp" in protocols:
        try:
            sockets.unheard = fallback.unheard_sockets(ipv6=ipv6)
        except OSError as failure:
            built.warnings.append(f"{_UNHEARD}: {failure}")
    own = tuple((item.name, item.ipv4) for item in planned if item.ipv4)
    found = Fallback(loopback_ports, own, _ports(sockets.relays), _ports(sockets.unheard))
    write_rules(Rules(found, _ports(sockets.resolver or ())), built, again=again)


def _ports(sockets: Sequence[socket.socket]) -> tuple[int, int]:
    """Their ports, 0 for one that isn't there."""
    numbers = [item.getsockname()[1] for item in sockets] + [0, 0]
    return numbers[0], numbers[1]


def make_link(host: Netlink, netns: int, item: Interface) -> None:
    """Make one interface, its inner end in the namespace already."""
    messages: list[Message]
    if item.kind == "macvlan":
        messages = [
            rt.add_macvlan(item.name, item.parent, item.mode, netns=netns, mac=item.mac, mtu=item.mtu)
        ]
    elif item.kind == "ipvlan":
        messages = [rt.add_ipvlan(item.name, item.parent, item.mode, item.flag, netns=netns, mtu=item.mtu)]
    else:
        messages = [
            rt.add_veth(item.outer, item.name, netns=netns, mac=item.mac, mtu=item.mtu, master=item.parent),
            # A bridge's port receives for the bridge: an address of its own would only make noise on it.
            rt.without_own_ipv6(item.outer),
        ]
        if item.hairpin or item.isolated:
            messages.append(rt.bridge_port(item.outer, hairpin=item.hairpin, isolated=item.isolated))
    try:
        host.send(*messages)
    except OSError as failure:
        if item.kind == "bridge":
            raise
        words = os.strerror(failure.errno or 0).lower()
        raise OSError(f"failed to create the {item.kind} port: {words}") from failure


def configure(inside: Netlink, item: Interface, *, localnet: bool = False) -> None:
    """Addresses, sysctls and routes of one interface, from a thread in the namespace."""
    index = socket.if_nametoindex(item.name)
    settings = dict(item.sysctls)
    settings.setdefault(f"net.ipv6.conf.{item.name}.disable_ipv6", "0" if item.ipv6 else "1")
    for name, value in settings.items():
        write_sysctl(name, value, missing_ok=name.startswith("net.ipv6."))
    inside.send(
        rt.set_ipv4(index, _ipv4_settings(item, localnet)),
        *(rt.add_address(index, address) for address in item.addresses),
        rt.change_link(index, up=True),
        *(rt.add_route(route, index=index) for route in item.routes),
        *_default_routes(index, item.gateways),
    )


def _ipv4_settings(item: Interface, localnet: bool) -> list[tuple[int, int]]:
    """Settings for the kernel; what was asked for by name (``item.sysctls``) stays as it is."""
    settings = [(rt.ROUTE_LOCALNET, 1)] if localnet else []
    if f"net.ipv4.conf.{item.name}.arp_notify" not in item.sysctls:
        # Tells neighbours that the address has a new owner: they may remember its last one's MAC address.
        settings.append((rt.ARP_NOTIFY, 1))
    return settings


def set_gateways(inside: Netlink, index: int, gateways: Iterable[rt.Address]) -> None:
    """Make an interface the way out: default routes by these gateways, or none when it has no gateway."""
    messages = _default_routes(index, gateways)
    if messages:
        inside.send(*messages)


def _default_routes(index: int, gateways: Iterable[rt.Address]) -> list[Message]:
    return [
        rt.add_route(ipaddress.ip_network("0.0.0.0/0" if gateway.version == 4 else "::/0"), gateway=gateway,
                     index=index)
        for gateway in gateways
    ]  # fmt: skip


def write_sysctl(name: str, value: str, *, missing_ok: bool = False) -> None:
    """Write a net.* sysctl of the calling thread's namespace. OSError; ENOENT is none with ``missing_ok``."""
    path = "/proc/sys/" + "/".join(_sysctl_parts(name))
    with contextlib.suppress(FileNotFoundError) if missing_ok else contextlib.nullcontext():
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def _sysctl_parts(name: str) -> list[str]:
    """The path of a sysctl: dots separate, but an interface's own dots come as slashes (sysctl(8))."""
    return [part.replace("/", ".") for part in name.split(".")]


def resolver_sockets() -> tuple[socket.socket, socket.socket]:
    """The UDP and the TCP socket behind 127.0.0.11:53, on ports of the kernel's choice.

    Not on 53 itself: the container's own name server on 0.0.0.0:53 would then fail to start.
    """
    with contextlib.ExitStack() as undo:
        datagrams = undo.enter_context(_socket(socket.SOCK_DGRAM))
        streams = undo.enter_context(_socket(socket.SOCK_STREAM))
        streams.listen(64)
        undo.pop_all()
    return datagrams, streams


def _socket(kind: int) -> socket.socket:
    result = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        result.bind((RESOLVER, 0))
    except BaseException:
        result.close()
        raise
    return result


def rules_text(rules: Rules) -> str:
    """The namespace's tables in nft's language; "" when there is nothing to do."""
    text = fallback.ipv4_text(rules.fallback)
    udp, tcp = rules.resolver
    if udp:
        text += _RESOLVER.format(udp=udp, tcp=tcp)
    if not text:
        return ""
    return f"table ip {TABLE} {{\n{text}}}\n" + fallback.ipv6_text(rules.fallback, TABLE)


def write_rules(rules: Rules, built: Built, *, again: bool) -> None:
    """Put the rules into the namespace of the calling thread. NftError for the resolver's, else a warning.

    ``again`` takes older ones away; in a new namespace there are none, and a deletion would cost the start
    over 10 ms (the kernel waits for its readers).
    """
    text = rules_text(rules)
    if not text:
        return
    nft = Nft()
    built.contexts.append(nft)
    clear = _CLEAR if again else ""
    try:
        nft.run(clear + text)
    except NftError as failure:
        _write_less(rules, built, nft, clear, failure)


def _write_less(rules: Rules, built: Built, nft: Nft, clear: str, failure: NftError) -> None:
    """Rules that a kernel without some of nftables' modules takes, too."""
    less = replace(rules, fallback=replace(rules.fallback, unheard=(0, 0)))
    with contextlib.suppress(NftError):
        if rules.fallback.unheard[0]:
            nft.run(clear + rules_text(less))
            built.warnings.append(f"{_UNHEARD}: {failure}")
            return
    plain = rules_text(Rules(Fallback(), rules.resolver))
    if plain:
        nft.run(clear + plain)
    if rules.fallback.ports:
        built.warnings.append(f"apps that listen on 127.0.0.1 only are not reached: {failure}")


def reopen(
    netns: int,
    interfaces: Iterable[Interface],
    *,
    loopback_ports: tuple[tuple[str, int], ...],
    resolver: bool,
) -> Sockets:
    """New sockets for a running sandbox, and its rules written anew for them. Enters the namespace."""
    enter(netns)
    built = Built()
    try:
        serve(built, interfaces, loopback_ports=loopback_ports, resolver=resolver, again=True)
    except BaseException:
        built.sockets.close()
        raise
    finally:
        built.finish()
    return built.sockets


def interface_changed(name: str, ipv4: str, *, left: bool = False) -> None:
    """Tell the rules for published ports of an interface that came or went. From a thread in the namespace."""
    make = fallback.left_text if left else fallback.joined_text
    with contextlib.suppress(NftError), Nft() as nft:
        nft.run(make(TABLE, name, ipv4))


def choose_gateways(inside: Netlink, ways: Mapping[str, Iterable[str]]) -> None:
    """Have exactly these default routes: gateways by interface name. From a thread in the namespace."""
    for route in rt.list_routes(inside):
        if route.destination.prefixlen == 0:
            inside.send(rt.delete_route(route.destination, gateway=route.gateway, index=route.index))
    for name, gateways in ways.items():
        link = rt.find_link(inside, name)
        if link is not None:
            set_gateways(inside, link.index, [ipaddress.ip_address(gateway) for gateway in gateways])
