"""``--link`` on the default bridge: lines in /etc/hosts that follow the target, and ways where icc is off.

With ``icc=false`` the bridge's ports are isolated: no frame goes from one container to another. A link's two
ends then reach each other through the bridge's own address (a host route in each), where the engine's table
lets the target's exposed ports through, and nothing else.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sampan import errors
from sampan.engine.networks.records import Endpoint, Sandbox
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from sampan.kernel.netns import enter, in_thread, open_netns
from sampan.network import hostsfile
from sampan.network.ports import PROTOCOLS
from sampan.network.sandbox import write_sysctl

if TYPE_CHECKING:
    from sampan.engine.networks.service import Networks


class Links:
    """The links of all running containers of the default bridge."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def _place(self, item: Sandbox) -> Endpoint | None:
        """Its place on the default bridge."""
        default = self._networks.default
        known = default.id if default else ""
        return next((one for one in item.endpoints if one.network_id == known and one.ipv4), None)

    def _pairs(self, item: Sandbox) -> Iterator[tuple[Sandbox, Sandbox]]:
        """The links (from, to) that a running sandbox is an end of, both ends running."""
        sandboxes = self._networks.sandboxes
        for target in item.links.values():
            other = sandboxes.get(target)
            if other is not None and other.pid:
                yield item, other
        for other in sandboxes:
            if other.links and other.pid and item.container in other.links.values():
                yield other, item

    async def attached(self, item: Sandbox) -> None:
        """A sandbox has got its addresses: open its links, and lead others' links to it."""
        for source, target in list(self._pairs(item)):
            if target is item:
                self._rewrite(source, target)
            await self._open(source, target)

    def _rewrite(self, source: Sandbox, target: Sandbox) -> None:
        place = self._place(target)
        if place is None:
            return
        for alias, container in source.links.items():
            if container == target.container:
                hostsfile.move(self._networks.hosts_path(source), link_names(alias, target), place.ipv4)

    async def _open(self, source: Sandbox, target: Sandbox) -> None:
        ends = self._place(source), self._place(target)
        default = self._networks.default
        if (
            default is None
            or ends[0] is None
            or ends[1] is None
            or self._networks.ground.segment(default).icc
        ):
            return
        elements = self._elements(ends[0], ends[1], target)
        if not elements:
            return
        self._networks.ground.firewall.set_owned(_key(source, target), {"linked4": elements})
        with contextlib.suppress(OSError):  # an end that is going: its link goes with it
            await _route(source, ends[0], ends[1].ipv4)
            await _route(target, ends[1], ends[0].ipv4)

    @staticmethod
    def _elements(source: Endpoint, target: Endpoint, item: Sandbox) -> list[str]:
        ports = [key.partition("/") for key in item.exposed]
        ports += [(str(one.port), "/", one.protocol) for one in item.published]
        keys = dict.fromkeys((protocol or "tcp", port) for port, _slash, protocol in ports)
        return [f"{source.ipv4} . {target.ipv4} . {PROTOCOLS[protocol]} . {port}" for protocol, port in keys]

    def released(self, item: Sandbox) -> None:
        """A sandbox ends: close what its links opened."""
        for source, target in list(self._pairs(item)):
            with contextlib.suppress(errors.SampanError, OSError):
                self._networks.ground.firewall.set_owned(_key(source, target), {})


def link_names(alias: str, target: Sandbox) -> list[str]:
    """What a link's line in /etc/hosts says: alias, short id, name."""
    return list(dict.fromkeys([alias, target.container[:12], target.name]))


def _key(source: Sandbox, target: Sandbox) -> str:
    return f"link {source.container} {target.container}"


async def _route(item: Sandbox, place: Endpoint, address: str) -> None:
    """Lead an address of the same subnet over the gateway, and don't be talked out of it (ICMP redirects)."""
    gateway = ipaddress.ip_address(place.gateway4)
    netns = open_netns(item.pid)

    def work() -> None:
        enter(netns)
        for name in ("all", place.interface):
            write_sysctl(f"net.ipv4.conf.{name}.accept_redirects", "0")
        with Netlink() as route:
            found = rt.find_link(route, place.interface)
            if found is not None:
                route.send(rt.add_route(ipaddress.ip_network(address), gateway=gateway, index=found.index))

    try:
        await in_thread(work)
    finally:
        os.close(netns)
