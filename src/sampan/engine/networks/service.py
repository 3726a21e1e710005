"""Networks of one engine: what ``docker network`` does, and the doors for containers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan import errors
from sampan.engine.config import EngineConfig
from sampan.engine.networks import connect as connecting
from sampan.engine.networks import endpoints as places
from sampan.engine.networks.catalog import Catalog
from sampan.engine.networks.create import CreateNetwork, plan
from sampan.engine.networks.defaults import NO_BRIDGE, default_networks
from sampan.engine.networks.ground import Ground
from sampan.engine.networks.guard import Guard, check_link_local
from sampan.engine.networks.links import Links
from sampan.engine.networks.names import Names, check_extra_hosts
from sampan.engine.networks.publishing import Publishing
from sampan.engine.networks.records import DEFAULT, Endpoint, NetworkRecord, Sandbox, Store
from sampan.engine.networks.refusals import Refusals
from sampan.engine.networks.sandboxes import Sandboxes
from sampan.engine.networks.types import Containers, Events, Prepared, SandboxRequest
from sampan.network import egress, files, ports
from sampan.network.ipam import DEFAULT_POOLS, AddressSpace
from sampan.network.options import EGRESS, BridgeOptions
from sampan.network.ports import Reservations
from sampan.network.switchboard.client import Switchboard
from sampan.runtime.config import ContainerConfig, EndpointSettings, HostConfig, NetworkingConfig

if TYPE_CHECKING:
    from sampan.storage.db import Database

log = logging.getLogger(__name__)
# What NetworkSettings repeats of the default bridge's endpoint (API below 1.52).
_TOP = (
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
)


class Networks:
    """The networks of one engine. ``containers`` is set by the engine before ``open``."""

    def __init__(self, config: EngineConfig, db: Database, events: Events) -> None:
        self.config = config
        self.events = events
        self.store = Store(db)
        pools = [(pool.base, pool.size) for pool in config.default_address_pools] or DEFAULT_POOLS
        self.catalog = Catalog(self.store, AddressSpace(pools, seed=f"{_machine_id()} {config.bridge}"))
        self.ground = Ground(config)
        self.reservations = Reservations()
        self.switchboard = Switchboard(
            config.exec_root / "network", self._switchboard_died, self._name_refused
        )
        self.sandboxes = Sandboxes(self)
        self.names = Names(self)
        self.links = Links(self)
        self.publishing = Publishing(self)
        self.guard = Guard(self)
        self.refusals = Refusals(self)
        self.containers: Containers | None = None
        self._background: set[asyncio.Task[object]] = set()

    # -- life ----------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the networks that are known, the predefined ones first; begin to watch the host's firewall."""
        networks, sandboxes = self.store.load()
        if self.config.bridge == NO_BRIDGE:
            used = {endpoint.network_id for item in sandboxes for endpoint in item.endpoints}
            gone = [item for item in networks if item.is_default_bridge and item.id not in used]
            for item in gone:
                self.store.delete_network(item.id)
            networks = [item for item in networks if item not in gone]
        host_nets = self.ground.host_networks(files.host_resolv()[0].servers)
        for network in default_networks(
            self.config, networks, self.ground.route, self.catalog.space, host_nets
        ):
            self.store.save_network(network)
            networks = [network, *[item for item in networks if item.id != network.id]]
        self.catalog.load(sorted(networks, key=lambda item: (not item.predefined, item.created_ns)))
        self.sandboxes.load(sandboxes)
        # Known before the table is made anew, in one transaction: no connection slips through meanwhile.
        for sandbox in sandboxes:
            with contextlib.suppress(errors.SampanError):
                self.publishing.open(sandbox)
                self.guard.control(sandbox)
        self.ground.open(self.catalog)
        self.guard.open()

    async def close(self) -> None:
        """Take everything of ours off the host, unless a container still runs on it."""
        self.guard.close()
        self.refusals.close()
        self.sandboxes.close()
        for task in list(self._background):
            task.cancel()
        used = any(item.pid and places.is_private(item.mode) for item in self.sandboxes)
        if not used:
            self.guard.lift_jumps()
            self.ground.remove_all()
        self.switchboard.close(end=not used)
        self.ground.close()

    async def restore(self, running: Mapping[str, int]) -> None:
        """After a restart: ``running`` has the pid of every container that runs; the rest is released.

        Of one that may run the pid is 0, and ``resume`` or ``release`` follows.
        """
        await self.sandboxes.restore(running)
        self.guard.tidy()

    async def resume(self, container: str, pid: int) -> None:
        """After ``restore``: the container runs after all, as ``pid``."""
        await self.sandboxes.resume(container, pid)

    async def _switchboard_died(self) -> None:
        await self.sandboxes.mend_all()

    def _name_refused(self, container: str, name: str) -> None:
        self.refusals.name(container, name)

    def in_background(self, work: Callable[[], object]) -> None:
        """Run something slow in a thread that nobody waits for."""
        task: asyncio.Task[object] = asyncio.get_running_loop().create_task(asyncio.to_thread(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    @property
    def default(self) -> NetworkRecord | None:
        """The default bridge; None for an engine without one (--bridge none)."""
        return self.catalog.find(DEFAULT)

    def host_gateways(self) -> list[str]:
        """The addresses that ``host-gateway`` stands for: those of the configuration, or the default bridge's."""
        own = [item.gateway for item in (self.default.subnets if self.default else ())]
        return list(self.config.host_gateway_ips) or own

    def shared(self, item: Sandbox) -> bool:
        """Whether another container that runs has joined a sandbox's namespace (``--network container:…``)."""
        modes = {f"container:{item.container}", f"container:{item.name}"}
        known = self.containers or ()
        return any(one.host.network_mode in modes and one.state.pid for one in known)

    def hosts_path(self, item: Sandbox) -> Path:
        """The file that a container has as its /etc/hosts."""
        return self.config.data_root / "containers" / item.container / "hosts"

    # -- doors for containers ------------------------------------------------------------------------------

    def check(
        self, config: ContainerConfig, host: HostConfig, networking: NetworkingConfig | None
    ) -> list[str]:
        """Refuse at create what dockerd refuses there (400); the warnings for the user."""
        asked = dict((networking.endpoints_config if networking else None) or {})
        mode = places.network_mode(host.network_mode)
        if mode == "container:":
            raise errors.InvalidParameter(
                "invalid network mode: invalid container format container:<name|id>"
            )
        connecting.check_conflicts(config, host, mode, self._hostname_of(mode.removeprefix("container:")))
        wanted = ports.plan(
            {key: [{"HostIp": item.host_ip, "HostPort": item.host_port} for item in value or ()]
             for key, value in (host.port_bindings or {}).items()},
            config.exposed_ports or (), publish_all=host.publish_all_ports,
        )  # fmt: skip
        if places.NOWHERE in asked:
            raise errors.InvalidParameter("invalid network name: name is empty")
        for name, settings in places.asked(asked, mode).items():
            network = self.catalog.find(name)
            if network is not None or name.startswith("container:"):
                self._check_endpoint(name, network, settings)
        check_extra_hosts(host.extra_hosts or (), self.host_gateways())
        rules = [
            source[EGRESS] for source in (config.labels, host.annotations) if source and EGRESS in source
        ]
        for text in rules:
            egress.parse(text)
        inner = [settings.ipam_config for settings in asked.values() if settings and settings.ipam_config]
        check_link_local(rules or None, any(one.link_local_ips for one in inner))
        if mode == "host" and wanted:
            return ["Published ports are discarded when using host network mode"]
        alone = mode in ("none", "host") or mode.startswith("container:")
        return [] if alone else self.guard.warnings(bool(wanted))

    def _hostname_of(self, reference: str) -> str:
        with contextlib.suppress(errors.SampanError):
            return self._containers().get(reference).config.hostname
        return ""

    @staticmethod
    def _check_endpoint(name: str, network: NetworkRecord | None, settings: EndpointSettings) -> None:
        try:
            places.check_settings(network, settings)
        except errors.InvalidParameter as failure:
            what = f"invalid config for network {network.name if network else name}: {failure.message}"
            raise errors.InvalidParameter(what, hint=failure.hint) from failure

    async def prepare(self, request: SandboxRequest) -> Prepared:
        """Before the launch: addresses and ports taken, texts of the files. See :class:`Sandboxes`."""
        return await self.sandboxes.prepare(request)

    async def attach(self, container_id: str, pid: int) -> None:
        """After the launch, before the container's program: its interfaces in the namespace of ``pid``."""
        await self.sandboxes.attach(container_id, pid)

    def announce(self, container_id: str) -> None:
        """The program runs: tell "network connect" (before "start")."""
        self.sandboxes.announce(container_id)

    async def release(self, container_id: str) -> None:
        """The container ended, or its start failed. Can be called again."""
        await self.sandboxes.release(container_id)

    def renamed(self, container: Any, old: str) -> None:
        """A container was renamed: it answers to its new name from now on."""
        self.names.renamed(container.id, container.name, old)

    def settings(self, container_id: str) -> dict[str, Any]:
        """NetworkSettings as inspect shows it, with the fields of all API versions."""
        item = self.sandboxes.get(container_id)
        asked = self._asked(container_id)
        shown: dict[str, Any] = {}
        for name, settings in asked.items():
            network = self.catalog.find(name)
            live = places.find(item, network.id) if item and network else None
            if item and item.pid and live is None:
                continue
            title = network.name if network else name
            network_id = network.id if network else settings.network_id
            shown[title] = places.shown(settings, network_id, live if item and item.pid else None)
        running = item if item and item.pid else None
        main = shown.get(DEFAULT) or places.shown(EndpointSettings(), "", None)
        return {
            "SandboxID": running.id if running else "",
            "SandboxKey": self.sandboxes.key(running) if running else "",
            "Ports": self._ports(running) if running else {},
            **{name: main[name] for name in _TOP},
            "Networks": dict(sorted(shown.items())),
        }

    def _asked(self, container_id: str) -> dict[str, EndpointSettings]:
        if self.containers is None:
            return {}
        container = self.containers.get(container_id)
        return places.asked(container.networks, container.host.network_mode)

    def _ports(self, item: Any) -> dict[str, Any]:
        if not any(endpoint.driver in ("bridge", "macvlan", "ipvlan") for endpoint in item.endpoints):
            return {}
        result: dict[str, Any] = dict.fromkeys(item.exposed)
        for one in item.published:
            entry = {"HostIp": one.host_ip, "HostPort": str(one.host_port or "")}
            key = f"{one.port}/{one.protocol}"
            result[key] = [*(result.get(key) or []), entry]
        return dict(sorted(result.items()))

    # -- docker network ------------------------------------------------------------------------------------

    async def create(self, request: CreateNetwork) -> NetworkRecord:
        """Make a network. The errors and statuses of dockerd; nothing is left of a failure."""
        network = plan(request, self.catalog, self.config.default_network_opts)
        egress.parse(network.options.get(EGRESS) or network.labels.get(EGRESS) or "")
        if network.driver == "bridge" and not network.config_only:
            network.device = BridgeOptions.parse(network.options, internal=network.internal).name
            network.device = network.device or f"br-{network.id[:12]}"
            self._check_bridge_name(network)
        self.catalog.add(network, self.ground.host_networks(files.host_resolv()[0].servers))
        try:
            self.ground.ensure(network)
        except BaseException:
            with contextlib.suppress(errors.SampanError, OSError):
                self.ground.drop(network)
            self.catalog.remove(network)
            raise
        self.store.save_network(network)
        self.guard.lay_jumps()
        self._publish("create", network)
        return network

    def _check_bridge_name(self, network: NetworkRecord) -> None:
        if len(network.device) > 15 or not re.fullmatch(r"[^\s/]+", network.device):
            raise errors.InvalidParameter(f"invalid bridge name: {network.device}")
        for other in self.catalog:
            if other.device == network.device:
                raise errors.Forbidden(
                    f"cannot create network {network.id} ({network.device}): conflicts with network "
                    f"{other.id} ({other.device}): networks have same bridge name"
                )

    async def remove(self, reference: str) -> None:
        """Remove a network that nobody is on. NotFound, Forbidden."""
        network = self.catalog.get(reference)
        if network.predefined:
            raise errors.Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if network.config_only and any(item.config_from == network.name for item in self.catalog):
            raise errors.Forbidden(f'configuration network "{network.name}" is in use')
        active = self.sandboxes.on(network.id)
        if active:
            who = " ".join(f'name:"{item.name}" id:"{endpoint.id[:12]}"' for item, endpoint in active)
            raise errors.Forbidden(
                f"error while removing network: network {network.name} has active endpoints ({who})",
                hint="Stop these containers, or: docker network disconnect -f.",
            )
        self.ground.drop(network)
        self.catalog.remove(network)
        self.guard.lay_jumps()
        self._publish("destroy", network)

    async def prune(self, keep: Callable[[NetworkRecord], bool] = lambda _network: False) -> list[str]:
        """Remove the networks that nobody is on, save those of ``keep``; their names."""
        removed = []
        for network in self.catalog:
            if network.predefined or network.config_only or self.sandboxes.on(network.id) or keep(network):
                continue
            with contextlib.suppress(errors.SampanError):
                await self.remove(network.id)
                removed.append(network.name)
        self.events.publish("network", "prune", "", {"reclaimed": "0"})
        return removed

    async def connect(self, reference: str, container: str, settings: EndpointSettings | None = None) -> None:
        """Put a container, running or not, on a network. The errors and statuses of dockerd."""
        await connecting.connect(self, reference, container, settings or EndpointSettings())

    async def disconnect(self, reference: str, container: str, *, force: bool = False) -> None:
        """Take a container, running or not, off a network. The errors and statuses of dockerd."""
        await connecting.disconnect(self, reference, container, force=force)

    def get(self, reference: str) -> NetworkRecord:
        """The network with this id, name or prefix. NotFound "network x not found"."""
        return self.catalog.get(reference)

    def all(self) -> list[NetworkRecord]:
        """All networks, the predefined ones first."""
        return list(self.catalog)

    def users(self, network: NetworkRecord) -> dict[str, dict[str, str]]:
        """``Containers`` of network inspect."""
        return {
            item.container: {
                "Name": item.name,
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac,
                "IPv4Address": f"{endpoint.ipv4}/{endpoint.prefix4}" if endpoint.ipv4 else "",
                "IPv6Address": f"{endpoint.ipv6}/{endpoint.prefix6}" if endpoint.ipv6 else "",
            }
            for item, endpoint in sorted(self.sandboxes.on(network.id), key=lambda pair: pair[0].container)
            if item.pid
        }

    async def egress(self, container: str) -> dict[str, Any]:
        """What a container may reach and what it was refused. NotFound; Conflict when it doesn't run."""
        found = self._containers().get(container)
        item = self.sandboxes.get(found.id)
        if item is None:
            raise errors.Conflict(f"container {found.id} is not running")
        return await self.guard.egress_of(item)

    def _containers(self) -> Containers:
        if self.containers is None:
            raise errors.SystemFailure("the engine's containers are not there yet")
        return self.containers

    # -- events --------------------------------------------------------------------------------------------

    def _publish(self, action: str, network: NetworkRecord, **more: str) -> None:
        attributes = {**more, "name": network.name, "type": network.driver}
        self.events.publish("network", action, network.id, attributes)

    def publish_endpoint(self, action: str, endpoint: Endpoint, container: str) -> None:
        """Tell that a container joined or left a network."""
        attributes = {"container": container, "name": endpoint.network, "type": endpoint.driver}
        self.events.publish("network", action, endpoint.network_id, attributes)


def _machine_id() -> str:
    with contextlib.suppress(OSError), open("/etc/machine-id") as file:
        return file.read().strip()
    return ""
