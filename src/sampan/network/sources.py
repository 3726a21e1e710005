"""Containers under egress control send with their own addresses only: who could lend another's would get around it.

One chain a veth, in a table of family netdev at the ingress hook of the host's end: what comes out of the
container with another source address (IP, ARP) is dropped before the bridge sees it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence

from sampan.kernel.nft import Nft, NftError

log = logging.getLogger(__name__)
_FAMILY = "netdev"
# All that IPv6 needs of link-local addresses, which no egress rule knows: with them it would reach the host.
_NEIGHBOURS = (
    "nd-neighbor-solicit, nd-neighbor-advert, mld-listener-report, mld-listener-done, mld2-listener-report"
)


def chain_text(table: str, device: str, addresses: Sequence[str]) -> str:
    """Commands that make the chain of one device, or make it anew; without addresses nothing passes."""
    chain = f"{_FAMILY} {table} {device}"
    lines = [
        f"add table {_FAMILY} {table}",
        f'add chain {chain} {{ type filter hook ingress device "{device}" priority 0; policy drop; }}',
        f"flush chain {chain}",
    ]
    if addresses:
        lines.append(f"add rule {chain} ip6 saddr {{ ::, fe80::/10 }} icmpv6 type {{ {_NEIGHBOURS} }} accept")
    for address in addresses:
        if ":" in address:
            lines.append(f"add rule {chain} ip6 saddr {address} accept")
        else:
            lines += [
                f"add rule {chain} ip saddr {address} accept",
                f"add rule {chain} arp saddr ip {address} accept",
            ]
    return "\n".join(lines) + "\n"


class Sources:
    """The chains of one engine. For the event loop."""

    def __init__(self, table: str, nft: Nft) -> None:
        self._table = table
        self._nft = nft
        self._devices: dict[str, dict[str, tuple[str, ...]]] = {}

    def bind(self, owner: str, devices: Mapping[str, Sequence[str]]) -> None:
        """Bind an owner's devices to these addresses, and no others of his; {} ends it."""
        wanted = {device: tuple(addresses) for device, addresses in devices.items()}
        before = self._devices.pop(owner, {})
        for device in before.keys() - wanted.keys():
            self._drop(device)
        for device, addresses in wanted.items():
            if before.get(device) != addresses:
                self._add(device, addresses)
        if wanted:
            self._devices[owner] = wanted

    def mute(self, owner: str) -> set[str]:
        """Let an owner's devices send nothing any more; the ones it is true of. ``bind(device, {})`` ends it."""
        devices = self._devices.pop(owner, {})
        for device in devices:
            self.keep(device)
        return {device for device in devices if self._add(device, ())}

    def keep(self, device: str) -> None:
        """Know a device that sends nothing any more, until it is gone."""
        self._devices[device] = {device: ()}

    def _add(self, device: str, addresses: Sequence[str]) -> bool:
        try:
            self._nft.run(chain_text(self._table, device, addresses))
            return True
        except NftError as failure:
            log.warning(
                "%s is not bound to its addresses (egress control can be got around): %s", device, failure
            )
            return False

    def _drop(self, device: str) -> None:
        with contextlib.suppress(NftError):  # the kernel may have taken it away with the device
            self._nft.run(f"delete chain {_FAMILY} {self._table} {device}")

    def prune(self) -> None:
        """Drop the chains of devices that nobody has bound: an engine was killed before it could."""
        bound = {device for devices in self._devices.values() for device in devices}
        with contextlib.suppress(NftError):
            for item in self._nft.query(f"list table {_FAMILY} {self._table}"):
                name = item.get("chain", {}).get("name", "")
                if name and name not in bound:
                    self._drop(name)

    def mend(self) -> None:
        """Make all chains anew: somebody has flushed them."""
        for devices in self._devices.values():
            for device, addresses in devices.items():
                self._add(device, addresses)

    def remove(self) -> None:
        """Take the table out of the kernel; a missing one is no error."""
        with contextlib.suppress(NftError):
            self._nft.run(f"delete table {_FAMILY} {self._table}")
        self._devices.clear()
