"""Bridges: made when missing, marked as ours, removed only when they are."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator

from sampan.errors import SystemFailure, said
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from sampan.network.sandbox import write_sysctl


def mark(table: str) -> str:
    """The alias that the bridges of an engine carry: how it knows them after a crash."""
    return f"sampan engine {table}"


def _mac(name: str) -> str:
    """A bridge's own address, made from its name: without one it changes with every port that joins."""
    raw = bytearray(hashlib.sha256(name.encode()).digest()[:6])
    raw[0] = (raw[0] | 0x02) & 0xFE
    return raw.hex(":")


def ensure(
    route: Netlink, name: str, addresses: Iterable[rt.Interface], *, table: str, mtu: int = 0
) -> tuple[int, bool]:
    """The index of a bridge that has these addresses, and whether it is ours.

    A bridge that exists is taken as it is, missing addresses are added. SystemFailure when ``name`` is
    another kind of link, or when the kernel refuses.
    """
    link = rt.find_link(route, name)
    wanted = list(addresses)
    try:
        if link is None:
            _make(route, name, mtu, table, ipv6=any(_six(wanted)))
            link = rt.find_link(route, name)
        if link is None or link.kind != "bridge":
            raise SystemFailure(
                f"existing interface {name} is not a bridge",
                hint="Remove that link, or name another bridge.",
            )
        if any(_six(wanted)) and link.alias == mark(table):
            _set6(name, "accept_ra", "0")  # what containers advertise is none of the host's business
            _set6(name, "disable_ipv6", "0")
        have = {item.address for item in rt.list_addresses(route) if item.index == link.index}
        messages = [rt.add_address(link.index, item) for item in wanted if item not in have]
        if not link.up:
            messages.append(rt.change_link(link.index, up=True))
        if messages:
            route.send(*messages)
    except OSError as failure:
        hint = "IPv6 needs an MTU of 1280 or more." if mtu and mtu < 1280 and any(_six(wanted)) else ""
        raise SystemFailure(
            f"failed to create bridge {name} via netlink: {said(failure)}", hint=hint
        ) from failure
    return link.index, link.alias == mark(table)


def _six(addresses: Iterable[rt.Interface]) -> Iterator[bool]:
    return (item.version == 6 for item in addresses)


def _make(route: Netlink, name: str, mtu: int, table: str, *, ipv6: bool) -> None:
    route.send(rt.add_bridge(name, mac=_mac(name), mtu=mtu), rt.change_link(name=name, alias=mark(table)))
    # Nobody else can have our link-local address; while it is being looked for, nothing would be forwarded.
    setting, value = ("accept_dad", "0") if ipv6 else ("disable_ipv6", "1")
    _set6(name, setting, value)


def _set6(name: str, setting: str, value: str) -> None:
    write_sysctl(f"net.ipv6.conf.{name.replace('.', '/')}.{setting}", value, missing_ok=True)


def address_of(route: Netlink, name: str) -> rt.Interface | None:
    """The IPv4 address that an existing bridge has; None when there is no such link, or it has none."""
    link = rt.find_link(route, name)
    if link is None:
        return None
    for item in rt.list_addresses(route):
        if item.index == link.index and item.address.version == 4:
            return item.address
    return None


def remove(route: Netlink, name: str, table: str) -> bool:
    """Remove a bridge if it carries our mark; whether it did."""
    link = rt.find_link(route, name)
    if link is None or link.alias != mark(table):
        return False
    route.send(rt.delete_link(link.index))
    return True


def ours(route: Netlink, table: str) -> list[str]:
    """The names of all bridges with our mark."""
    return [link.name for link in rt.list_links(route) if link.alias == mark(table)]


def ports(route: Netlink, table: str) -> list[str]:
    """The names of the links that hang on bridges with our mark."""
    links = rt.list_links(route)
    marked = {link.index for link in links if link.alias == mark(table)}
    return [link.name for link in links if link.master in marked]


def host_networks(route: Netlink, *, without: Iterable[str] = ()) -> list[rt.Network]:
    """The subnets that the host's routes and addresses use, default routes and given links left out."""
    links = {link.index: link.name for link in rt.list_links(route)}
    skipped = {index for index, name in links.items() if name in set(without)}
    found: list[rt.Network] = [
        item.destination
        for item in rt.list_routes(route)
        if item.destination.prefixlen and item.index not in skipped and not item.destination.is_link_local
    ]
    found += [item.address.network for item in rt.list_addresses(route) if item.index not in skipped]
    return [item for item in found if not item.is_loopback and not item.is_link_local]


def servers_networks(servers: Iterable[str]) -> list[rt.Network]:
    """Name servers as networks of one address: a new network must not hide them."""
    result: list[rt.Network] = []
    for server in servers:
        try:
            result.append(ipaddress.ip_network(server))
        except ValueError:
            continue
    return result
