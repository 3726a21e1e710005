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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Message, Netlink
from sampan.kernel.netns import enter
from sampan.kernel.nft import Nft, NftError
from sampan.network.files import RESOLVER

TABLE = "sampan"


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


@dataclass(frozen=True, slots=True)
class Rules:
    """What the namespace's own table is to do.

    ``loopback_ports`` are the (protocol, port) published ones, which may fall back to the container's
    127.0.0.1; ``resolver`` are the UDP and TCP port behind 127.0.0.11:53, 0 for none.
    """

    loopback_ports: tuple[tuple[str, int], ...] = ()
    resolver: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Built:
    """What :func:`build` made: the sockets of the resolver (UDP, TCP), and what it had to leave out."""

    resolver: tuple[socket.socket, socket.socket] | None = None
    warnings: list[str] = field(default_factory=list)
    contexts: list[Nft] = field(default_factory=list)

    def finish(self) -> None:
        """Close what isn't needed any more. Slow (over 10 ms): the kernel waits for its readers."""
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
    """Make all interfaces and rules of a new sandbox. Enters the namespace: for a thread that ends after.

    ``host`` is a route socket of the host's namespace; call ``built.finish`` when nobody waits.
    Raises OSError; what was made ends with the namespace.
    """
    planned = list(interfaces)
    for item in planned:
        make_link(host, netns, item)
    enter(netns)
    with Netlink() as inside:
        inside.send(rt.change_link(1, up=True))
        for item in planned:
            configure(inside, item, localnet=bool(loopback_ports))
    if resolver:
        built.resolver = resolver_sockets()
    ports = tuple(item.getsockname()[1] for item in built.resolver) if built.resolver else (0, 0)
    write_rules(Rules(loopback_ports, (ports[0], ports[1])), built)


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
            rt.add_veth(item.outer, item.name, netns=netns, mac=item.mac, mtu=item.mtu, master=item.parent)
        ]
        if item.hairpin or item.isolated:
            messages.append(rt.bridge_port(item.outer, hairpin=item.hairpin, isolated=item.isolated))
    host.send(*messages)


def configure(inside: Netlink, item: Interface, *, localnet: bool = False) -> None:
    """Addresses, sysctls and routes of one interface, from a thread in the namespace."""
    link = rt.parse_link(inside.send(rt.get_link(item.name))[0])
    settings = dict(item.sysctls)
    # Tells neighbours that the address has a new owner: they may remember its last one's MAC address.
    settings.setdefault(f"net.ipv4.conf.{item.name}.arp_notify", "1")
    if localnet:
        settings[f"net.ipv4.conf.{item.name}.route_localnet"] = "1"
    settings.setdefault(f"net.ipv6.conf.{item.name}.disable_ipv6", "0" if item.ipv6 else "1")
    for name, value in settings.items():
        write_sysctl(name, value, missing_ok=name.startswith("net.ipv6."))
    messages = [rt.add_address(link.index, address) for address in item.addresses]
    messages.append(rt.change_link(link.index, up=True))
    messages += [rt.add_route(route, index=link.index) for route in item.routes]
    inside.send(*messages)
    set_gateways(inside, link.index, item.gateways)


def set_gateways(inside: Netlink, index: int, gateways: Iterable[rt.Address]) -> None:
    """Make an interface the way out: default routes by these gateways, or none when it has no gateway."""
    messages = [
        rt.add_route(ipaddress.ip_network("0.0.0.0/0" if gateway.version == 4 else "::/0"), gateway=gateway,
                     index=index)
        for gateway in gateways
    ]  # fmt: skip
    if messages:
        inside.send(*messages)


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
    """The namespace's table in nft's language; "" when there is nothing to do.

    A published port goes to 127.0.0.1 only while no socket on the wildcard or the interface's own address
    takes it: ``socket`` looks for one, connection by connection.
    """
    loopback = "".join(
        f'    iifname != "lo" {protocol} dport {port} socket wildcard {wildcard} return\n'
        for protocol, port in rules.loopback_ports
        for wildcard in (0, 1)
    ) + "".join(
        f'    iifname != "lo" {protocol} dport {port} dnat to 127.0.0.1\n'
        for protocol, port in rules.loopback_ports
    )
    udp, tcp = rules.resolver
    lookup = ""
    if udp:
        lookup = (
            f"    ip daddr {RESOLVER} udp dport 53 dnat to {RESOLVER}:{udp}\n"
            f"    ip daddr {RESOLVER} tcp dport 53 dnat to {RESOLVER}:{tcp}\n"
        )
    if not loopback and not lookup:
        return ""
    text = f"add table ip {TABLE}\ndelete table ip {TABLE}\ntable ip {TABLE} {{\n"
    if loopback:
        text += (
            f"  chain prerouting {{ type nat hook prerouting priority -100; policy accept;\n{loopback}  }}\n"
        )
    if lookup:
        text += f"  chain output {{ type nat hook output priority -100; policy accept;\n{lookup}  }}\n"
    return text + "}\n"


def write_rules(rules: Rules, built: Built) -> None:
    """Put the rules into the namespace of the calling thread. NftError for the resolver's, else a warning."""
    text = rules_text(rules)
    if not text:
        return
    nft = Nft()
    built.contexts.append(nft)
    try:
        nft.run(text)
    except NftError as failure:
        plain = rules_text(Rules((), rules.resolver))
        if plain:
            nft.run(plain)
        if rules.loopback_ports:
            built.warnings.append(f"apps that listen on 127.0.0.1 only are not reached: {failure}")


def reopen_resolver(
    netns: int, loopback_ports: tuple[tuple[str, int], ...]
) -> tuple[socket.socket, socket.socket]:
    """New sockets for the resolver of a running sandbox, and its rules written anew for them."""
    enter(netns)
    sockets = resolver_sockets()
    ports = [item.getsockname()[1] for item in sockets]
    built = Built()
    write_rules(Rules(loopback_ports, (ports[0], ports[1])), built)
    built.finish()
    return sockets


def choose_gateways(inside: Netlink, ways: Mapping[str, Iterable[str]]) -> None:
    """Have exactly these default routes: gateways by interface name. From a thread in the namespace."""
    for route in rt.list_routes(inside):
        if route.destination.prefixlen == 0:
            inside.send(rt.delete_route(route.destination, gateway=route.gateway, index=route.index))
    for name, gateways in ways.items():
        link = rt.find_link(inside, name)
        if link is not None:
            set_gateways(inside, link.index, [ipaddress.ip_address(gateway) for gateway in gateways])
