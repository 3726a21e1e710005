"""Checks of what daemon.json and the flags say of networks, with dockerd's words where it has some."""

from __future__ import annotations

import ipaddress

from sampan import errors
from sampan.engine.config import AddressPool, EngineConfig
from sampan.network.options import mark_match

_OF_IPV6 = ("bip6", "fixed_cidr_v6", "default_gateway_v6")


def check_networks(engine: EngineConfig) -> None:
    """InvalidParameter for addresses that are none, and for what doesn't go together."""
    if engine.bridge == "none" and engine.bip:
        raise errors.InvalidParameter("--bip can't be used with --bridge=none")
    for name in _OF_IPV6:
        if getattr(engine, name) and not engine.ipv6:
            flag = name.replace("_", "-")
            raise errors.InvalidParameter(
                f"--{flag} can't be used without --ipv6", hint="Add --ipv6, or leave it out."
            )
    if engine.bridge_accept_fwmark:
        mark_match(engine.bridge_accept_fwmark)
    for pool in engine.default_address_pools:
        _check_pool(pool)
    for flag, texts in (("dns", engine.dns), ("host-gateway-ip", engine.host_gateway_ips)):
        for text in texts:
            _check_address(text, flag)
    for version, flag, text in ((4, "default-gateway", engine.default_gateway),
                                (6, "default-gateway-v6", engine.default_gateway_v6)):  # fmt: skip
        if text and _check_address(text, flag).version != version:
            raise errors.InvalidParameter(f"--{flag} {text} is no IPv{version} address")


def _check_pool(pool: AddressPool) -> None:
    try:
        base = ipaddress.ip_network(pool.base, strict=False)
    except ValueError:
        raise errors.InvalidParameter(
            f'invalid base pool "{pool.base}": invalid CIDR address: {pool.base}'
        ) from None
    if not base.prefixlen <= pool.size <= base.max_prefixlen:
        raise errors.InvalidParameter(
            f"invalid default address pool {pool.base}: no network of /{pool.size} is in it",
            hint=f"The size is a prefix length from {base.prefixlen} to {base.max_prefixlen}.",
        )


def _check_address(text: str, flag: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        raise errors.InvalidParameter(
            f'invalid argument "{text}" for "--{flag}" flag: IP address is not correctly formatted: {text}'
        ) from None
