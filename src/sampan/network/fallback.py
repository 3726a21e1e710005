"""Published ports of apps that listen on the container's loopback only: rules and sockets in its namespace.

The kernel decides, connection by connection, with nftables' ``socket`` expression, which looks for the socket
that a packet would reach:

1. a socket on the wildcard or on the interface's address takes it, as ever;
2. else one on 127.0.0.1 does: destination NAT, at full speed;
3. else a relay of the switchboard's tries ``::1`` and 127.0.0.1: IPv6 has no ``route_localnet``, and no NAT
   leads from one IP version to the other. TCP connections are translated to it; UDP packets are handed over as
   they are, one by one (TPROXY): an app that opens its socket later finds no flow bound to the relay.

For 2 the packet's destination is rewritten for a moment, so that the look-up is one for 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass

LOCAL = "127.0.0.11"
_PROTOCOLS = {"tcp": 6, "udp": 17}
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75  # linux/in.h, linux/in6.h
_MARK, _REST = "0x5a000000", "0x00ffffff"


@dataclass(frozen=True, slots=True)
class Fallback:
    """``ports`` are published ones, (protocol, port); ``own`` the interfaces' (name, IPv4 address).

    ``relays`` and ``unheard`` are the ports of the relays for TCP and UDP over IPv4 and IPv6, 0 for none.
    """

    ports: tuple[tuple[str, int], ...] = ()
    own: tuple[tuple[str, str], ...] = ()
    relays: tuple[int, int] = (0, 0)
    unheard: tuple[int, int] = (0, 0)

    @property
    def keys(self) -> str:
        """The ports as elements of a set."""
        return ", ".join(
            f"{_PROTOCOLS[protocol]} . {port}" for protocol, port in self.ports if protocol in _PROTOCOLS
        )

    def of(self, wanted: str) -> str:
        """The ports of one protocol as elements of a set."""
        return ", ".join(str(port) for protocol, port in self.ports if protocol == wanted)


# With route_localnet the kernel takes packets for 127.0.0.0/8 from the wire: nobody there has a say in that.
_GUARD = """  chain guard { type filter hook prerouting priority raw; policy accept;
    ip daddr 127.0.0.0/8 iifname != "lo" drop
    ip saddr 127.0.0.0/8 iifname != "lo" drop
  }
"""


def ipv4_text(rules: Fallback) -> str:
    """Sets and chains for the namespace's ``ip`` table; "" when no port can fall back."""
    if not rules.keys:
        return ""
    relay = "    meta l4proto 6 iifname . ip daddr @mine jump relay\n" if rules.relays[0] else ""
    mine = _elements(f"{_quoted(name)} . {address}" for name, address in rules.own)
    own = _elements(f"{_quoted(name)} : {address}" for name, address in rules.own)
    text = (
        f"{_GUARD}  set mine {{ type ifname . ipv4_addr; {mine} }}\n"
        f"  map own {{ type ifname : ipv4_addr; {own} }}\n"
        "  chain prerouting { type nat hook prerouting priority -100; policy accept;\n"
        f'    iifname != "lo" meta l4proto . th dport {{ {rules.keys} }} goto fallback\n  }}\n'
        "  chain fallback {\n    socket wildcard { 0, 1 } return\n"
        f"{relay}    dnat to 127.0.0.1\n  }}\n"
    )
    if relay:
        text += (
            f"  chain relay {{\n{_ON_LOOPBACK}    meta l4proto 6 dnat to {LOCAL}:{rules.relays[0]}\n  }}\n"
        )
    if rules.unheard[0]:
        text += _datagrams(rules, "iifname . ip daddr @mine")
        text += f"{_ON_LOOPBACK}    meta l4proto 17 tproxy to {LOCAL}:{rules.unheard[0]}\n  }}\n"
    return text


# Leaves the chain when a socket on 127.0.0.1 takes the packet.
_ON_LOOPBACK = f"""    ip daddr set 127.0.0.1
    socket wildcard 0 meta mark set meta mark or {_MARK}
    ip daddr set iifname map @own
    meta mark and {_MARK} == {_MARK} meta mark set meta mark and {_REST} return
"""


def _datagrams(rules: Fallback, mine: str) -> str:
    """The way to the chain "unheard", and its beginning: ``mine`` matches packets for the container itself."""
    return (
        "  chain datagrams { type filter hook prerouting priority mangle; policy accept;\n"
        f'    iifname != "lo" udp dport {{ {rules.of("udp")} }} {mine} goto unheard\n  }}\n'
        "  chain unheard {\n    socket wildcard { 0, 1 } return\n"
    )


def ipv6_text(rules: Fallback, table: str) -> str:
    """The namespace's whole ``ip6`` table; "" without a relay for IPv6. Its port is nobody's to ask directly."""
    text = ""
    relay, unheard, ports = rules.relays[1], rules.unheard[1], rules.of("tcp")
    if relay and ports:
        text += (
            "  chain prerouting { type nat hook prerouting priority -100; policy accept;\n"
            f'    iifname != "lo" tcp dport {relay} drop\n'
            f'    iifname != "lo" tcp dport {{ {ports} }} goto fallback\n  }}\n'
            "  chain fallback {\n    socket wildcard { 0, 1 } return\n"
            f"    tcp dport {{ {ports} }} redirect to :{relay}\n  }}\n"
        )
    if unheard and rules.of("udp"):
        text += _datagrams(rules, "fib daddr type local")
        text += f"    meta l4proto 17 tproxy to [::1]:{unheard}\n  }}\n"
    return f"table ip6 {table} {{\n{text}}}\n" if text else ""


def joined_text(table: str, name: str, address: str) -> str:
    """Commands that let an interface which joined later have the relay, too."""
    return (
        f"add element ip {table} mine {{ {_quoted(name)} . {address} }}\n"
        f"add element ip {table} own {{ {_quoted(name)} : {address} }}\n"
    )


def left_text(table: str, name: str, address: str) -> str:
    """Commands that take an interface out again."""
    return joined_text(table, name, address).replace("add element", "delete element")


def _quoted(name: str) -> str:
    return f'"{name}"'


def _elements(items: Iterable[str]) -> str:
    text = ", ".join(items)
    return f"elements = {{ {text} }};" if text else ""


def relay_sockets(*, ipv6: bool) -> tuple[socket.socket, ...]:
    """Listening sockets for the relays, from a thread in the namespace: IPv4, then IPv6 if wanted. OSError."""
    with contextlib.ExitStack() as undo:
        made = []
        for family, host in ((socket.AF_INET, LOCAL), *(((socket.AF_INET6, "::"),) if ipv6 else ())):
            sock = undo.enter_context(
                socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            )
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, 0))
            sock.listen(256)
            made.append(sock)
        undo.pop_all()
    return tuple(made)


def unheard_sockets(*, ipv6: bool) -> tuple[socket.socket, ...]:
    """Sockets that UDP packets are handed over to, from a thread in the namespace: IPv4, then IPv6. OSError.

    They are on the loopback, where nobody from outside reaches them, and transparent, which TPROXY asks for.
    """
    with contextlib.ExitStack() as undo:
        made = []
        for family, host in ((socket.AF_INET, LOCAL), *(((socket.AF_INET6, "::1"),) if ipv6 else ())):
            sock = undo.enter_context(
                socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            )
            level, option = (
                (socket.IPPROTO_IPV6, _IPV6_TRANSPARENT) if ":" in host else (socket.SOL_IP, _IP_TRANSPARENT)
            )
            sock.setsockopt(level, option, 1)
            sock.bind((host, 0))
            made.append(sock)
        undo.pop_all()
    return tuple(made)
