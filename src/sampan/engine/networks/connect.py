"""Putting containers on networks and taking them off, while they run and while they don't."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sampan import errors
from sampan.engine.containers.record import Container
from sampan.engine.networks import endpoints as places
from sampan.engine.networks.names import resolver_wanted, sandbox_files
from sampan.engine.networks.records import Endpoint, NetworkRecord, Sandbox
from sampan.engine.networks.types import SandboxRequest
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from sampan.kernel.netns import enter, in_thread, open_netns
from sampan.network import hostsfile
from sampan.network import sandbox as inside
from sampan.network.options import BridgeOptions
from sampan.runtime.config import ContainerConfig, EndpointSettings, HostConfig

if TYPE_CHECKING:
    from sampan.engine.networks.service import Networks


_NO_LINKS = "can't be used with links. This would result in undefined behavior"


def check_conflicts(config: ContainerConfig, host: HostConfig, mode: str, shared_hostname: str) -> None:
    """Options that go with no namespace of somebody else's (InvalidParameter, dockerd's words).

    ``shared_hostname`` is the hostname of the container whose namespace is to be joined.
    """
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
        _note(networks, container, network, settings)
        return
    if places.find(item, network.id) is not None:
        raise errors.Forbidden(
            f"endpoint with name {container.name} already exists in network {network.name}"
        )
    await _join(networks, network, container, item, settings)
    _note(networks, container, network, settings)


def _check(network: NetworkRecord, container: Container) -> None:
    mode = places.network_mode(container.host.network_mode)
    if network.driver == "host":
        raise errors.InvalidParameter(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if not places.is_private(mode):
        raise errors.InvalidParameter(places.SHARED)
    if mode == "none" or network.driver == "null":
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
    endpoint = places.allocate(networks.catalog, network, settings)
    try:
        prefix = "eth"
        if network.driver == "bridge":
            prefix = BridgeOptions.parse(network.options, internal=network.internal).iface_prefix
        taken = {other.interface for other in item.endpoints}
        places.name_interface(endpoint, prefix, dict(settings.driver_opts or {}), taken)
        if not network.predefined:
            endpoint.dns_names = places.dns_names(
                container.name, container.id, item.hostname, endpoint.aliases
            )
            for spec in settings.links or ():
                target, _, alias = spec.partition(":")
                endpoint.links[alias or target] = target
        with networks.sandboxes.changing(item):
            item.endpoints.append(endpoint)
            try:
                await _build(networks, item, endpoint)
            except BaseException:
                item.endpoints.remove(endpoint)
                raise
    except OSError as failure:
        networks.catalog.release(network.id, endpoint.addresses())
        raise errors.SystemFailure(f"failed to set up container networking: {failure}") from failure
    except BaseException:
        networks.catalog.release(network.id, endpoint.addresses())
        raise
    await networks.sandboxes.changed(item)
    await _begin_resolving(networks, container, item)
    hostsfile.add(networks.hosts_path(item), endpoint.addresses(), item.label)
    networks.publish_endpoint("connect", endpoint, container.id)


async def _build(networks: Networks, item: Sandbox, endpoint: Endpoint) -> None:
    planned = networks.sandboxes.interface(item, endpoint)
    ways = _ways_out(item)
    netns, host = open_netns(item.pid), Netlink()

    def work() -> None:
        inside.make_link(host, netns, planned)
        enter(netns)
        with Netlink() as route:
            inside.configure(route, planned, localnet=bool(item.published))
            inside.choose_gateways(route, ways)
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
    if path.read_text() == before:  # else somebody has changed it inside: it stays
        path.write_text(text)
    await networks.sandboxes.mend(item)


def _ways_out(item: Sandbox) -> dict[str, list[str]]:
    """The default routes a sandbox is to have: gateways by interface name."""
    ways: dict[str, list[str]] = {}
    for version in (4, 6):
        chosen = places.gateway_endpoint(item.endpoints, version)
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
    if item is not None and endpoint is not None:
        await _leave(networks, network, item, endpoint)
    container.networks = {name: settings for name, settings in asked.items() if name != named}
    networks._containers().save(container)


async def _force_off(networks: Networks, network: NetworkRecord, who: str) -> None:
    for item, endpoint in networks.sandboxes.on(network.id):
        if who in (item.name, item.container):
            await _leave(networks, network, item, endpoint)
            return
    raise errors.NotFound(f"endpoint {who} not found")


async def _leave(networks: Networks, network: NetworkRecord, item: Sandbox, endpoint: Endpoint) -> None:
    with networks.sandboxes.changing(item):
        item.endpoints.remove(endpoint)
        ways = _ways_out(item)
        if endpoint.interface:
            netns = open_netns(item.pid)

            def work() -> None:
                enter(netns)
                with Netlink() as route:
                    found = rt.find_link(route, endpoint.interface)
                    if found is not None:
                        route.send(rt.delete_link(found.index))
                    inside.choose_gateways(route, ways)
                if item.published and endpoint.ipv4:
                    inside.interface_changed(endpoint.interface, endpoint.ipv4, left=True)

            try:
                await in_thread(work)
            except OSError as failure:
                raise errors.SystemFailure(f"leaving network {network.name}: {failure}") from failure
            finally:
                os.close(netns)
    networks.catalog.release(network.id, endpoint.addresses())
    networks.names.left(endpoint)
    await networks.sandboxes.changed(item)
    hostsfile.remove(networks.hosts_path(item), endpoint.addresses(), item.label)
    networks.publish_endpoint("disconnect", endpoint, item.container)
