"""Being told when the nftables ruleset changes: what ``nft monitor`` listens to."""

from __future__ import annotations

import struct
from collections.abc import Container

from sampan.kernel.netlink import NETLINK_NETFILTER, Netlink, attributes

_GROUP_NFTABLES = 7
_SUBSYSTEM = 10
_NEWGEN = 15
_GEN_PROC_PID = 2


class Monitor(Netlink):
    """A socket that becomes readable with every committed transaction of the namespace."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER, (_GROUP_NFTABLES,))

    def others_changed(self, own: Container[int]) -> bool:
        """Whether a transaction of a process that isn't in ``own`` was among the events that waited."""
        changed = False
        while events := self.events():
            for event in events:
                if event.kind != (_SUBSYSTEM << 8 | _NEWGEN):
                    continue
                found = dict(attributes(event.body[4:]))
                pid = struct.unpack("!I", found[_GEN_PROC_PID])[0] if _GEN_PROC_PID in found else 0
                changed = changed or pid not in own
        return changed
