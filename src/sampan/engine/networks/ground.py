"""The kernel side of an engine's networks: bridges and parents, the nftables table, forwarding."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Iterable

from sampan import errors
from sampan.engine.config import EngineConfig
from sampan.engine.networks.defaults import own_table
from sampan.engine.networks.records import NetworkRecord
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from sampan.kernel.nft import Nft, NftError
from sampan.network import bridges, lan
from sampan.network.firewall import Firewall, Segment
from sampan.network.forwarding import Forwarding
from sampan.network.ipam import Network
from sampan.network.options import BridgeOptions, LanOptions, mark_match
from sampan.network.sandbox import write_sysctl
from sampan.network.sources import Sources

log = logging.getLogger(__name__)


class Ground:
    """Makes links and rules for networks, and takes them away. Everything can be done twice.

    Where the kernel or its permissions refuse altogether, ``refusal`` says why: host and none still work.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.table = own_table(config)
        self.route = Netlink()
        self.forwarding = Forwarding(config.exec_root / "network" / "changed-sysctls.json")
        self.refusal = ""
        self._firewall: Firewall | None = None
        self._indexes: dict[str, int] = {}
        self._options: dict[str, BridgeOptions] = {}
        try:
            mark = mark_match(config.bridge_accept_fwmark)
            self._firewall = Firewall(self.table, Nft(), enabled=config.iptables, mark=mark)
            self.sources = Sources(self.table, self._firewall.nft)
        except NftError as failure:
            self.refusal = str(failure)

    @property
    def firewall(self) -> Firewall:
        """The table. SystemFailure where there can be none."""
        if self._firewall is None or self.refusal:
            raise errors.SystemFailure(
                f"container networking is not available: {self.refusal}",
                hint="Use --network host or none, or give the engine CAP_NET_ADMIN and the package nftables.",
            )
        return self._firewall

    def open(self, networks: Iterable[NetworkRecord]) -> None:
        """Make what the networks need; remove links of ours that no network has (left by a crash)."""
        known = list(networks)
        with contextlib.suppress(OSError):
            for name in set(bridges.ours(self.route, self.table)) - {item.device for item in known}:
                bridges.remove(self.route, name, self.table)
        try:
            if self._firewall is not None:
                for network in known:
                    if network.driver == "bridge" and not network.config_only:
                        self._firewall.add_segment(self.segment(network))
                self._lay_table(self._firewall)
        except NftError as failure:
            self.refusal = str(failure)
        if self.refusal:
            log.warning("container networking is not available: %s", self.refusal)
            return
        for network in known:
            try:
                self.ensure(network)
            except (errors.SampanError, OSError) as failure:
                log.warning("network %s: %s", network.name, failure)

    @staticmethod
    def _lay_table(firewall: Firewall) -> None:
        """The whole table in one transaction; where it refuses something that is known, piece by piece later."""
        try:
            firewall.reset()
        except NftError as failure:
            log.warning("nftables refuses what is known, beginning with an empty table: %s", failure)
            firewall.forget()
            firewall.reset()

    def close(self) -> None:
        """Let go of sockets; the kernel keeps what was made."""
        self.route.close()
        if self._firewall is not None:
            self._firewall.nft.close()

    def remove_all(self) -> None:
        """Take everything of ours out of the kernel: the engine ends and no container needs it."""
        if self._firewall is not None:
            self._firewall.remove()
            self.sources.remove()
        for name in bridges.ours(self.route, self.table):
            with contextlib.suppress(OSError):
                bridges.remove(self.route, name, self.table)
        self.forwarding.restore()

    def ensure(self, network: NetworkRecord) -> None:
        """Make a network's links and rules, or see that they are there. SystemFailure when refused."""
        if network.config_only:
            return
        if network.driver == "bridge":
            self._ensure_bridge(network)
        elif network.driver in ("macvlan", "ipvlan"):
            self._ensure_parent(network)

    def _ensure_bridge(self, network: NetworkRecord) -> None:
        firewall = self.firewall
        options = self.options(network)
        addresses = []
        for subnet in network.subnets:
            isolated = options.modes[0 if subnet.version == 4 else 1] == "isolated"
            if isolated or (subnet.version == 4 and options.inhibit_ipv4):
                continue
            addresses.append(ipaddress.ip_interface(f"{subnet.gateway}/{subnet.prefix().prefixlen}"))
        mtu = options.mtu or self.config.mtu
        index, _ours = bridges.ensure(self.route, network.device, addresses, table=self.table, mtu=mtu)
        self._indexes[network.id] = index
        with contextlib.suppress(OSError):
            write_sysctl(f"net.ipv4.conf.{network.device.replace('.', '/')}.route_localnet", "1")
        firewall.add_segment(self.segment(network))

    def options(self, network: NetworkRecord) -> BridgeOptions:
        """The options of a bridge network that is made, parsed once."""
        known = self._options.get(network.id)
        if known is None:
            known = BridgeOptions.parse(network.options, internal=network.internal)
            self._options[network.id] = known
        return known

    def icc(self, network: NetworkRecord) -> bool:
        """Whether containers of a bridge network may reach each other."""
        return self.options(network).icc and (self.config.icc or not network.is_default_bridge)

    def segment(self, network: NetworkRecord) -> Segment:
        """What the firewall is told of a bridge network."""
        options = self.options(network)
        masquerade = options.masquerade and (self.config.ip_masq or not network.is_default_bridge)
        return Segment(
            bridge=network.device,
            subnets=tuple(item.subnet for item in network.subnets),
            masquerade=masquerade,
            internal=network.internal,
            icc=self.icc(network),
            snat=tuple(filter(None, (options.host_ipv4, options.host_ipv6))),
            open=options.versions("nat-unprotected"),
            routed=options.versions("routed"),
            trusted=options.trusted,
        )

    def _ensure_parent(self, network: NetworkRecord) -> None:
        options = LanOptions.parse(network.driver, network.options)
        parent = "" if network.internal else options.parent
        name, made = lan.ensure_parent(self.route, network.driver, parent, network.id)
        if made:
            self.route.send(rt.change_link(name=name, alias=bridges.mark(self.table)))
        network.device = name
        found = rt.find_link(self.route, name)
        self._indexes[network.id] = found.index if found else 0

    def index(self, network: NetworkRecord) -> int:
        """The index of a network's bridge or parent link; made again when it has vanished."""
        try:
            found = socket.if_nametoindex(network.device)
        except OSError:
            found = 0
        if not found or found != self._indexes.get(network.id):
            self.ensure(network)
        return self._indexes[network.id]

    def last_index(self, network: NetworkRecord) -> int:
        """As :meth:`index`, without a look at the kernel: for a start whose preparation has just looked."""
        return self._indexes.get(network.id) or self.index(network)

    def drop(self, network: NetworkRecord) -> None:
        """Take a network's links and rules away. SystemFailure when the kernel refuses."""
        self._indexes.pop(network.id, None)
        self._options.pop(network.id, None)
        if not network.device:
            return
        try:
            if network.driver == "bridge" and self._firewall is not None:
                self._firewall.remove_segment(network.device)
            bridges.remove(self.route, network.device, self.table)
        except OSError as failure:
            raise errors.SystemFailure(f"error while removing network: {failure}") from failure

    def host_networks(self, servers: Iterable[str] = ()) -> list[Network]:
        """What new networks must keep away from: the host's routes, addresses and name servers."""
        mine = bridges.ours(self.route, self.table)
        return bridges.host_networks(self.route, without=mine) + bridges.servers_networks(servers)
