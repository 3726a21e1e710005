"""Being told when the nftables ruleset changes: what ``nft monitor`` listens to."""

from __future__ import annotations

from collections.abc import Container

from sampan.kernel.netlink import NETLINK_NETFILTER, Message, Netlink, attributes

_GROUP_NFTABLES = 7
_SUBSYSTEM = 10
_NEWGEN = 15
_GETGEN = 16
_GEN_PROC_PID = 2
_NFGENMSG = bytes(4)  # any family, version 0


def own_pid() -> int:
    """This thread's number as the events tell it: that of the initial PID namespace, whatever ours is.

    ``os.getpid`` would be another one inside a container; the kernel answers with the asker's own.
    """
    with Netlink(NETLINK_NETFILTER) as nfnetlink:
        (answer,) = nfnetlink.send(Message(_SUBSYSTEM << 8 | _GETGEN, 0, _NFGENMSG))
    return _pid(answer)


def _pid(body: bytes) -> int:
    found = dict(attributes(body[len(_NFGENMSG) :]))
    return int.from_bytes(found.get(_GEN_PROC_PID, b""), "big")


class Monitor(Netlink):
    """A socket that becomes readable with every committed transaction of the namespace."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER, (_GROUP_NFTABLES,))

    def others_changed(self, own: Container[int]) -> bool:
        """Whether a transaction of a process that isn't in ``own`` was among the events that waited.

        The numbers are those of the initial PID namespace; see :func:`own_pid`.
        """
        changed = False
        while events := self.events():
            for event in events:
                if event.kind != (_SUBSYSTEM << 8 | _NEWGEN):
                    continue
                changed = changed or _pid(event.body) not in own
        return changed
