"""The three networks that every engine has: bridge, host and none."""

from __future__ import annotations

import ipaddress
import time
import zlib
from collections.abc import Iterable

import msgspec

from sampan import errors
from sampan.engine.config import EngineConfig
from sampan.engine.networks.records import NetworkRecord, Subnet, new_id
from sampan.kernel.netlink import Netlink
from sampan.network import bridges
from sampan.network.firewall import table_name
from sampan.network.ipam import AddressSpace, Network, overlaps
from sampan.network.options import BRIDGE, DEFAULT_GATEWAY, MTU

NO_BRIDGE = "none"
"""The name of the bridge that says: no default network."""


def own_table(config: EngineConfig) -> str:
    """The name of the engine's nftables table, with which its links are marked, too.

    No two engines have a default bridge in common; those without one are told apart by their data roots.
    """
    if config.bridge != NO_BRIDGE:
        return table_name(config.bridge)
    return table_name(f"{NO_BRIDGE}_{zlib.crc32(bytes(config.data_root.absolute())):08x}")


def default_networks(
    config: EngineConfig,
    known: Iterable[NetworkRecord],
    route: Netlink,
    space: AddressSpace,
    avoid: Iterable[Network],
) -> list[NetworkRecord]:
    """The records of none, host and bridge that are new or changed. InvalidParameter for a bad --bip."""
    by_name = {item.name: item for item in known}
    changed = [
        NetworkRecord(new_id(), name, driver, time.time_ns(), predefined=True)
        for name, driver in (("none", "null"), ("host", "host"))
        if name not in by_name
    ]
    if config.bridge == NO_BRIDGE:
        return changed
    old = by_name.get("bridge")
    wanted = _bridge(config, old, route, space, list(avoid))
    if old is None or wanted != old:
        changed.append(wanted)
    return changed


def _bridge(
    config: EngineConfig,
    old: NetworkRecord | None,
    route: Netlink,
    space: AddressSpace,
    avoid: list[Network],
) -> NetworkRecord:
    subnets = [_subnet(config, old, route, space, avoid)]
    if config.ipv6:
        subnets.append(_subnet6(config, old, space, avoid))
    record = NetworkRecord(
        id=old.id if old else new_id(),
        name="bridge",
        driver="bridge",
        created_ns=old.created_ns if old else time.time_ns(),
        subnets=subnets,
        ipv6=config.ipv6,
        device=config.bridge,
        predefined=True,
        options={
            f"{BRIDGE}default_bridge": "true",
            f"{BRIDGE}enable_icc": str(config.icc).lower(),
            f"{BRIDGE}enable_ip_masquerade": str(config.ip_masq).lower(),
            f"{BRIDGE}host_binding_ipv4": config.ip,
            f"{BRIDGE}name": config.bridge,
            MTU: str(config.mtu),
        },
    )
    return msgspec.structs.replace(record)


def _subnet(
    config: EngineConfig,
    old: NetworkRecord | None,
    route: Netlink,
    space: AddressSpace,
    avoid: list[Network],
) -> Subnet:
    """The bridge's subnet: --bip, else the address it has, else the one it had, else a free one."""
    if config.bip:
        try:
            address = ipaddress.ip_interface(config.bip)
        except ValueError:
            raise errors.InvalidParameter(
                f"failed to parse bip: invalid CIDR address: {config.bip}"
            ) from None
        return _with_range(config, address)
    present = bridges.address_of(route, config.bridge)
    if present is not None:
        return _with_range(config, present)
    if old is not None and old.subnets and overlaps(old.subnets[0].prefix(), avoid) is None:
        return old.subnets[0]
    chosen = space.next_free(4, avoid)
    space.release(chosen)  # the catalog claims it when it loads the record
    return _with_range(config, ipaddress.ip_interface(f"{chosen[1]}/{chosen.prefixlen}"))


def _with_range(config: EngineConfig, address: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> Subnet:
    if address.version == 6:
        raise errors.InvalidParameter(f"failed to parse bip: {address} is no IPv4 address")
    aux = {f"{DEFAULT_GATEWAY}4": config.default_gateway} if config.default_gateway else {}
    return Subnet(str(address.network), str(address.ip), config.fixed_cidr, aux)


def _subnet6(
    config: EngineConfig, old: NetworkRecord | None, space: AddressSpace, avoid: list[Network]
) -> Subnet:
    """Its IPv6 subnet: --bip6, else --fixed-cidr-v6, else the one it had, else a free one."""
    aux = {f"{DEFAULT_GATEWAY}6": config.default_gateway_v6} if config.default_gateway_v6 else {}
    if config.bip6:
        address = _interface6(config.bip6, "bip6")
        return Subnet(str(address.network), str(address.ip), config.fixed_cidr_v6, aux)
    if config.fixed_cidr_v6:
        network = _interface6(config.fixed_cidr_v6, "fixed-cidr-v6").network
        if network.prefixlen > 126:
            raise errors.InvalidParameter(f"fixed-cidr-v6 {network} has no room for containers")
        return Subnet(str(network), str(network[1]), "", aux)
    before = next((item for item in old.subnets if item.version == 6), None) if old else None
    if before is not None and overlaps(before.prefix(), avoid) is None:
        return Subnet(before.subnet, before.gateway, "", aux)
    chosen = space.next_free(6, avoid)
    space.release(chosen)
    return Subnet(str(chosen), str(chosen[1]), "", aux)


def _interface6(text: str, name: str) -> ipaddress.IPv6Interface:
    try:
        return ipaddress.IPv6Interface(text)
    except ValueError:
        raise errors.InvalidParameter(f"failed to parse {name}: invalid CIDR address: {text}") from None
