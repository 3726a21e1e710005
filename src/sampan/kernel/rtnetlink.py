"""Links, addresses and routes, rtnetlink(7): the messages that make them and the parsers that list them.

Every function is pure: it returns a :class:`~sampan.kernel.netlink.Message` for a batch, or reads a reply's
body. Indexes are interface indexes of the namespace that the socket belongs to.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from sampan.kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Netlink,
    attribute,
    attributes,
    nest,
    number,
    text,
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26

IFF_UP = 0x1
IFF_LOOPBACK = 0x8

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 18, 20, 26, 28
_IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 31, 32
_IFLA_INET_CONF, _IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 1, 8, 1
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_BRPORT_MODE, _BRPORT_ISOLATED = 4, 33
_MACVLAN_MODE = 1
_IPVLAN_MODE, _IPVLAN_FLAGS = 1, 2
_VLAN_ID = 1
_BR_FORWARD_DELAY = 1

_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_IFA_F_NODAD = 0x02
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_TABLE = 1, 4, 5, 6, 15
_RTPROT_BOOT, _RTN_UNICAST = 3, 1
_RT_TABLE_MAIN, _RT_TABLE_LOCAL = 254, 255

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}

_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")


# Settings of an interface for IPv4: what net.ipv4.conf.*.NAME is called in a message (linux/ip.h).
ARP_NOTIFY, ROUTE_LOCALNET = 22, 26


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. ``lower`` is what a veth, vlan or macvlan hangs on; 0 for none."""

    index: int
    name: str
    flags: int
    kind: str
    mac: str
    mtu: int
    master: int
    lower: int
    alias: str

    @property
    def up(self) -> bool:
        """Whether it is administratively up."""
        return bool(self.flags & IFF_UP)


def _link(body: bytes, *, flags: int = 0, index: int = 0, up: bool | None = None) -> Message:
    state, mask = (IFF_UP if up else 0, IFF_UP) if up is not None else (0, 0)
    return Message(_NEWLINK, flags, _IFINFO.pack(socket.AF_UNSPEC, 0, index, state, mask) + body)


def mac_bytes(mac: str) -> bytes:
    """The six bytes of ``aa:bb:cc:dd:ee:ff``. ValueError when it is anything else."""
    raw = bytes.fromhex(mac.replace(":", "").replace("-", ""))
    if len(raw) != 6:
        raise ValueError(f"invalid MAC address: {mac}")
    return raw


def _common(name: str, mac: str, mtu: int, netns: int | None) -> bytes:
    parts = [text(_IFLA_IFNAME, name)]
    if mac:
        parts.append(attribute(_IFLA_ADDRESS, mac_bytes(mac)))
    if mtu:
        parts.append(number(_IFLA_MTU, mtu))
    if netns is not None:
        parts.append(number(_IFLA_NET_NS_FD, netns))
    return b"".join(parts)


def _info(kind: str, *data: bytes) -> bytes:
    return nest(_IFLA_LINKINFO, text(_INFO_KIND, kind), *([nest(_INFO_DATA, *data)] if data else []))


def add_bridge(name: str, *, mac: str = "", mtu: int = 0) -> Message:
    """A new bridge, down. Its forward delay is 0: a port forwards from the moment it joins."""
    body = _common(name, mac, mtu, None) + _info("bridge", number(_BR_FORWARD_DELAY, 0))
    return _link(body, flags=NLM_F_CREATE | NLM_F_EXCL)


def add_veth(
    name: str, peer: str, *, netns: int | None, mac: str = "", mtu: int = 0, master: int = 0
) -> Message:
    """A pair: ``name`` here, up, a port of the bridge ``master``; ``peer``, ``mac`` in ``netns`` (a fd).

    Both ends have one queue, as veths had before Linux 5.15: with one a processor, whose directories in /sys
    take the most of a link's making, nothing is faster, for a veth sends without a lock.
    """
    queues = number(_IFLA_NUM_TX_QUEUES, 1) + number(_IFLA_NUM_RX_QUEUES, 1)
    inside = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + _common(peer, mac, mtu, netns) + queues
    body = _common(name, "", mtu, None) + queues + _info("veth", attribute(_VETH_INFO_PEER, inside))
    if master:
        body += number(_IFLA_MASTER, master)
    return _link(body, flags=NLM_F_CREATE | NLM_F_EXCL, up=True)


def bridge_port(name: str, *, hairpin: bool = False, isolated: bool = False) -> Message:
    """Set a port's hairpin mode (frames may leave where they came in) and isolation from isolated ports."""
    data = nest(_INFO_SLAVE_DATA, number(_BRPORT_MODE, hairpin, "B"), number(_BRPORT_ISOLATED, isolated, "B"))
    return _link(text(_IFLA_IFNAME, name) + nest(_IFLA_LINKINFO, text(_INFO_SLAVE_KIND, "bridge"), data))


def without_own_ipv6(name: str) -> Message:
    """Keep a link without an IPv6 address of its own making. Optional: a kernel may have no IPv6."""
    mode = nest(socket.AF_INET6, number(_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE, "B"))
    return _link(text(_IFLA_IFNAME, name) + nest(_IFLA_AF_SPEC, mode))._replace(optional=True)


def set_ipv4(index: int, settings: Iterable[tuple[int, int]]) -> Message:
    """Change settings of a link for IPv4 (``ARP_NOTIFY`` …): cheaper than by files below /proc/sys."""
    values = nest(_IFLA_INET_CONF, *(number(setting, value) for setting, value in settings))
    return _link(nest(_IFLA_AF_SPEC, nest(socket.AF_INET, values)), index=index)


def add_macvlan(
    name: str, lower: int, mode: str, *, netns: int | None, mac: str = "", mtu: int = 0
) -> Message:
    """A macvlan on ``lower``; ``mode`` is a key of MACVLAN_MODES."""
    body = _common(name, mac, mtu, netns) + number(_IFLA_LINK, lower)
    body += _info("macvlan", number(_MACVLAN_MODE, MACVLAN_MODES[mode]))
    return _link(body, flags=NLM_F_CREATE | NLM_F_EXCL)


def add_ipvlan(name: str, lower: int, mode: str, flag: str, *, netns: int | None, mtu: int = 0) -> Message:
    """An ipvlan on ``lower``; ``mode`` a key of IPVLAN_MODES, ``flag`` one of IPVLAN_FLAGS."""
    data = (number(_IPVLAN_MODE, IPVLAN_MODES[mode], "H"), number(_IPVLAN_FLAGS, IPVLAN_FLAGS[flag], "H"))
    body = _common(name, "", mtu, netns) + number(_IFLA_LINK, lower) + _info("ipvlan", *data)
    return _link(body, flags=NLM_F_CREATE | NLM_F_EXCL)


def add_vlan(name: str, lower: int, tag: int) -> Message:
    """A tagged (802.1Q) sub-interface of ``lower``, up."""
    body = _common(name, "", 0, None) + number(_IFLA_LINK, lower) + _info("vlan", number(_VLAN_ID, tag, "H"))
    return _link(body, flags=NLM_F_CREATE | NLM_F_EXCL, up=True)


def add_dummy(name: str) -> Message:
    """An interface that leads nowhere, up: the parent of macvlan and ipvlan networks that have none."""
    return _link(_common(name, "", 0, None) + _info("dummy"), flags=NLM_F_CREATE | NLM_F_EXCL, up=True)


def change_link(
    index: int = 0,
    *,
    name: str = "",
    up: bool | None = None,
    master: int | None = None,
    alias: str | None = None,
    mac: str = "",
    mtu: int = 0,
) -> Message:
    """Change a link that is found by ``index``, or else by ``name``; only what is given changes."""
    body = b"" if index else text(_IFLA_IFNAME, name)
    if index and name:
        body += text(_IFLA_IFNAME, name)
    if mac:
        body += attribute(_IFLA_ADDRESS, mac_bytes(mac))
    if mtu:
        body += number(_IFLA_MTU, mtu)
    if master is not None:
        body += number(_IFLA_MASTER, master)
    if alias is not None:
        body += attribute(_IFLA_IFALIAS, alias.encode())
    return _link(body, index=index, up=up)


def delete_link(index: int) -> Message:
    """Remove a link. Slow for a veth (over 30 ms): let go of its namespace instead where that is possible."""
    return Message(_DELLINK, 0, _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0))


def get_link(name: str) -> Message:
    """Ask for one link by name; :func:`parse_link` reads the answer. ENODEV when there is none."""
    return Message(_GETLINK, 0, _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, name))


def parse_link(body: bytes) -> Link:
    """A Link from the body of an RTM_NEWLINK."""
    _family, _type, index, flags, _change = _IFINFO.unpack_from(body)
    found = dict(attributes(body[_IFINFO.size :]))
    info = dict(attributes(found.get(_IFLA_LINKINFO, b"")))
    return Link(
        index,
        found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="surrogateescape"),
        flags,
        info.get(_INFO_KIND, b"").rstrip(b"\0").decode(),
        found.get(_IFLA_ADDRESS, b"").hex(":"),
        _u32(found.get(_IFLA_MTU)),
        _u32(found.get(_IFLA_MASTER)),
        _u32(found.get(_IFLA_LINK)),
        found.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"),
    )


def _u32(payload: bytes | None) -> int:
    return int(struct.unpack("=I", payload)[0]) if payload else 0


def find_link(route: Netlink, name: str) -> Link | None:
    """The link called ``name``, or None."""
    try:
        return parse_link(route.send(get_link(name))[0])
    except OSError:
        return None


def list_links(route: Netlink) -> list[Link]:
    """All links of the namespace."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    return [parse_link(answer) for answer in route.dump(_GETLINK, body)]


def _family(address: Address | Network | Interface) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def add_address(index: int, address: Interface) -> Message:
    """Give an interface an address; one already there stays. No duplicate address detection."""
    return Message(_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, _address(index, address))


def delete_address(index: int, address: Interface) -> Message:
    """Take an address away again."""
    return Message(_DELADDR, 0, _address(index, address))


def _address(index: int, address: Interface) -> bytes:
    prefix = address.network.prefixlen
    body = _IFADDR.pack(_family(address), prefix, 0, _RT_SCOPE_UNIVERSE, index)
    body += attribute(_IFA_LOCAL, address.ip.packed) + attribute(_IFA_ADDRESS, address.ip.packed)
    if address.version == 6:
        return body + number(_IFA_FLAGS, _IFA_F_NODAD)
    if prefix < 31:
        body += attribute(_IFA_BROADCAST, address.network.broadcast_address.packed)
    return body


@dataclass(frozen=True, slots=True)
class Assigned:
    """An address that an interface has."""

    index: int
    address: Interface


def list_addresses(route: Netlink) -> list[Assigned]:
    """All addresses of the namespace."""
    result = []
    for body in route.dump(_GETADDR, _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        _fam, prefix, _flags, _scope, index = _IFADDR.unpack_from(body)
        found = dict(attributes(body[_IFADDR.size :]))
        raw = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
        if raw:
            result.append(Assigned(index, ipaddress.ip_interface((ipaddress.ip_address(raw), prefix))))
    return result


@dataclass(frozen=True, slots=True)
class Route:
    """A route. ``destination`` of prefix 0 is a default route; ``gateway`` None means directly attached."""

    destination: Network
    gateway: Address | None
    index: int
    metric: int


def add_route(
    destination: Network, *, gateway: Address | None = None, index: int = 0, metric: int = 0
) -> Message:
    """A route of the main table; the same route again is replaced."""
    return Message(_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, _route(destination, gateway, index, metric))


def delete_route(destination: Network, *, gateway: Address | None = None, index: int = 0) -> Message:
    """Take a route of the main table away."""
    return Message(_DELROUTE, 0, _route(destination, gateway, index, 0))


def _route(destination: Network, gateway: Address | None, index: int, metric: int) -> bytes:
    scope = _RT_SCOPE_UNIVERSE if gateway is not None or destination.version == 6 else _RT_SCOPE_LINK
    body = _RTMSG.pack(
        _family(destination),
        destination.prefixlen,
        0,
        0,
        _RT_TABLE_MAIN,
        _RTPROT_BOOT,
        scope,
        _RTN_UNICAST,
        0,
    )
    if destination.prefixlen:
        body += attribute(_RTA_DST, destination.network_address.packed)
    if gateway is not None:
        body += attribute(_RTA_GATEWAY, gateway.packed)
    if index:
        body += number(_RTA_OIF, index)
    if metric:
        body += number(_RTA_PRIORITY, metric)
    return body


def list_routes(route: Netlink) -> list[Route]:
    """The unicast routes of all tables but the local one."""
    result = []
    for body in route.dump(_GETROUTE, _RTMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0, 0)):
        family, prefix, _src, _tos, table, _proto, _scope, kind, _flags = _RTMSG.unpack_from(body)
        if (
            family not in (socket.AF_INET, socket.AF_INET6)
            or table == _RT_TABLE_LOCAL
            or kind != _RTN_UNICAST
        ):
            continue
        found = dict(attributes(body[_RTMSG.size :]))
        raw = found.get(_RTA_DST) or (b"\0" * (4 if family == socket.AF_INET else 16))
        via = found.get(_RTA_GATEWAY)
        destination = ipaddress.ip_network((ipaddress.ip_address(raw), prefix), strict=False)
        gateway = ipaddress.ip_address(via) if via else None
        result.append(Route(destination, gateway, _u32(found.get(_RTA_OIF)), _u32(found.get(_RTA_PRIORITY))))
    return result
