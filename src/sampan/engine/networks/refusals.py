"""What egress control refuses, told as it happens: a line in the engine's log and an event of the container.

The kernel says which packets (NFLOG), the switchboard which names. Both bound what they tell: each
destination or name once a minute for a container, and no more than ten a second of one container.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING
from zlib import crc32

from sampan import errors
from sampan.engine.networks.records import Sandbox
from sampan.kernel.nflog import PacketLog
from sampan.network import egress

if TYPE_CHECKING:
    from sampan.engine.networks.service import Networks

log = logging.getLogger(__name__)
_GROUPS = 64


class Refusals:
    """Listens from the first container under egress control on: an engine without one has no socket for it."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._log: PacketLog | None = None
        self._failed = False

    def open(self) -> None:
        """Begin to listen; a second time does nothing. Without NFLOG in the kernel only counters tell."""
        if self._log is not None or self._failed:
            return
        ground = self._networks.ground
        # Far from the small numbers that people write into their own rules; engines begin at different ones.
        first = 0x5000 + crc32(ground.table.encode()) % 0x2000
        try:
            self._log = PacketLog(range(first, first + _GROUPS))
            asyncio.get_running_loop().add_reader(self._log.fileno(), self._packets)
            ground.firewall.set_log_group(self._log.group)
        except OSError as failure:
            self._failed = True
            log.warning("refused connections are counted, but can't be logged: %s", failure)

    def close(self) -> None:
        """Listen no more."""
        if self._log is not None:
            asyncio.get_running_loop().remove_reader(self._log.fileno())
            self._log.close()
            self._log = None

    def _packets(self) -> None:
        assert self._log is not None
        for packet in self._log.packets():
            refused = egress.refused_packet(packet)
            item = self._owner(refused.source) if refused else None
            if refused is None or item is None:
                continue
            self._tell(
                item,
                str(refused),
                {
                    "destination": refused.destination,
                    "port": str(refused.port),
                    "protocol": refused.protocol,
                },
            )

    def _owner(self, address: str) -> Sandbox | None:
        for item in self._networks.sandboxes:
            if any(address in endpoint.addresses() for endpoint in item.endpoints):
                return item
        return None

    def name(self, container: str, name: str) -> None:
        """A name that a container asked for was refused."""
        item = self._networks.sandboxes.get(container)
        if item is not None:
            self._tell(item, f"the name {name}", {"destination": name})

    def _tell(self, item: Sandbox, what: str, attributes: dict[str, str]) -> None:
        log.warning("container %s (%s): egress to %s refused", item.name, item.container[:12], what)
        own = {"name": item.name}
        if self._networks.containers is not None:
            with contextlib.suppress(errors.NotFound):  # a step of a build
                own = self._networks.containers.get(item.container).event_attributes()
        self._networks.events.publish("container", "refuse", item.container, {**own, **attributes})
