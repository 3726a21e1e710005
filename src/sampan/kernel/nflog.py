"""Packets that a firewall rule tells of (nftables ``log group``, NFLOG): nfnetlink_log, per network namespace."""

from __future__ import annotations

import errno
import struct

from sampan.kernel.netlink import NETLINK_NETFILTER, Message, Netlink, attribute, attributes

_SUBSYSTEM = 4
_PACKET, _CONFIG = 0, 1
_CFG_CMD, _CFG_MODE, _CFG_THRESHOLD = 1, 2, 5
_CMD_BIND = 1
_COPY_PACKET = 2
_PAYLOAD = 9
_HEAD = struct.Struct(">BBH")  # nfgenmsg: family, version, group
_TAKEN = (errno.EPERM, errno.EBUSY)  # the kernel says EPERM where another socket listens


class PacketLog(Netlink):
    """Listens to a group that nobody else listens to; ``group`` says which. A packet is told at once.

    ``size`` is how many of a packet's first bytes are told. OSError when the kernel has no NFLOG, or when
    all of ``groups`` are taken.
    """

    def __init__(self, groups: range, size: int = 64) -> None:
        super().__init__(NETLINK_NETFILTER)
        try:
            self.group = self._bind(groups)
            mode = attribute(_CFG_MODE, struct.pack(">IBx", size, _COPY_PACKET))
            self._configure(self.group, mode, attribute(_CFG_THRESHOLD, struct.pack(">I", 1)))
        except BaseException:
            self.close()
            raise

    def _bind(self, groups: range) -> int:
        for group in groups:
            try:
                self._configure(group, attribute(_CFG_CMD, bytes([_CMD_BIND])))
            except OSError as failure:
                if failure.errno not in _TAKEN:
                    raise
            else:
                return group
        raise OSError(errno.EBUSY, "no free NFLOG group")

    def _configure(self, group: int, *settings: bytes) -> None:
        self.send(Message(_SUBSYSTEM << 8 | _CONFIG, 0, _HEAD.pack(0, 0, group) + b"".join(settings)))

    def packets(self) -> list[bytes]:
        """What was told since the last time: packets from their IP header on; never blocks."""
        found = []
        while replies := self.events():
            for reply in replies:
                if reply.kind == (_SUBSYSTEM << 8 | _PACKET):
                    payload = dict(attributes(reply.body[_HEAD.size :])).get(_PAYLOAD)
                    found += [payload] if payload else []
        return found
