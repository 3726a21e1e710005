"""The network side of a container's life: prepared before it is launched, attached while it waits, released.

``prepare`` takes addresses and ports and writes the row that says so; ``attach`` builds what the row says;
``release`` gives all back. Killed between any two steps, the engine finds the row at its next start and
either goes on (the container runs) or releases.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sampan import errors
from sampan.engine.networks import connect, publishing
from sampan.engine.networks import endpoints as places
from sampan.engine.networks.guard import check_link_local
from sampan.engine.networks.names import resolver_wanted, sandbox_files
from sampan.engine.networks.records import Endpoint, NetworkRecord, Sandbox, new_id
from sampan.engine.networks.types import Prepared, SandboxRequest
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from sampan.kernel.netns import in_thread, open_netns
from sampan.network import bridges, sandbox
from sampan.network.options import LanOptions

if TYPE_CHECKING:
    from sampan.engine.networks.service import Networks

log = logging.getLogger(__name__)
_SWEEP_AFTER = 2.0
_MUTE_FOR = 0.3  # seconds; there is a chain to take away, too
_OUTER = re.compile("veth[0-9a-f]{7}")
_CONTEXT = "failed to set up container networking: "


class Sandboxes:
    """All sandboxes of the engine, by container id."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._live: dict[str, Sandbox] = {}
        self._leaving: dict[str, float] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(list(self._live.values()))

    def get(self, container: str) -> Sandbox | None:
        """The sandbox of a container that is started."""
        return self._live.get(container)

    def on(self, network_id: str) -> list[tuple[Sandbox, Endpoint]]:
        """Who is on a network."""
        return [
            (item, endpoint)
            for item in self._live.values()
            for endpoint in item.endpoints
            if endpoint.network_id == network_id
        ]

    def load(self, stored: Iterable[Sandbox]) -> None:
        """Know sandboxes from before a restart; their addresses are taken again."""
        for item in stored:
            self._live[item.container] = item
            for endpoint in item.endpoints:
                self._retake(endpoint)
            self._networks.publishing.adopt(item)

    def _retake(self, endpoint: Endpoint) -> None:
        network = self._networks.catalog.find(endpoint.network_id)
        for text in endpoint.addresses():
            address = ipaddress.ip_address(text)
            pool = self._networks.catalog.pool(network, address.version, address) if network else None
            if pool is not None:
                with contextlib.suppress(errors.SampanError):
                    pool.take(address)

    # -- prepare -------------------------------------------------------------------------------------------

    async def prepare(self, request: SandboxRequest) -> Prepared:
        """Take addresses and ports. Errors as dockerd's start gives them; nothing is left of a failure."""
        mode = places.network_mode(request.host.network_mode)
        if mode.startswith("container:"):
            return Prepared("", "")
        if request.container_id in self._live:
            await self.release(request.container_id)
        try:
            item = self._take(request, mode)
        except errors.SampanError as failure:
            raise _in_context(failure) from failure
        self._live[item.container] = item
        self._networks.store.save_sandbox(item)
        hosts, resolv = sandbox_files(self._networks, request, item)
        shown = {
            endpoint.network: places.filled(endpoint, request.networks.get(endpoint.network))
            for endpoint in item.endpoints
        }
        return Prepared(hosts, resolv, shown)

    def _take(self, request: SandboxRequest, mode: str) -> Sandbox:
        catalog = self._networks.catalog
        chosen = places.choose(catalog, request)
        item = Sandbox(request.container_id, request.name, request.hostname, new_id(), mode)
        item.domainname = request.config.domainname
        item.exposed = sorted(request.config.exposed_ports or {})
        options: dict[str, tuple[str, dict[str, str]]] = {}
        with contextlib.ExitStack() as undo:
            for number, (network, settings) in enumerate(chosen):
                mac = request.config.mac_address if number == 0 else ""
                endpoint = places.allocate(catalog, network, settings, mac=mac)
                undo.callback(catalog.release, network.id, endpoint.addresses())
                if network.driver not in ("host", "null"):
                    self._networks.ground.index(network)
                self._name(item, request, network, endpoint, settings.links or ())
                options[endpoint.id] = (self._prefix(network), dict(settings.driver_opts or {}))
                item.endpoints.append(endpoint)
            places.name_interfaces(item.endpoints, options)
            item.egress = self._networks.guard.rules(
                request.config, request.host, [network for network, _ in chosen]
            )
            check_link_local(item.egress, any(endpoint.link_local for endpoint in item.endpoints))
            item.resolver = resolver_wanted(self._networks, item)
            if any(network.is_default_bridge for network, _settings in chosen):
                item.links = dict(request.links)
            self._networks.publishing.reserve(item, request)
            undo.pop_all()
        return item

    def _prefix(self, network: NetworkRecord) -> str:
        return self._networks.ground.options(network).iface_prefix if network.driver == "bridge" else "eth"

    def _name(
        self, item: Sandbox, request: SandboxRequest, network: NetworkRecord, endpoint: Endpoint,
        links: Iterable[str],
    ) -> None:  # fmt: skip
        if network.predefined:
            return
        names = places.dns_names(request.name, request.container_id, request.hostname, endpoint.aliases)
        endpoint.dns_names = names
        for spec in links:
            target, _, alias = spec.partition(":")
            endpoint.links[alias or target] = target
        endpoint.links.update(request.links)

    # -- attach --------------------------------------------------------------------------------------------

    async def attach(self, container: str, pid: int) -> None:
        """Build the interfaces in the namespace of ``pid``. SystemFailure when the kernel refuses."""
        item = self._live.get(container)
        if item is None or not places.is_private(item.mode):
            if item is not None:
                item.pid = pid
                self._networks.store.save_sandbox(item)
            return
        interfaces = [
            self.interface(item, endpoint) for endpoint in item.endpoints if endpoint.driver != "null"
        ]
        built = sandbox.Built()
        if interfaces:
            await self._build(item, pid, built, interfaces)
        for warning in built.warnings:
            log.warning("container %s: %s", container[:12], warning)
        item.pid = pid
        self._networks.store.save_sandbox(item)
        self._networks.publishing.open(item)
        self._networks.guard.control(item)
        await self._networks.guard.cut(item)
        await self._networks.switchboard.serve(
            container,
            pid,
            self._networks.publishing.targets(item),
            self._networks.publishing.take(container),
            built.sockets,
        )
        self._networks.names.changed(item)
        await self._networks.links.attached(item)

    async def _build(
        self, item: Sandbox, pid: int, built: sandbox.Built, interfaces: list[sandbox.Interface]
    ) -> None:
        """Interfaces and rules; the loopback is up already, so that without interfaces nothing is to do."""
        loopback = publishing.loopback(item)
        try:
            netns = open_netns(pid)
        except OSError as failure:
            raise errors.SystemFailure(
                f"{_CONTEXT}the container is gone: {errors.said(failure)}"
            ) from failure
        host = Netlink()
        try:
            self._forward(item)
            await in_thread(
                lambda: sandbox.build(
                    built, netns, host, interfaces, loopback_ports=loopback, resolver=item.resolver
                ),
                built.finish,
            )
        except OSError as failure:
            raise errors.SystemFailure(f"{_CONTEXT}{errors.said(failure)}") from failure
        finally:
            host.close()
            os.close(netns)

    def interface(self, item: Sandbox, endpoint: Endpoint) -> sandbox.Interface:
        """What to build for an endpoint."""
        network = self._networks.catalog.get(endpoint.network_id)
        gateways = tuple(
            ipaddress.ip_address(text)
            for version, text in ((4, endpoint.gateway4), (6, endpoint.gateway6))
            if text and places.gateway_endpoint(item.endpoints, version) is endpoint
        )
        common: dict[str, Any] = {
            "name": endpoint.interface,
            "kind": endpoint.driver,
            "parent": self._networks.ground.last_index(network),
            "addresses": places.addresses_of(endpoint),
            "mac": endpoint.mac,
            "gateways": gateways,
            "sysctls": endpoint.sysctls,
        }
        if endpoint.driver != "bridge":
            lan = LanOptions.parse(endpoint.driver, network.options)
            return sandbox.Interface(**common, mode=lan.mode, flag=lan.flag, mtu=lan.mtu)
        options = self._networks.ground.options(network)
        return sandbox.Interface(
            **common,
            outer=endpoint.outer,
            mtu=options.mtu or self._networks.config.mtu,
            hairpin=bool(item.published),
            isolated=not self._networks.ground.icc(network),
        )

    def _forward(self, item: Sandbox) -> None:
        if not self._networks.config.ip_forward:
            return
        for endpoint in item.endpoints:
            network = self._networks.catalog.get(endpoint.network_id)
            if endpoint.driver == "bridge" and not network.internal:
                for version, text in ((4, endpoint.ipv4), (6, endpoint.ipv6)):
                    if text:
                        self._networks.ground.forwarding.require(version)

    # -- after ---------------------------------------------------------------------------------------------

    def announce(self, container: str) -> None:
        """Tell "network connect" of every endpoint, once."""
        item = self._live.get(container)
        if item is None or item.announced:
            return
        for endpoint in item.endpoints:
            self._networks.publish_endpoint("connect", endpoint, container)
        item.announced = [endpoint.id for endpoint in item.endpoints]
        self._networks.store.save_sandbox(item)

    async def release(self, container: str) -> None:
        """Give everything back; a container without sandbox is no error. Tells "network disconnect"."""
        item = self._live.pop(container, None)
        if item is None:
            return
        self._networks.names.gone(item)
        self._networks.links.released(item)
        await self._networks.switchboard.drop(container)
        self._networks.publishing.close(item)
        if item.pid:
            await self._end_links(item)
        with contextlib.suppress(errors.SampanError, OSError):
            self._networks.guard.release(item)
        for endpoint in item.endpoints:
            self._networks.catalog.release(endpoint.network_id, endpoint.addresses())
        self._networks.store.delete_sandbox(container)
        if item.pid:
            for endpoint in item.endpoints:
                self._networks.publish_endpoint("disconnect", endpoint, container)
        self._begin_sweep()

    async def _end_links(self, item: Sandbox) -> None:
        """Links go with their namespace, sooner or later.

        At once where somebody else is in it, before another gets its addresses. Where rules end with the
        container they are mute until then: its kernel may have packets left to send (what waits for an ARP
        answer keeps a namespace).
        """
        mute = self._mute(item)
        shared = self._networks.shared(item)
        for endpoint in item.endpoints:
            loud = item.egress is not None and endpoint.outer not in mute
            if endpoint.outer and (shared or loud):
                await _end_link(endpoint.outer)
            elif endpoint.outer:
                after = _MUTE_FOR if endpoint.outer in mute else _SWEEP_AFTER
                self._leaving[endpoint.outer] = asyncio.get_running_loop().time() + after

    def _mute(self, item: Sandbox) -> set[str]:
        ground = self._networks.ground
        with contextlib.suppress(errors.SampanError):
            if item.egress is not None and ground.firewall.present:
                return ground.sources.mute(item.container)
        return set()

    def _begin_sweep(self) -> None:
        if self._leaving and (self._sweeper is None or self._sweeper.done()):
            self._sweeper = asyncio.get_running_loop().create_task(self._sweep())

    def _sweep_strays(self) -> None:
        """Links of containers that ended just before the engine was killed, if they are still there later."""
        known = {endpoint.outer for item in self for endpoint in item.endpoints}
        due = asyncio.get_running_loop().time() + _SWEEP_AFTER
        with contextlib.suppress(OSError):
            for name in bridges.ports(self._networks.ground.route, self._networks.ground.table):
                if name not in known and _OUTER.fullmatch(name):
                    self._leaving[name] = due
                    self._networks.ground.sources.keep(name)
        self._begin_sweep()

    async def _sweep(self) -> None:
        """Delete outer ends of veths that didn't go by themselves: somebody still uses their namespace."""
        loop = asyncio.get_running_loop()
        while self._leaving:
            name = min(self._leaving, key=self._leaving.__getitem__)
            left = self._leaving[name] - loop.time()
            if left > 0:  # meanwhile there may come one that is due before
                await asyncio.sleep(min(left, _MUTE_FOR))
                continue
            del self._leaving[name]
            await _end_link(name)
            self._networks.ground.sources.bind(name, {})

    def close(self) -> None:
        """End links that leave at once: nobody looks after them any more."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        with contextlib.suppress(OSError):
            for name in self._leaving:
                _delete_link(self._networks.ground.route, name)

    async def restore(self, running: Mapping[str, int]) -> None:
        """After a restart of the engine: go on with the containers that run, release the others.

        ``running`` has their pids; one that is 0 isn't known yet: :meth:`resume` or ``release`` follows.
        """
        for item in list(self._live.values()):
            pid = running.get(item.container)
            if pid is None or (pid and places.is_private(item.mode) and pid != item.pid):
                await self.release(item.container)
            elif pid:
                await self._go_on(item, pid)
        self._sweep_strays()
        own = [item for item in self._live.values() if places.is_private(item.mode)]
        await self._networks.switchboard.restore(
            {item.container: bool(publishing.bound(item)) for item in own},
            [endpoint.id for item in own for endpoint in item.endpoints],
        )
        for item in self._live.values():
            if running[item.container]:
                await self.mend(item)

    async def resume(self, container: str, pid: int) -> None:
        """Go on with one whose pid is known only now."""
        item = self._live.get(container)
        if item is not None:
            await self._go_on(item, pid)
            await self.mend(item)

    async def _go_on(self, item: Sandbox, pid: int) -> None:
        item.pid = pid
        try:
            with self.changing(item):
                await connect.recover(self._networks, item)
        except (errors.SampanError, OSError) as failure:
            log.warning("container %s: networks it was joining or leaving: %s", item.name, failure)
        with contextlib.suppress(errors.SampanError, OSError):
            self._forward(item)
            self._networks.publishing.open(item)
            self._networks.guard.control(item)
            await self._networks.links.attached(item)

    async def mend(self, item: Sandbox) -> None:
        """Give the switchboard what it lacks for a running sandbox: it was killed, or starts anew."""
        lacks_ports, lacks_resolver = self._networks.switchboard.lacking(
            item.container, bool(publishing.bound(item)), item.resolver
        )
        if not places.is_private(item.mode) or not (lacks_ports or lacks_resolver):
            self._networks.names.changed(item)
            return
        reserved = self._networks.publishing.take(item.container)
        reserved = reserved or (self._networks.publishing.again(item) if lacks_ports else [])
        sockets = None
        try:
            sockets = await self._new_sockets(item)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended meanwhile
        except OSError as failure:
            log.warning("%s: its names and ports on 127.0.0.1 are gone: %s", item.name, failure)
        await self._networks.switchboard.serve(
            item.container, item.pid, self._networks.publishing.targets(item), reserved, sockets
        )
        self._networks.names.changed(item)

    async def _new_sockets(self, item: Sandbox) -> sandbox.Sockets:
        """Sockets inside the namespace for a new switchboard, and the rules that lead to them."""
        interfaces = [self.interface(item, one) for one in item.endpoints if one.driver != "null"]
        netns = open_netns(item.pid)
        try:
            return await in_thread(
                lambda: sandbox.reopen(
                    netns, interfaces, loopback_ports=publishing.loopback(item), resolver=item.resolver
                )
            )
        finally:
            os.close(netns)

    async def mend_all(self) -> None:
        """The switchboard died: give the new one everything."""
        # Those with a resolver first: they start it, and names are told only where there is one.
        for item in sorted(self._live.values(), key=lambda item: not item.resolver):
            if item.pid:
                await self.mend(item)

    @contextlib.contextmanager
    def changing(self, item: Sandbox) -> Iterator[None]:
        """Around a change of a running sandbox's endpoints: its ways are closed before and opened after."""
        before = self._networks.publishing.forwarded(item)
        try:
            yield
        finally:
            if self._live.get(item.container) is item:
                self._networks.publishing.change(item, before)
                self._networks.guard.control(item)

    async def changed(self, item: Sandbox) -> None:
        """A running sandbox has other endpoints now: store it, tell the switchboard."""
        self._networks.store.save_sandbox(item)
        self._forward(item)
        with contextlib.suppress(OSError):
            await self._networks.switchboard.retarget(item.container, self._networks.publishing.targets(item))
        self._networks.names.changed(item)

    def key(self, item: Sandbox) -> str:
        """The path of the sandbox's network namespace (inspect's SandboxKey)."""
        return f"/proc/{item.pid}/ns/net" if item.pid else ""


def _in_context(failure: errors.SampanError) -> errors.SampanError:
    return type(failure)(_CONTEXT + failure.message, hint=failure.hint)


async def _end_link(name: str) -> None:
    """Delete a link; one that has gone is no error. Takes some 35 ms."""

    def work() -> None:
        with contextlib.suppress(OSError), Netlink() as route:
            _delete_link(route, name)

    await in_thread(work)


def _delete_link(route: Netlink, name: str) -> None:
    found = rt.find_link(route, name)
    if found is not None:
        route.send(rt.delete_link(found.index))
