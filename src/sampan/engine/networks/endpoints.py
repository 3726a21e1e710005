"""A container's places on networks: which ones, with which addresses and names."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sampan import errors
from sampan.engine.networks.catalog import Catalog
from sampan.engine.networks.records import DEFAULT, Endpoint, NetworkRecord, Sandbox, new_id
from sampan.engine.networks.types import SandboxRequest
from sampan.network.ipam import Address
from sampan.network.macaddr import parse_mac, random_mac
from sampan.network.options import DEFAULT_GATEWAY, ENDPOINT_IFNAME, endpoint_sysctls
from sampan.runtime.config import EndpointIPAMConfig, EndpointSettings

SHARED = (
    "container sharing network namespace with another container or host "
    "cannot be connected to any other network"
)
PRIVATE = "container cannot be connected to multiple networks with one of the networks in private (none) mode"

NOWHERE = ""
"""The key among a container's networks that says that it was taken off the last one, and starts without any."""


def network_mode(mode: str) -> str:
    """The mode with its default filled in: bridge, host, none, ``container:…`` or a network's name."""
    return DEFAULT if mode in ("", "default", "bridge") else mode


def is_private(mode: str) -> bool:
    """Whether the container has a network namespace that it shares with nobody."""
    return mode != "host" and not mode.startswith("container:")


def asked(request_networks: Mapping[str, EndpointSettings | None], mode: str) -> dict[str, EndpointSettings]:
    """Endpoint settings by network name, the network of ``mode`` first, the others sorted by name.

    A container that names no network is on the one of its mode, unless it was taken off that.
    """
    named = {
        (DEFAULT if name == "default" else name): settings or EndpointSettings()
        for name, settings in request_networks.items()
        if name != NOWHERE
    }
    main = network_mode(mode)
    if main.startswith("container:"):
        return dict(sorted(named.items()))
    if not named:
        return {} if NOWHERE in request_networks else {main: EndpointSettings()}
    first = {main: named.pop(main)} if main in named else {}
    return {**first, **dict(sorted(named.items()))}


def without(
    named: Mapping[str, EndpointSettings], names: Collection[str]
) -> dict[str, EndpointSettings | None]:
    """What is left of a container's networks when it is taken off some."""
    left: dict[str, EndpointSettings | None] = {name: named[name] for name in named if name not in names}
    return left or {NOWHERE: None}


def says_nothing(settings: EndpointSettings) -> bool:
    """Whether nothing is asked of an endpoint."""
    ipam = settings.ipam_config or EndpointIPAMConfig()
    addresses = ipam.ipv4_address or ipam.ipv6_address or ipam.link_local_ips
    others = settings.aliases or settings.links or settings.driver_opts or settings.mac_address
    return not (addresses or others or settings.gw_priority)


def choose(catalog: Catalog, request: SandboxRequest) -> list[tuple[NetworkRecord, EndpointSettings]]:
    """The networks a starting container goes on. NotFound, or InvalidParameter for a mixture."""
    mode = network_mode(request.host.network_mode)
    result: list[tuple[NetworkRecord, EndpointSettings]] = []
    for name, settings in asked(request.networks, mode).items():
        network = catalog.get(name)
        if all(network is not known for known, _settings in result):
            result.append((network, settings))
    shared = [network for network, _settings in result if network.driver == "host"]
    if shared and len(result) > 1:
        raise errors.InvalidParameter(SHARED)
    if len(result) > 1 and any(network.driver == "null" for network, _settings in result):
        raise errors.InvalidParameter(PRIVATE)
    return result


def check_settings(network: NetworkRecord | None, settings: EndpointSettings) -> None:
    """InvalidParameter for addresses that the network can't give ("invalid endpoint settings:\\n…").

    Without a network (in another container's namespace) none can be given.
    """
    faults = []
    wanted = settings.ipam_config or EndpointIPAMConfig()
    given = [(4, wanted.ipv4_address), (6, wanted.ipv6_address)]
    if any(text for _version, text in given) and (network is None or network.predefined):
        faults.append("user-specified IP address is supported on user-defined networks only")
    else:
        for version, text in given:
            if text and network is not None and not _holds(network, version, text):
                faults.append(f"no configured subnet contains IP address {text}")
    if settings.aliases and (network is None or (network.predefined and network.driver in ("host", "null"))):
        faults.append("network-scoped aliases are only supported for user-defined networks")
    if faults:
        raise errors.InvalidParameter("invalid endpoint settings:\n" + "\n".join(faults))
    if settings.mac_address:
        parse_mac(settings.mac_address)


def _holds(network: NetworkRecord, version: int, text: str) -> bool:
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text)
        subnets = [item.prefix() for item in network.subnets if item.subnet]
        return address.version == version and any(address in subnet for subnet in subnets)
    return False


def allocate(
    catalog: Catalog, network: NetworkRecord, settings: EndpointSettings, *, mac: str = ""
) -> Endpoint:
    """A new endpoint with its addresses taken. Raises what IPAM raises, nothing taken then."""
    check_settings(network, settings)
    endpoint = Endpoint(new_id(), network.id, network.name, network.driver)
    endpoint.aliases = list(settings.aliases or [])
    endpoint.gw_priority = settings.gw_priority
    if network.driver in ("host", "null"):
        return endpoint
    wanted = settings.ipam_config or EndpointIPAMConfig()
    endpoint.link_local = [_link_local(text) for text in wanted.link_local_ips or ()]
    endpoint.mac = parse_mac(settings.mac_address or mac) if settings.mac_address or mac else random_mac()
    try:
        for version, text in ((4, wanted.ipv4_address), (6, wanted.ipv6_address)):
            _take(catalog, network, endpoint, version, ipaddress.ip_address(text) if text else None)
    except BaseException:
        catalog.release(network.id, endpoint.addresses())
        raise
    return endpoint


def _link_local(text: str) -> str:
    address = ipaddress.ip_address(text or "::")
    if not address.is_link_local:
        raise errors.InvalidParameter(f"invalid link local IP address: {text}")
    return f"{address}/{64 if address.version == 6 else 16}"


def _take(
    catalog: Catalog, network: NetworkRecord, endpoint: Endpoint, version: int, wanted: Address | None
) -> None:
    pool = catalog.pool(network, version, wanted)
    if pool is None:
        return
    address = pool.take(wanted) if wanted is not None else pool.allocate()
    gateway = "" if network.internal else str(pool.aux.get(f"{DEFAULT_GATEWAY}{version}", pool.gateway))
    if version == 4:
        endpoint.ipv4, endpoint.prefix4, endpoint.gateway4 = str(address), pool.subnet.prefixlen, gateway
    else:
        endpoint.ipv6, endpoint.prefix6, endpoint.gateway6 = str(address), pool.subnet.prefixlen, gateway


def dns_names(name: str, container_id: str, hostname: str, aliases: Iterable[str]) -> list[str]:
    """The names an endpoint answers to on a user-defined network, in dockerd's order."""
    names = [name, *aliases, container_id[:12], *([hostname] if hostname else [])]
    return list(dict.fromkeys(names))


def name_interfaces(endpoints: Iterable[Endpoint], options: Mapping[str, tuple[str, dict[str, str]]]) -> None:
    """Give each endpoint of a new sandbox its interface names and sysctls.

    ``options`` has (prefix, driver options) by endpoint id. InvalidParameter for bad driver options.
    """
    taken: set[str] = set()
    for endpoint in endpoints:
        if endpoint.driver in ("host", "null"):
            continue
        prefix, given = options[endpoint.id]
        name_interface(endpoint, prefix, given, taken)
        taken.add(endpoint.interface)


def name_interface(endpoint: Endpoint, prefix: str, given: Mapping[str, str], taken: set[str]) -> None:
    """Give one endpoint the asked interface name, or the first free one."""
    wanted = given.get(ENDPOINT_IFNAME, "")
    if wanted in taken or len(wanted) > 15 or "/" in wanted:
        raise errors.InvalidParameter(f"invalid interface name {wanted!r} for network {endpoint.network}")
    number = 0
    while not wanted and f"{prefix}{number}" in taken:
        number += 1
    endpoint.interface = wanted or f"{prefix}{number}"
    endpoint.outer = f"veth{endpoint.id[:7]}" if endpoint.driver == "bridge" else ""
    endpoint.sysctls = endpoint_sysctls(given, endpoint.interface)


def gateway_endpoint(endpoints: Iterable[Endpoint], version: int) -> Endpoint | None:
    """The endpoint that gives the default route: highest priority, then by network name, as dockerd."""
    usable = [item for item in endpoints if (item.gateway4 if version == 4 else item.gateway6)]
    return min(usable, key=lambda item: (-item.gw_priority, item.network), default=None)


def shown(settings: EndpointSettings, network_id: str, endpoint: Endpoint | None) -> dict[str, Any]:
    """One entry of NetworkSettings.Networks."""
    config = settings.ipam_config
    live = endpoint or Endpoint("", "", "", "")
    asked_mac = settings.mac_address if endpoint is None else ""
    return {
        "IPAMConfig": None if config is None else _ipam_shown(config),
        "Links": settings.links,
        "Aliases": settings.aliases,
        "MacAddress": live.mac or asked_mac,
        "DriverOpts": settings.driver_opts,
        "GwPriority": settings.gw_priority,
        "NetworkID": network_id,
        "EndpointID": live.id,
        "Gateway": live.gateway4,
        "IPAddress": live.ipv4,
        "IPPrefixLen": live.prefix4,
        "IPv6Gateway": live.gateway6,
        "GlobalIPv6Address": live.ipv6,
        "GlobalIPv6PrefixLen": live.prefix6,
        "DNSNames": live.dns_names or None,
    }


def _ipam_shown(config: EndpointIPAMConfig) -> dict[str, Any]:
    pairs = (
        ("IPv4Address", config.ipv4_address),
        ("IPv6Address", config.ipv6_address),
        ("LinkLocalIPs", config.link_local_ips),
    )
    return {name: value for name, value in pairs if value}


def addresses_of(endpoint: Endpoint) -> tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, ...]:
    """The endpoint's addresses with their prefixes, for the interface."""
    pairs = ((endpoint.ipv4, endpoint.prefix4), (endpoint.ipv6, endpoint.prefix6))
    texts = [f"{text}/{prefix}" for text, prefix in pairs if text]
    return tuple(ipaddress.ip_interface(text) for text in (*texts, *endpoint.link_local))


def find(sandbox: Sandbox, network_id: str) -> Endpoint | None:
    """The sandbox's endpoint on a network."""
    return next((item for item in sandbox.endpoints if item.network_id == network_id), None)


def filled(endpoint: Endpoint, settings: EndpointSettings | None) -> EndpointSettings:
    """The asked settings with what the engine filled in."""
    given = settings or EndpointSettings()
    return EndpointSettings(
        ipam_config=given.ipam_config,
        links=given.links,
        aliases=given.aliases,
        driver_opts=given.driver_opts,
        gw_priority=given.gw_priority,
        network_id=endpoint.network_id,
        endpoint_id=endpoint.id,
        gateway=endpoint.gateway4,
        ip_address=endpoint.ipv4,
        mac_address=endpoint.mac,
        ip_prefix_len=endpoint.prefix4,
        ipv6_gateway=endpoint.gateway6,
        global_ipv6_address=endpoint.ipv6,
        global_ipv6_prefix_len=endpoint.prefix6,
        dns_names=endpoint.dns_names or None,
    )
