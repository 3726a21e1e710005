"""Driver options of networks (``docker network create -o``), parsed. Errors in the words of dockerd."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sampan.errors import InvalidParameter
from sampan.kernel.rtnetlink import IPVLAN_FLAGS, IPVLAN_MODES, MACVLAN_MODES

BRIDGE = "com.docker.network.bridge."
MTU = "com.docker.network.driver.mtu"
HOST_IPV4 = "com.docker.network.host_ipv4"
HOST_IPV6 = "com.docker.network.host_ipv6"
IFACE_PREFIX = "com.docker.network.container_iface_prefix"
EGRESS = "sampan.egress"
DEFAULT_GATEWAY = "DefaultGatewayIPv"
"""With the IP version: the auxiliary address that containers get as their gateway in place of the bridge's own."""
ENDPOINT_SYSCTLS = "com.docker.network.endpoint.sysctls"
ENDPOINT_IFNAME = "com.docker.network.endpoint.ifname"

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_MODES = ("", "nat", "nat-unprotected", "routed", "isolated")


def _bool(options: Mapping[str, str], name: str, default: bool) -> bool:
    text = options.get(name, "")
    if not text:
        return default
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise InvalidParameter(
        f'failed to parse {name} value: {text} (strconv.ParseBool: parsing "{text}": invalid syntax)'
    )


def _mtu(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name, "")
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        raise InvalidParameter(
            f'failed to parse {name} value: {text} (strconv.Atoi: parsing "{text}": invalid syntax)'
        ) from None
    if not 0 <= value <= 65535:
        raise InvalidParameter(f"invalid MTU number: {value}")
    return value


def _address(options: Mapping[str, str], name: str, version: int = 0) -> str:
    text = options.get(name, "")
    if not text:
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or (version and address.version != version):
        raise InvalidParameter(f"failed to parse {name} value: {text} (failed to parse IP address)")
    return str(address)


def _interfaces(options: Mapping[str, str], name: str) -> tuple[str, ...]:
    found = tuple(filter(None, options.get(name, "").split(":")))
    for interface in found:
        if not re.fullmatch(r'[^\s/"]{1,15}', interface):
            raise InvalidParameter(f"failed to parse {name} value: {interface} is no name of an interface")
    return found


def _gateway_mode(options: Mapping[str, str], version: int) -> str:
    name = f"{BRIDGE}gateway_mode_ipv{version}"
    mode = options.get(name, "")
    if mode not in _MODES:
        raise InvalidParameter(
            f"failed to parse {name} value: {mode} (unknown gateway mode {mode})",
            hint="Known modes: nat, nat-unprotected, routed, isolated.",
        )
    return mode or "nat"


@dataclass(frozen=True, slots=True)
class BridgeOptions:
    """What can be said of a bridge network. ``modes`` are the gateway modes for IPv4 and IPv6."""

    name: str = ""
    icc: bool = True
    masquerade: bool = True
    binding_ip: str = ""
    inhibit_ipv4: bool = False
    mtu: int = 0
    modes: tuple[str, str] = ("nat", "nat")
    host_ipv4: str = ""
    host_ipv6: str = ""
    iface_prefix: str = "eth"
    # Interfaces of the host from which published ports are reached at the container's own address.
    trusted: tuple[str, ...] = ()

    @classmethod
    def parse(cls, options: Mapping[str, str], *, internal: bool = False) -> BridgeOptions:
        """Read the options; unknown ones are ignored, as in dockerd. InvalidParameter for bad ones."""
        modes = (_gateway_mode(options, 4), _gateway_mode(options, 6))
        if "isolated" in modes and not internal:
            version = 4 if modes[0] == "isolated" else 6
            raise InvalidParameter(
                f"gateway mode 'isolated' can only be used for an internal network (IPv{version})"
            )
        return cls(
            name=options.get(f"{BRIDGE}name", ""),
            icc=_bool(options, f"{BRIDGE}enable_icc", True),
            masquerade=_bool(options, f"{BRIDGE}enable_ip_masquerade", True),
            binding_ip=_address(options, f"{BRIDGE}host_binding_ipv4"),
            inhibit_ipv4=_bool(options, f"{BRIDGE}inhibit_ipv4", False),
            mtu=_mtu(options, MTU, _mtu(options, "com.docker.network.mtu", 0)),
            modes=modes,
            host_ipv4=_address(options, HOST_IPV4, 4),
            host_ipv6=_address(options, HOST_IPV6, 6),
            iface_prefix=options.get(IFACE_PREFIX, "") or "eth",
            trusted=_interfaces(options, f"{BRIDGE}trusted_host_interfaces"),
        )

    def versions(self, mode: str) -> tuple[int, ...]:
        """The IP versions that have this gateway mode."""
        return tuple(version for version, known in zip((4, 6), self.modes, strict=True) if known == mode)


@dataclass(frozen=True, slots=True)
class LanOptions:
    """What can be said of a macvlan or ipvlan network."""

    parent: str = ""
    mode: str = "bridge"
    flag: str = "bridge"
    mtu: int = 0

    @classmethod
    def parse(cls, driver: str, options: Mapping[str, str]) -> LanOptions:
        """Read the options of ``driver`` (macvlan, ipvlan). InvalidParameter (400) for bad values."""
        mtu = _mtu(options, MTU, 0)
        parent = options.get("parent", "")
        if parent == "lo":
            # dockerd's check and words; its status (500) is the caller's business.
            return cls(parent=parent)
        if driver == "macvlan":
            mode = options.get("macvlan_mode", "") or "bridge"
            if mode not in MACVLAN_MODES:
                raise InvalidParameter(
                    f"requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver "
                    "default"
                )
            return cls(parent, mode, "", mtu)
        mode = options.get("ipvlan_mode", "") or "l2"
        if mode not in IPVLAN_MODES:
            raise InvalidParameter(
                f"requested ipvlan mode '{mode}' is not valid, 'l2' mode is the ipvlan driver default"
            )
        flag = options.get("ipvlan_flag", "") or "bridge"
        if flag not in IPVLAN_FLAGS:
            raise InvalidParameter(f"requested ipvlan flag '{flag}' is not valid, 'bridge' is the default")
        return cls(parent, mode, flag, mtu)


def mark_match(text: str) -> str:
    """``--bridge-accept-fwmark MARK[/MASK]`` in nft's language; "" for "". InvalidParameter for what is none."""
    mark, slash, mask = text.partition("/")
    try:
        numbers = [int(mark, 0), int(mask, 0) if slash else 0xFFFFFFFF] if text else []
    except ValueError:
        numbers = [-1]
    if not all(0 <= number <= 0xFFFFFFFF for number in numbers):
        raise InvalidParameter(
            f'invalid bridge-accept-fwmark: "{text}"', hint="Write MARK or MARK/MASK: 0x1 or 0x10/0xf0."
        )
    return f"meta mark and {numbers[1]:#x} == {numbers[0]:#x}" if numbers else ""


def endpoint_sysctls(options: Mapping[str, str], interface: str) -> dict[str, str]:
    """The sysctls of ``com.docker.network.endpoint.sysctls``. InvalidParameter when malformed.

    The stock client writes ``driver-opt`` in lower case, IFNAME too.
    """
    result = {}
    for item in filter(None, options.get(ENDPOINT_SYSCTLS, "").split(",")):
        name, separator, value = item.partition("=")
        parts = name.strip().split(".")
        if not separator or parts[0] != "net" or len(parts) < 4 or parts[3].upper() != "IFNAME":
            raise InvalidParameter(
                f"unable to parse sysctl {item!r} in {ENDPOINT_SYSCTLS}".replace("'", '"'),
                hint="Write net.ipv4.conf.IFNAME.log_martians=1, several separated by commas.",
            )
        result[".".join([*parts[:3], interface, *parts[4:]])] = value.strip()
    return result
