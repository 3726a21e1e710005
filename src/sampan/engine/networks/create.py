"""``docker network create``: from the request to a record, with dockerd's checks in dockerd's order."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

import msgspec

from sampan import errors
from sampan.engine.networks.records import NetworkRecord, Subnet, new_id
from sampan.gojson import Go, Parse
from sampan.network.ipam import Network, inside, unusable
from sampan.network.options import BridgeOptions, LanOptions

PREDEFINED = ("bridge", "host", "none", "default")
DRIVERS = ("bridge", "host", "null", "macvlan", "ipvlan")
_OPERATORS_FIELDS = (
    "configuration network can only contain network specific fields. Network operator fields like "
    "[ ingress | internal | attachable | scope ] are not supported."
)
_NO_SWARM = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node '
    "to swarm and try again."
)


def _parse_prefix(text: str) -> str:
    """Check CIDR notation, with the words of Go's netip."""
    if not text:
        return text
    address, slash, length = text.rpartition("/")
    if not slash:
        raise ValueError(f"netip.ParsePrefix(\"{text}\"): no '/'")
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f'netip.ParsePrefix("{text}"): ParseAddr("{address}"): unable to parse IP') from None
    if not (length.isascii() and length.isdigit()) or (len(length) > 1 and length[0] == "0"):
        raise ValueError(f'netip.ParsePrefix("{text}"): bad bits after slash: "{length}"')
    if int(length) > parsed.max_prefixlen:
        raise ValueError(f'netip.ParsePrefix("{text}"): prefix length out of range')
    return text


def _parse_addr(text: str) -> str:
    if text:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            raise ValueError(f'ParseAddr("{text}"): unable to parse IP') from None
    return text


Prefix = Annotated[str, Parse(_parse_prefix)]
Addr = Annotated[str, Parse(_parse_addr)]


class _Struct(msgspec.Struct, rename="pascal", kw_only=True):
    """Docker's JSON names from Python's attribute names."""


class IPAMConfig(_Struct):
    """One subnet asked for."""

    go_name: ClassVar[str] = "network.IPAMConfig"

    subnet: Prefix = ""
    ip_range: Prefix = msgspec.field(default="", name="IPRange")
    gateway: Addr = ""
    auxiliary_addresses: dict[str, Addr] | None = None


class IPAM(_Struct):
    """Where a network's addresses come from."""

    go_name: ClassVar[str] = "network.IPAM"

    driver: str = ""
    options: dict[str, str] | None = None
    config: list[IPAMConfig] | None = None


class ConfigReference(_Struct):
    """The network whose configuration is to be used."""

    go_name: ClassVar[str] = "network.ConfigReference"

    network: str = ""


class CreateNetwork(_Struct):
    """The body of ``POST /networks/create``."""

    go_name: ClassVar[str] = "network.CreateRequest"

    name: str = ""
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool | None = msgspec.field(default=None, name="EnableIPv4")
    enable_ipv6: bool | None = msgspec.field(default=None, name="EnableIPv6")
    ipam: Annotated[IPAM | None, Go("network.IPAM")] = msgspec.field(default=None, name="IPAM")
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


def plan(
    request: CreateNetwork,
    existing: Iterable[NetworkRecord],
    defaults: Mapping[str, Mapping[str, str]] | None = None,
) -> NetworkRecord:
    """The record of the network asked for; subnets that are to be chosen have an empty text.

    ``defaults`` are driver options, by driver, for what the request doesn't say. Raises the errors that dockerd
    gives, with their statuses.
    """
    known = list(existing)
    _check_name(request, known)
    _check_scope(request)
    source = _config_from(request, known)
    record = _record(request, source)
    if source is None and not record.config_only:
        record.options = {**(defaults or {}).get(record.driver, {}), **record.options}
    if not record.config_only:
        _check_driver(request, record)
        _check_options(record)
    _add_missing_subnets(record)
    return record


def _check_name(request: CreateNetwork, known: list[NetworkRecord]) -> None:
    name = request.name
    if name in PREDEFINED:
        raise errors.Forbidden(f"operation is not permitted on predefined {name} network ")
    if not name.strip():
        raise errors.InvalidParameter("invalid name: name is empty")
    if any(item.name == name for item in known):
        raise errors.Conflict(f"network with name {name} already exists")


def _check_scope(request: CreateNetwork) -> None:
    if request.driver == "overlay" or request.ingress:
        raise errors.Forbidden(_NO_SWARM, hint="sampan has no swarm mode: use a bridge network.")
    if request.scope == "swarm":
        raise errors.Forbidden("cannot create a swarm scoped network when swarm is not active")
    if request.scope not in ("", "local"):
        raise errors.InvalidParameter(
            f"invalid scope: {request.scope}", hint="Only local networks exist here."
        )


def _config_from(request: CreateNetwork, known: list[NetworkRecord]) -> NetworkRecord | None:
    if request.config_only and (request.internal or request.attachable or request.scope):
        raise errors.Forbidden(
            _OPERATORS_FIELDS, hint="Give them to the networks that use this configuration."
        )
    name = request.config_from.network if request.config_from else ""
    if not name:
        return None
    if request.config_only:
        raise errors.Forbidden("a configuration network cannot depend on another configuration network")
    _check_unconfigured(request)
    found = next((item for item in known if item.name == name and item.config_only), None)
    if found is None:
        raise errors.NotFound(f'configuration network "{name}" does not exist')
    return found


def _check_unconfigured(request: CreateNetwork) -> None:
    """What a network that depends on a configuration may not say itself."""
    ipam = request.ipam or IPAM()
    given = ipam.config or ipam.options or ipam.driver not in ("", "default") or request.labels
    if given or request.enable_ipv6 or request.enable_ipv4 is False:
        raise errors.Forbidden(
            "user specified configurations are not supported if the network depends on a configuration network"
        )
    if request.options:
        raise errors.Forbidden(
            "network driver options are not supported if the network depends on a configuration network"
        )


def _record(request: CreateNetwork, source: NetworkRecord | None) -> NetworkRecord:
    ipam = request.ipam or IPAM()
    ipv6 = bool(request.enable_ipv6)
    ipv4 = request.enable_ipv4 is not False
    if not ipv4 and not ipv6 and not request.config_only:
        raise errors.InvalidParameter("IPv4 or IPv6 must be enabled")
    subnets = check_ipam(ipam.config or [], ipv4=ipv4, ipv6=ipv6)
    record = NetworkRecord(
        id=new_id(),
        name=request.name,
        driver=("null" if request.config_only else request.driver) or "bridge",
        created_ns=time.time_ns(),
        subnets=subnets,
        ipv4=ipv4,
        ipv6=ipv6,
        ipam_driver=ipam.driver or "default",
        ipam_options=ipam.options,
        internal=request.internal,
        attachable=request.attachable,
        config_only=request.config_only,
        options=dict(request.options or {}),
        labels=dict(request.labels or {}),
    )
    if record.ipam_driver not in ("default", "null"):
        raise errors.NotFound(f'plugin "{record.ipam_driver}" not found')
    if source is not None:
        record.config_from = source.name
        record.options, record.labels = dict(source.options), dict(source.labels)
        record.internal = request.internal or source.internal
        record.ipv4, record.ipv6 = source.ipv4, source.ipv6
        record.subnets = [msgspec.structs.replace(item) for item in source.subnets]
    return record


def _check_driver(request: CreateNetwork, record: NetworkRecord) -> None:
    if record.driver in ("host", "null"):
        raise errors.Forbidden(f'only one instance of "{record.driver}" network is allowed')
    if record.driver not in DRIVERS:
        raise errors.NotFound(f'plugin "{request.driver}" not found', hint=f"Drivers: {', '.join(DRIVERS)}.")


def _check_options(record: NetworkRecord) -> None:
    if record.driver == "bridge":
        BridgeOptions.parse(record.options, internal=record.internal)
        for version in (4, 6):
            if sum(1 for item in record.subnets if item.version == version) > 1:
                raise errors.Forbidden("bridge driver doesn't support multiple subnets")
    else:
        LanOptions.parse(record.driver, record.options)


def _add_missing_subnets(record: NetworkRecord) -> None:
    """A network with no subnet of an enabled IP version gets one chosen: its text stays empty for now."""
    if record.config_only or record.ipam_driver == "null" or record.driver in ("host", "null"):
        return
    versions = {item.version for item in record.subnets if item.subnet}
    if record.ipv4 and 4 not in versions:
        record.subnets.insert(0, Subnet(subnet=""))
    if record.ipv6 and 6 not in versions:
        record.subnets.append(Subnet(subnet="", family=6))


def check_ipam(configs: Iterable[IPAMConfig], *, ipv4: bool = True, ipv6: bool = False) -> list[Subnet]:
    """The subnets asked for, checked as dockerd does: all faults in one InvalidParameter."""
    faults: list[str] = []
    result: list[Subnet] = []
    for item in configs:
        if not item.subnet:
            if item.ip_range or item.gateway:
                faults.append("invalid subnet : invalid CIDR block notation")
            continue
        subnet = ipaddress.ip_network(item.subnet, strict=False)
        if _has_host_bits(item.subnet, subnet):
            faults.append(f"invalid subnet {item.subnet}: it should be {subnet}")
        elif reason := unusable(subnet):
            faults.append(f"invalid subnet {item.subnet}: {reason}")
        faults += _range_faults(item.ip_range, subnet)
        faults += _address_faults(f"gateway {item.gateway}", item.gateway, subnet)
        for name, address in (item.auxiliary_addresses or {}).items():
            what = f"auxiliary address {name}"
            faults += (
                _address_faults(what, address, subnet) if address else [f"invalid {what}: invalid address"]
            )
        if ipv6 if subnet.version == 6 else ipv4:
            aux = dict(item.auxiliary_addresses or {})
            block = str(ipaddress.ip_network(item.ip_range, strict=False)) if item.ip_range else ""
            result.append(Subnet(str(subnet), item.gateway, block, aux))
    if faults:
        raise errors.InvalidParameter("invalid network config:\n" + "\n".join(faults))
    return sorted(result, key=lambda item: item.version)  # as dockerd shows them


def _has_host_bits(text: str, network: Network) -> bool:
    """Whether an address in CIDR notation is another one than its network's, however it is spelled."""
    return ipaddress.ip_address(text.partition("/")[0]) != network.network_address


def _range_faults(text: str, subnet: Network) -> list[str]:
    if not text:
        return []
    block = ipaddress.ip_network(text, strict=False)
    if block.version != subnet.version:
        return [f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block"]
    if _has_host_bits(text, block):
        return [f"invalid ip-range {text}: it should be {block}"]
    if block.prefixlen < subnet.prefixlen:
        return [f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"]
    if not inside(block, subnet):
        return [f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"]
    return []


def _address_faults(what: str, text: str, subnet: Network) -> list[str]:
    if not text:
        return []
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(text)
        if address.version != subnet.version:
            return [f"invalid {what}: parent subnet is an IPv{subnet.version} block"]
        if address in subnet:
            return []
        return [f"invalid {what}: parent subnet {subnet} doesn't contain this address"]
    return [f"invalid {what}: invalid address"]
