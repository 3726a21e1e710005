"""Published ports of apps that listen on the container's loopback only: rules and sockets in its namespace.

The kernel decides, connection by connection, with nftables' ``socket`` expression, which looks for the socket
that a packet would reach:

1. a socket on the wildcard or on the interface's address takes it, as ever;
2. else one on 127.0.0.1 does: destination NAT, at full speed;
3. else (TCP) a relay of the switchboard's tries ``::1`` and 127.0.0.1: IPv6 has no ``route_localnet``, and no
   NAT leads from one IP version to the other.

For 2 the packet's destination is rewritten for a moment, so that the look-up is one for 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass

LOCAL = "127.0.0.11"
_PROTOCOLS = {"tcp": 6, "udp": 17}
_MARK, _REST = "0x5a000000", "0x00ffffff"


@dataclass(frozen=True, slots=True)
class Fallback:
    """``ports`` are published ones, (protocol, port); ``own`` the interfaces' (name, IPv4 address).

    ``relay4`` and ``relay6`` are the ports of the relays, 0 for none.
    """

    ports: tuple[tuple[str, int], ...] = ()
    own: tuple[tuple[str, str], ...] = ()
    relay4: int = 0
    relay6: int = 0

    @property
    def keys(self) -> str:
        """The ports as elements of a set."""
        return ", ".join(
            f"{_PROTOCOLS[protocol]} . {port}" for protocol, port in self.ports if protocol in _PROTOCOLS
        )


# With route_localnet the kernel takes packets for 127.0.0.0/8 from the wire: nobody there has a say in that.
_GUARD = """  chain guard { type filter hook prerouting priority raw; policy accept;
    iifname != "lo" ip daddr 127.0.0.0/8 drop
    iifname != "lo" ip saddr 127.0.0.0/8 drop
  }
"""


def ipv4_text(rules: Fallback) -> str:
    """Sets and chains for the namespace's ``ip`` table; "" when no port can fall back."""
    if not rules.keys:
        return ""
    relay = "    meta l4proto 6 iifname . ip daddr @mine jump relay\n" if rules.relay4 else ""
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
    if not relay:
        return text
    return text + (
        "  chain relay {\n    ip daddr set 127.0.0.1\n"
        f"    socket wildcard 0 meta mark set meta mark or {_MARK}\n"
        "    ip daddr set iifname map @own\n"
        f"    meta mark and {_MARK} == {_MARK} meta mark set meta mark and {_REST} return\n"
        f"    meta l4proto 6 dnat to {LOCAL}:{rules.relay4}\n  }}\n"
    )


def ipv6_text(rules: Fallback, table: str) -> str:
    """The namespace's whole ``ip6`` table; "" without a relay for IPv6. Its port is nobody's to ask directly."""
    ports = ", ".join(str(port) for protocol, port in rules.ports if protocol == "tcp")
    if not rules.relay6 or not ports:
        return ""
    return (
        f"table ip6 {table} {{\n"
        "  chain prerouting { type nat hook prerouting priority -100; policy accept;\n"
        f'    iifname != "lo" tcp dport {rules.relay6} drop\n'
        f'    iifname != "lo" tcp dport {{ {ports} }} goto fallback\n  }}\n'
        "  chain fallback {\n    socket wildcard { 0, 1 } return\n"
        f"    tcp dport {{ {ports} }} redirect to :{rules.relay6}\n  }}\n}}\n"
    )


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
