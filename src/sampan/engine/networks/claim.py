"""One engine at a time for a default bridge, and so for a table of rules and the links that are marked with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct

from sampan import errors
from sampan.engine.config import EngineConfig
from sampan.engine.networks.defaults import own_table

log = logging.getLogger(__name__)


class Claim:
    """Our mark on a table: an abstract socket, which lives in the network namespace as the table does, unix(7).

    It goes with the process, however that ends; who connects learns our pid. Everybody can take such a name: a
    mark that isn't root's is passed over, so that nobody else can keep an engine from starting.
    """

    def __init__(self, config: EngineConfig) -> None:
        """Take it. SystemFailure, with the owner's pid, when another engine has this bridge."""
        name = f"\0{own_table(config)}"
        self._mark = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._mark.setblocking(False)
        try:
            self._mark.bind(name)
            self._mark.listen()
        except OSError:
            self._mark.close()
            self._refuse(config.bridge, *_owner(name))
        else:
            asyncio.get_running_loop().add_reader(self._mark, self._answer)

    def close(self) -> None:
        """Let it go."""
        if self._mark.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._mark)
            self._mark.close()

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            self._mark.accept()[0].close()

    @staticmethod
    def _refuse(bridge: str, pid: int, uid: int) -> None:
        if uid == 0:
            raise errors.SystemFailure(
                f"the bridge {bridge} is in use by another engine (pid {pid})",
                hint="Stop that engine, or give this one a --bridge of its own (or none).",
            )
        log.warning("the mark of bridge %s is taken by a process of user %d (pid %d)", bridge, uid, pid)


def _owner(name: str) -> tuple[int, int]:
    """The pid and user of who listens there; -1 when it can't be asked: it has just gone, or doesn't listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.setblocking(False)
        with contextlib.suppress(OSError):
            asking.connect(name)
            pid, uid, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            return pid, uid
    return -1, -1
