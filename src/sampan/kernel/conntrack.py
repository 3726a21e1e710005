"""Forgetting tracked connections (ctnetlink): what conntrack(8) does with -D, in one exchange.

A UDP flow that was tracked before its port was published, moved or withdrawn keeps its old way for minutes;
dropping the entries makes the next datagram take the new one.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from sampan.kernel.netlink import NETLINK_NETFILTER, Message, Netlink, attributes, nest

_SUBSYSTEM = 1 << 8
_GET, _DELETE = _SUBSYSTEM | 1, _SUBSYSTEM | 2
_TUPLE_ORIG, _TUPLE_REPLY = 1, 2
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_V4_SRC, _V4_DST, _V6_SRC, _V6_DST = 1, 2, 3, 4
_PROTO_NUM, _SRC_PORT, _DST_PORT = 1, 2, 3


class Flow(NamedTuple):
    """The original direction of a tracked connection, and where its replies come from."""

    family: int
    protocol: int
    source: str
    destination: str
    port: int
    replier: str


def forget(matches: Callable[[Flow], bool]) -> int:
    """Drop every tracked connection for which ``matches`` is true; their number. Raises OSError."""
    count = 0
    with Netlink(NETLINK_NETFILTER) as netfilter:
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in netfilter.dump(_GET, _head(family)):
                found = dict(attributes(body[4:]))
                flow = _flow(family, found)
                if flow is None or not matches(flow):
                    continue
                request = _head(family) + nest(_TUPLE_ORIG, found[_TUPLE_ORIG])
                try:
                    netfilter.send(Message(_DELETE, 0, request))
                except OSError as failure:
                    if failure.errno != errno.ENOENT:  # ENOENT: it ended by itself meanwhile
                        raise
                    continue
                count += 1
    return count


def _head(family: int) -> bytes:
    return struct.pack("=BBH", family, 0, 0)  # struct nfgenmsg


def _flow(family: int, found: dict[int, bytes]) -> Flow | None:
    original = dict(attributes(found.get(_TUPLE_ORIG, b"")))
    reply = dict(attributes(found.get(_TUPLE_REPLY, b"")))
    addresses = dict(attributes(original.get(_TUPLE_IP, b"")))
    answering = dict(attributes(reply.get(_TUPLE_IP, b"")))
    proto = dict(attributes(original.get(_TUPLE_PROTO, b"")))
    source, destination = (_V4_SRC, _V4_DST) if family == socket.AF_INET else (_V6_SRC, _V6_DST)
    if source not in addresses or destination not in addresses or _PROTO_NUM not in proto:
        return None
    return Flow(
        family,
        proto[_PROTO_NUM][0],
        socket.inet_ntop(family, addresses[source]),
        socket.inet_ntop(family, addresses[destination]),
        struct.unpack("!H", proto.get(_DST_PORT, b"\0\0"))[0],
        socket.inet_ntop(family, answering[source]) if source in answering else "",
    )
