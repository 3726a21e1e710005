"""Putting containers on networks and taking them off, while they run and while they don't."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sampan import errors
from sampan.engine.containers.record import Container
from sampan.engine.networks import endpoints as places
from sampan.engine.networks.guard import check_link_local
from sampan.engine.networks.names import resolver_wanted, sandbox_files
from sampan.engine.networks.records import JOINING, LEAVING, Endpoint, NetworkRecord, Sandbox
from sampan.engine.networks.types import SandboxRequest
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from sampan.kernel.netns import enter, in_thread, open_netns
from sampan.network import hostsfile
from sampan.network import sandbox as inside
from sampan.network.options import EGRESS, BridgeOptions
from sampan.runtime.config import ContainerConfig, EndpointSettings, HostConfig

if TYPE_CHECKING:
    from sampan.engine.networks.service import Networks


_NO_LINKS = "can't be used with links. This would result in undefined behavior"


def check_conflicts(config: ContainerConfig, host: HostConfig, mode: str, shared_hostname: str) -> None:
    """Options that go with no namespace of somebody else's (InvalidParameter, dockerd's words).

    ``shared_hostname`` is the hostname of the container whose namespace is to be joined.
    """
    if config.mac_address and (mode in ("none", "host") or mode.startswith("container:")):
        raise errors.InvalidParameter("conflicting options: mac-address and the network mode")
    if not mode.startswith("container:"):
        if mode == "host" and host.links:
            raise errors.InvalidParameter(f"conflicting options: host type networking {_NO_LINKS}")
        return
    conflicts = (
        (config.hostname != shared_hostname, "conflicting options: hostname and the network mode"),
        (host.links, f"conflicting options: container type network {_NO_LINKS}"),
        (host.dns, "conflicting options: dns and the network mode"),
        (host.extra_hosts, "conflicting options: custom host-to-IP mapping and the network mode"),
        (host.port_bindings or host.publish_all_ports,
         "conflicting options: port publishing and the container type network mode"),
        (config.exposed_ports, "conflicting options: port exposing and the container type network mode"),
        (any(EGRESS in (source or {}) for source in (config.labels, host.annotations)),
         "conflicting options: egress rules and the container type network mode"),
    )  # fmt: skip
    for given, message in conflicts:
        if given:
            raise errors.InvalidParameter(message)


async def connect(networks: Networks, reference: str, who: str, settings: EndpointSettings) -> None:
    """``docker network connect``."""
    network = networks.get(reference)
    container = networks._containers().get(who)
    _check(network, container)
    places.check_settings(network, settings)
    item = networks.sandboxes.get(container.id)
    if network.config_only:
        raise errors.Forbidden(f"configuration network {network.name} cannot be used for containers")
    if item is None or not item.pid:
        known = places.asked(container.networks, container.host.network_mode)
        if network.name not in known or not places.says_nothing(settings):
            _note(networks, container, network, settings)
        return
    if places.find(item, network.id) is not None:
        raise errors.Forbidden(
            f"endpoint with name {container.name} already exists in network {network.name}"
        )
    await _join(networks, network, container, item, settings)


def _check(network: NetworkRecord, container: Container) -> None:
    mode = places.network_mode(container.host.network_mode)
    if network.driver == "host":
        raise errors.InvalidParameter(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if not places.is_private(mode):
        raise errors.InvalidParameter(places.SHARED)
    if network.driver == "null" or "none" in places.asked(container.networks, mode):
        raise errors.InvalidParameter(places.PRIVATE)


def _note(
    networks: Networks, container: Container, network: NetworkRecord, settings: EndpointSettings
) -> None:
    container.networks = {
        **places.asked(container.networks, container.host.network_mode),
        network.name: settings,
    }
    networks._containers().save(container)


async def _join(
    networks: Networks,
    network: NetworkRecord,
    container: Container,
    item: Sandbox,
    settings: EndpointSettings,
) -> None:
    """Put a running container on a network; killed on the way, :func:`recover` finishes it or takes it back."""
    rules = _egress(networks, container, item, joined=network)
    given = settings.ipam_config is not None and bool(settings.ipam_config.link_local_ips)
    check_link_local(rules, given or any(one.link_local for one in item.endpoints))
    endpoint = _plan(networks, network, container, item, settings)
    before, before_rules, publishes = container.networks, item.egress, not item.published
    try:
        with networks.sandboxes.changing(item):
            item.endpoints.append(endpoint)
            try:
                if publishes:  # it had no network from which its ports could be reached
                    networks.publishing.reserve(item, SandboxRequest.of(container))
                item.egress = rules
                networks.store.save_sandbox(item)
                networks.guard.limit(item)  # before there is a way out
                _note(networks, container, network, settings)
                await _build(networks, item, endpoint)
            except BaseException:
                if publishes:
                    networks.publishing.abandon(item)
                item.endpoints.remove(endpoint)
                item.egress = before_rules
                raise
    except BaseException as failure:
        if not _alive(networks, item):
            return  # it has ended meanwhile, and all its addresses are free: the network is for its next start
        networks.catalog.release(network.id, endpoint.addresses())
        container.networks = before
        networks._containers().save(container)
        networks.store.save_sandbox(item)
        if isinstance(failure, OSError):
            raise errors.SystemFailure(
                f"failed to set up container networking: {errors.said(failure)}"
            ) from failure
        raise
    if _alive(networks, item):
        await _joined(
            networks,
            container,
            item,
            endpoint,
            cut=rules != before_rules,
            published=publishes and bool(item.published),
        )


async def _joined(
    networks: Networks, container: Container, item: Sandbox, endpoint: Endpoint, *, cut: bool, published: bool
) -> None:
    """What follows from a way that is there: names, hosts, and what was under way before its rules (``cut``)."""
    endpoint.phase = ""
    await networks.sandboxes.changed(item)
    if cut:
        await networks.guard.cut(item)
    if published:
        await networks.sandboxes.mend(item)
    await _begin_resolving(networks, container, item)
    hostsfile.add(networks.hosts_path(item), endpoint.addresses(), item.label)
    networks.publish_endpoint("connect", endpoint, container.id)


def _egress(
    networks: Networks, container: Container, item: Sandbox, joined: NetworkRecord | None = None
) -> list[str] | None:
    """What the container may reach on the networks it is on now (and one more). InvalidParameter."""
    on = [networks.catalog.find(endpoint.network_id) for endpoint in item.endpoints] + [joined]
    known = [network for network in on if network is not None]
    return networks.guard.rules(container.config, container.host, known)


def _alive(networks: Networks, item: Sandbox) -> bool:
    """Whether a sandbox is still the one of a running container (it may have stopped while we waited)."""
    return networks.sandboxes.get(item.container) is item


def _plan(
    networks: Networks,
    network: NetworkRecord,
    container: Container,
    item: Sandbox,
    settings: EndpointSettings,
) -> Endpoint:
    """An endpoint with its addresses taken, its interface and names chosen. Nothing is left of a failure."""
    endpoint = places.allocate(networks.catalog, network, settings)
    endpoint.phase = JOINING
    prefix = "eth"
    try:
        if network.driver == "bridge":
            prefix = BridgeOptions.parse(network.options, internal=network.internal).iface_prefix
        taken = {other.interface for other in item.endpoints}
        places.name_interface(endpoint, prefix, dict(settings.driver_opts or {}), taken)
    except BaseException:
        networks.catalog.release(network.id, endpoint.addresses())
        raise
    if not network.predefined:
        names = places.dns_names(container.name, container.id, item.hostname, endpoint.aliases)
        endpoint.dns_names = names
        for spec in settings.links or ():
            target, _, alias = spec.partition(":")
            endpoint.links[alias or target] = target
    return endpoint


async def _build(networks: Networks, item: Sandbox, endpoint: Endpoint) -> None:
    networks.ground.index(networks.catalog.get(endpoint.network_id))  # its bridge may have vanished
    planned = networks.sandboxes.interface(item, endpoint)
    ways = _ways_out(item.endpoints)
    before = _ways_out([other for other in item.endpoints if other is not endpoint])
    netns, host = open_netns(item.pid), Netlink()

    def work() -> None:
        inside.make_link(host, netns, planned)
        enter(netns)
        with Netlink() as route:
            try:
                inside.configure(route, planned, localnet=bool(item.published))
                inside.choose_gateways(route, ways)
            except OSError:
                _remove(route, planned.name, before)
                raise
        if item.published and endpoint.ipv4:
            inside.interface_changed(endpoint.interface, endpoint.ipv4)

    try:
        await in_thread(work)
    finally:
        host.close()
        os.close(netns)


async def _begin_resolving(networks: Networks, container: Container, item: Sandbox) -> None:
    """On its first user-defined network a container gets the resolver, as it would have had at its start."""
    if item.resolver or not resolver_wanted(networks, item):
        return
    request = SandboxRequest.of(container)
    path = networks.hosts_path(item).with_name("resolv.conf")
    _, before = sandbox_files(networks, request, item)
    item.resolver = True
    _, text = sandbox_files(networks, request, item)
    with contextlib.suppress(FileNotFoundError):
        if path.read_text() == before:  # else somebody has changed it inside: it stays
            path.write_text(text)
    await networks.sandboxes.mend(item)


def _ways_out(endpoints: Sequence[Endpoint]) -> dict[str, list[str]]:
    """The default routes a sandbox is to have: gateways by interface name."""
    ways: dict[str, list[str]] = {}
    for version in (4, 6):
        chosen = places.gateway_endpoint(endpoints, version)
        if chosen is not None:
            gateway = chosen.gateway4 if version == 4 else chosen.gateway6
            ways.setdefault(chosen.interface, []).append(gateway)
    return ways


async def disconnect(networks: Networks, reference: str, who: str, *, force: bool) -> None:
    """``docker network disconnect``."""
    network = networks.get(reference)
    try:
        container = networks._containers().get(who)
    except errors.NotFound:
        if not force:
            raise
        await _force_off(networks, network, who)
        return
    if network.driver == "host" and places.network_mode(container.host.network_mode) == "host":
        raise errors.InvalidParameter(
            "cannot disconnect container from host network - container was created in host network mode"
        )
    item = networks.sandboxes.get(container.id)
    endpoint = places.find(item, network.id) if item and item.pid else None
    asked = places.asked(container.networks, container.host.network_mode)
    named = next((name for name in (network.name, network.id) if name in asked), "")
    if endpoint is None and (not named or (item and item.pid)):
        raise errors.SystemFailure(f"container {container.id} is not connected to network {network.name}")

    def forget() -> None:
        container.networks = places.without(asked, {named})
        networks._containers().save(container)

    if item is not None and endpoint is not None:
        await _leave(networks, network, item, endpoint, forget)
    else:
        forget()


async def _force_off(networks: Networks, network: NetworkRecord, who: str) -> None:
    for item, endpoint in networks.sandboxes.on(network.id):
        if who in (item.name, item.container):
            await _leave(networks, network, item, endpoint, lambda: None)
            return
    raise errors.NotFound(f"endpoint {who} not found")


async def _leave(
    networks: Networks,
    network: NetworkRecord,
    item: Sandbox,
    endpoint: Endpoint,
    forget: Callable[[], None],
) -> None:
    """Take a running container off a network; killed on the way, :func:`recover` finishes it."""
    endpoint.phase = LEAVING
    networks.store.save_sandbox(item)
    before = item.egress
    with networks.sandboxes.changing(item):
        item.endpoints.remove(endpoint)
        try:
            await _unbuild(item, endpoint)
            with contextlib.suppress(errors.NotFound):
                item.egress = _egress(networks, networks._containers().get(item.container), item)
        except OSError as failure:
            if _alive(networks, item):
                endpoint.phase = ""
                item.endpoints.append(endpoint)
                networks.store.save_sandbox(item)
                raise errors.SystemFailure(
                    f"leaving network {network.name}: {errors.said(failure)}"
                ) from failure
    if before is not None:
        networks.guard.forget(endpoint.addresses())
    networks.catalog.release(network.id, endpoint.addresses())
    networks.names.left(endpoint)
    forget()
    if _alive(networks, item):
        await _left(networks, item, endpoint, cut=item.egress != before)
    networks.publish_endpoint("disconnect", endpoint, item.container)


async def _left(networks: Networks, item: Sandbox, endpoint: Endpoint, *, cut: bool) -> None:
    """What follows for a container that goes on without a network; ``cut``: other rules hold for it."""
    await networks.sandboxes.changed(item)
    if item.published and networks.publishing.target(item) is None:
        await _withdraw(networks, item)
    if cut:  # what a name of a network's rules has opened ends with them
        networks.guard.forget([address for one in item.endpoints for address in one.addresses()])
        await networks.guard.cut(item)
    hostsfile.remove(networks.hosts_path(item), endpoint.addresses(), item.label)


async def _withdraw(networks: Networks, item: Sandbox) -> None:
    """Give up the ports of a container that has no network left from which they could be reached."""
    networks.publishing.abandon(item)
    networks.store.save_sandbox(item)
    await networks.switchboard.drop(item.container)
    await networks.sandboxes.mend(item)  # the resolver goes on


async def _unbuild(item: Sandbox, endpoint: Endpoint) -> None:
    """Take an interface away, if it is there, and lead the default routes over the others. OSError."""
    if not endpoint.interface:
        return
    ways = _ways_out([other for other in item.endpoints if other is not endpoint])
    netns = open_netns(item.pid)

    def work() -> None:
        enter(netns)
        with Netlink() as route:
            _remove(route, endpoint.interface, ways)
        if item.published and endpoint.ipv4:
            inside.interface_changed(endpoint.interface, endpoint.ipv4, left=True)

    try:
        await in_thread(work)
    finally:
        os.close(netns)


def _remove(route: Netlink, name: str, ways: Mapping[str, Sequence[str]]) -> None:
    """Take an interface away, if it is there, and have these ways out. From a thread in the namespace."""
    found = rt.find_link(route, name)
    if found is not None:
        route.send(rt.delete_link(found.index))
    inside.choose_gateways(route, ways)


async def recover(networks: Networks, item: Sandbox) -> None:
    """After a crash: finish what was under way. A network that was noted for the container is joined."""
    for endpoint in [one for one in item.endpoints if one.phase]:
        container = networks._containers().get(item.container)
        asked = places.asked(container.networks, container.host.network_mode)
        names = {endpoint.network, endpoint.network_id} & set(asked)
        await _unbuild(item, endpoint)
        path = networks.hosts_path(item)
        if endpoint.phase == JOINING and names:
            await _build(networks, item, endpoint)
            endpoint.phase = ""
            hostsfile.add(path, endpoint.addresses(), item.label)
        else:
            container.networks = places.without(asked, names)
            networks._containers().save(container)
            item.endpoints.remove(endpoint)
            networks.catalog.release(endpoint.network_id, endpoint.addresses())
            hostsfile.remove(path, endpoint.addresses(), item.label)
        item.egress = _egress(networks, container, item)  # a network's rules come and go with it
        if networks.publishing.target(item) is None:
            networks.publishing.abandon(item)
        networks.store.save_sandbox(item)
