"""``--network`` (plain or ``name=…,alias=…,ip=…``) and the endpoint settings made of it."""

from __future__ import annotations

from sampan.cli import values
from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


def parse(text: str) -> dict[str, Any]:
    """One ``--network``: ``{"name": …, "aliases": […], …}``. Raises ValueError with Docker's words."""
    if "=" not in text:
        return {"name": text.lower() if text in ("Host", "None", "Bridge") else text}
    found: dict[str, Any] = {}
    for field in values.csv_fields(text):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if not equals or not key or not value:
            raise ValueError(f"invalid field {field}")
        if key == "name":
            found["name"] = value
        elif key in ("alias", "link-local-ip"):
            found.setdefault("aliases" if key == "alias" else "link-local", []).append(value)
        elif key == "driver-opt":
            option, _, content = value.partition("=")
            found.setdefault("driver-opts", {})[option.lower()] = content
        elif key in ("ip", "ip6", "mac-address"):
            found[key] = value
        elif key == "gw-priority":
            try:
                found[key] = int(value)
            except ValueError:
                raise ValueError(f"invalid gw-priority ({value}): invalid syntax") from None
        else:
            raise ValueError(f"invalid field key {key}")
    if not found.get("name"):
        raise ValueError("network name is required")
    return found


def is_user_defined(name: str) -> bool:
    """Whether a network was made by a user, and so has aliases and fixed addresses."""
    predefined = ("default", "bridge", "host", "none", "")
    return name not in predefined and not name.startswith("container:")


def of_options(options: Options) -> tuple[str, dict[str, Any]]:
    """The network mode and the endpoints of ``run``'s flags. Raises CLIError."""
    networks = [dict(network) for network in options.all("network") + options.all("net")]
    if not networks:
        networks = [{"name": "default"}]
    _merge(networks[0], options)
    endpoints: dict[str, Any] = {}
    kinds = {is_user_defined(network["name"]) for network in networks}
    if len(kinds) == 2:
        raise CLIError(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    for network in networks:
        name = network["name"]
        if name in endpoints:
            raise CLIError(f'network "{name}" is specified multiple times')
        endpoints[name] = endpoint(network)
    mode = networks[0]["name"]
    if mode.startswith("container:"):
        endpoints = {}
    return mode, endpoints


def _merge(network: dict[str, Any], options: Options) -> None:
    """The flags beside ``--network`` belong to the first network."""
    aliases = options.all("network-alias") + options.all("net-alias")
    for key, flag, given in (
        ("aliases", "network-alias", aliases),
        ("ip", "ip", options.text("ip")),
        ("ip6", "ip6", options.text("ip6")),
        ("mac-address", "mac-address", options.text("mac-address")),
        ("link-local", "link-local-ip", options.all("link-local-ip")),
    ):
        if not given:
            continue
        if key in network:
            raise CLIError(f"conflicting options: cannot specify both --{flag} and per-network {key}")
        network[key] = given
    links = options.all("link")
    if links and is_user_defined(network["name"]):
        network["links"] = links


def endpoint(network: dict[str, Any]) -> dict[str, Any]:
    """The API's EndpointSettings of one network."""
    settings: dict[str, Any] = {}
    addresses = {
        "IPv4Address": network.get("ip"),
        "IPv6Address": network.get("ip6"),
        "LinkLocalIPs": network.get("link-local"),
    }
    if any(addresses.values()):
        settings["IPAMConfig"] = {key: value for key, value in addresses.items() if value}
    for key, name in (
        ("aliases", "Aliases"),
        ("links", "Links"),
        ("mac-address", "MacAddress"),
        ("driver-opts", "DriverOpts"),
        ("gw-priority", "GwPriority"),
    ):
        if network.get(key):
            settings[name] = network[key]
    return settings
