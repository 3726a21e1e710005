"""Living beside the host's own firewall, and egress control: what to lay, mend and refuse."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from sampan import errors
from sampan.engine.networks.legacywatch import LegacyWatch
from sampan.engine.networks.records import NetworkRecord, Sandbox
from sampan.kernel import conntrack
from sampan.kernel.nft import NftError
from sampan.kernel.nftevents import Monitor, own_pid
from sampan.network import egress, foreign
from sampan.network.firewall import Elements
from sampan.network.options import EGRESS
from sampan.network.tabletext import FAMILY
from sampan.runtime.config import ContainerConfig, HostConfig

if TYPE_CHECKING:
    from sampan.engine.networks.service import Networks

log = logging.getLogger(__name__)
_SETTLE = 0.05


class Guard:
    """Watches nftables for what others change. Our own changes are known by their process and passed over."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._monitor: Monitor | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._own = 0
        self._ways = foreign.Ways()
        self._laid = True  # perhaps by an engine before us
        self._closed: list[foreign.Chain] = []
        self._legacy = LegacyWatch(self._settle)

    # -- other people's rules ------------------------------------------------------------------------------

    def open(self) -> None:
        """Look at the host's rules once and from now on at every change."""
        self._legacy.open()
        self.look()
        try:
            self._own = own_pid()
            self._monitor = Monitor()
            asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._changed)
        except OSError as failure:
            log.warning("other people's changes of nftables go unnoticed: %s", failure)

    def close(self) -> None:
        """Watch no more."""
        self._legacy.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor.fileno())
            self._monitor.close()
            self._monitor = None

    def _changed(self) -> None:
        assert self._monitor is not None
        # In a PID namespace the switchboard's number is another one here: its pins then cost a look, no more.
        ours = {self._own, self._networks.switchboard.pid}
        if self._monitor.others_changed(ours):
            self._settle()

    def _settle(self) -> None:
        """Look at the rules when they have been left alone for a moment."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SETTLE, self._settled)

    def _settled(self) -> None:
        self._timer = None
        ground = self._networks.ground
        with contextlib.suppress(errors.SampanError, OSError):
            if not ground.firewall.exists():
                log.warning("the nftables table %s was removed by another program; made anew", ground.table)
                ground.firewall.reset()
                ground.sources.mend()
                attributes = {"name": "bridge", "table": ground.table}
                default = self._networks.default
                self._networks.events.publish("network", "mend", default.id if default else "", attributes)
            self.look()

    def look(self) -> None:
        """Decide between short cut and listener, and lay or lift the jumps in foreign forward chains."""
        with contextlib.suppress(errors.SampanError):
            firewall = self._networks.ground.firewall
            self._ways = foreign.examine(firewall.nft)
            firewall.set_short_cut(not self._ways.input_blocks)
            self.lay_jumps()

    def lay_jumps(self) -> None:
        """Let out what containers send, where a foreign forward chain would drop it; nothing else."""
        ground = self._networks.ground
        with contextlib.suppress(errors.SampanError, NftError, OSError):
            if not ground.firewall.enabled or (not self._ways.forward_blocks and not self._laid):
                return
            bridges = ground.firewall.bridges if self._busy() else ()
            blocks = self._ways.forward_blocks
            shut = foreign.lay_jumps(ground.firewall.nft, ground.table, blocks, bridges)
            if shut != self._closed:
                self._closed = shut
                for message in foreign.closed(shut):
                    log.warning("%s", message)
            self._laid = bool(self._ways.forward_blocks)

    def lift_jumps(self) -> None:
        """Take our jumps out of foreign chains: the engine ends."""
        ground = self._networks.ground
        with contextlib.suppress(errors.SampanError, NftError, OSError):
            foreign.lay_jumps(ground.firewall.nft, ground.table, self._ways.forward_blocks, ())

    def _busy(self) -> bool:
        return any(item.driver == "bridge" for item in self._networks.catalog)

    def rules(
        self, config: ContainerConfig, host: HostConfig, networks: Sequence[NetworkRecord]
    ) -> list[str] | None:
        """As :func:`egress_rules`; InvalidParameter also for an engine that writes no rules."""
        found = egress_rules(config, host, networks)
        if found is not None and not self._networks.config.iptables:
            raise errors.InvalidParameter(
                "egress control is not possible: this engine writes no firewall rules (--iptables=false)"
            )
        return found

    def warnings(self, published: bool) -> list[str]:
        """What ``docker create`` says when the host's firewall keeps a published port, or the way out, closed."""
        return foreign.closed(self._closed) + (self._ways.advice() if published else [])

    # -- egress control ------------------------------------------------------------------------------------

    def control(self, item: Sandbox) -> None:
        """Put a sandbox under egress control, if it or a network of it asks for that; else out of it."""
        self.limit(item)
        if item.egress is not None:
            self._networks.refusals.open()
        if self._networks.ground.firewall.present:
            controlled = item.endpoints if item.egress is not None else ()
            devices = {one.outer: one.addresses() for one in controlled if one.outer}
            self._networks.ground.sources.bind(item.container, devices)

    def tidy(self) -> None:
        """After a restart, when all that run are under control again: what an engine before us left goes."""
        with contextlib.suppress(errors.SampanError):
            if self._networks.ground.firewall.present:
                self._networks.ground.sources.prune()

    def limit(self, item: Sandbox) -> None:
        """The part of it that needs no interface: what its addresses may reach."""
        found: Elements = {}
        if item.egress is not None:
            rules = [rule for text in item.egress for rule in egress.parse(text)]
            sources = [address for endpoint in item.endpoints for address in endpoint.addresses()]
            found = egress.elements(rules, sources)
        self._networks.ground.firewall.set_owned(item.container, found)

    def release(self, item: Sandbox) -> None:
        """End control of a sandbox; what it was refused, and what names have opened, is forgotten."""
        # Also without rules: nobody else takes back those of a network that it was joining as it ended.
        self._networks.ground.firewall.set_owned(item.container, {})
        self._networks.ground.sources.bind(item.container, {})
        if item.egress is not None:
            self.forget([address for endpoint in item.endpoints for address in endpoint.addresses()])

    def forget(self, addresses: Collection[str]) -> None:
        """Forget what was refused to these addresses and what names have opened for them."""
        with contextlib.suppress(NftError):  # the table is gone, and these with it
            self._networks.ground.firewall.forget_learned(addresses)

    async def cut(self, item: Sandbox) -> None:
        """Have the present rules decide on what is under way, too.

        Its connections of before it came under control; those of who had its addresses before.
        """
        own = frozenset(address for endpoint in item.endpoints for address in endpoint.addresses())
        if item.egress is not None and own:
            try:
                await asyncio.to_thread(conntrack.forget, lambda flow: flow.source in own)
            except OSError as failure:
                log.warning("%s: what it has under way stays as it is: %s", item.name, failure)

    def _refused_elements(self) -> list[tuple[int, dict[str, Any]]]:
        found = []
        nft, table = self._networks.ground.firewall.nft, self._networks.ground.table
        for version in (4, 6):
            with contextlib.suppress(NftError):
                for item in nft.query(f"list set {FAMILY} {table} refused{version}"):
                    found += [(version, entry) for entry in egress.refused_entries(item)]
        return found

    async def egress_of(self, item: Sandbox) -> dict[str, Any]:
        """What a container may reach and what it was refused: connections with their number, and names."""
        own = [address for endpoint in item.endpoints for address in endpoint.addresses()]
        entries = [entry for _version, entry in self._refused_elements() if entry["source"] in own]
        names: dict[str, int] = {}
        with contextlib.suppress(OSError):
            if item.resolver:
                names = await self._networks.switchboard.ask({"op": "refused", "container": item.container})
        return {
            "Container": item.container,
            "Name": item.name,
            "Controlled": item.egress is not None,
            "Allowed": item.egress or [],
            "Refused": [
                {
                    "Address": entry["destination"],
                    "Protocol": entry["protocol"],
                    "Port": entry["port"],
                    "Packets": entry["packets"],
                }
                for entry in entries
            ],
            "RefusedNames": names,
        }


def egress_rules(
    config: ContainerConfig, host: HostConfig, networks: Sequence[NetworkRecord]
) -> list[str] | None:
    """What a container on these networks may reach; None without control.

    The rules of its label, its annotation and of each network add up. InvalidParameter for malformed ones,
    and for networks on which there can be no control.
    """
    texts = [(config.labels or {}).get(EGRESS), (host.annotations or {}).get(EGRESS)]
    texts += [network.options.get(EGRESS) or network.labels.get(EGRESS) for network in networks]
    given = [text for text in texts if text is not None]
    if not given:
        return None
    unguarded = [network.name for network in networks if network.driver not in ("bridge", "null")]
    if unguarded:
        raise errors.InvalidParameter(
            f"egress control is not possible on network {unguarded[0]}: its packets don't pass the host's "
            "firewall",
            hint="Use a bridge network, or leave sampan.egress out.",
        )
    return [str(rule) for text in given for rule in egress.parse(text)]


def check_link_local(rules: list[str] | None, given: bool) -> None:
    """InvalidParameter for ``--link-local-ip`` under egress control.

    Such an address may be another container's, too, on another network: rules about it would be about both.
    """
    if rules is not None and given:
        raise errors.InvalidParameter(
            "conflicting options: link-local addresses and egress control",
            hint="Leave --link-local-ip or sampan.egress out.",
        )
