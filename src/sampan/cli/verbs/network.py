"""``network create``, ``ls``, ``rm``, ``connect``, ``disconnect``."""

from __future__ import annotations

from sampan.cli import endpoints, filters, table
from sampan.cli.command import CLI, MANY, Command
from sampan.cli.container_config import EGRESS as EGRESS_OPTION
from sampan.cli.container_config import egress_rules, pairs
from sampan.cli.errors import CLIError, text_of
from sampan.cli.verbs.ps import FORMAT_HELP, labels
from sampan.cli.verbs.volume import natural
from sampan.client.engine import path_of
from sampan.client.errors import APIError
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


def create(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Print the network's id."""
    request: dict[str, Any] = {
        "Name": arguments[0],
        "Driver": options.text("driver"),
        "Scope": options.text("scope"),
        "Internal": options.flag("internal"),
        "Attachable": options.flag("attachable"),
        "Ingress": options.flag("ingress"),
        "ConfigOnly": options.flag("config-only"),
        "Options": pairs(options.all("opt")),
        "Labels": pairs(options.all("label")),
        "IPAM": {
            "Driver": options.text("ipam-driver"),
            "Options": pairs(options.all("ipam-opt")),
            "Config": address_pools(options),
        },
    }
    if rules := options.all("egress"):
        request["Options"][EGRESS_OPTION] = egress_rules(rules)
    for flag, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if flag in options.given:
            request[key] = options.flag(flag)
    if options.text("config-from"):
        request["ConfigFrom"] = {"Network": options.text("config-from")}
    answer = cli.client.call("POST", "/networks/create", json=request)
    if answer.get("Warning"):
        cli.complain(f"WARNING: {answer['Warning']}")
    cli.print(answer["Id"])
    return 0


def address_pools(options: Options) -> list[dict[str, Any]]:
    """Subnets with the range, gateway and reserved addresses that lie in each. Raises CLIError."""
    import ipaddress

    try:
        pools = [
            (ipaddress.ip_network(text, strict=False), {"Subnet": text}) for text in options.all("subnet")
        ]
        for flag, key in (("ip-range", "IPRange"), ("gateway", "Gateway")):
            for text in options.all(flag):
                _pool_of(pools, text, flag)[key] = text
        for entry in options.all("aux-address"):
            name, _, address = entry.partition("=")
            _pool_of(pools, address, "aux-address").setdefault("AuxiliaryAddresses", {})[name] = address
    except ValueError as error:
        raise CLIError(f"invalid address: {error}") from None
    return [pool for _, pool in pools]


def _pool_of(pools: list[tuple[Any, dict[str, Any]]], text: str, flag: str) -> dict[str, Any]:
    import ipaddress

    address = ipaddress.ip_address(text.partition("/")[0])
    for subnet, pool in pools:
        if address in subnet:
            return pool
    if not pools:
        raise CLIError(f"every {flag} must have a corresponding subnet")
    raise CLIError(f"no matching subnet for {flag} {text}")


class Network(table.Row):
    """One network of the list."""

    def Label(self, name: str) -> str:
        """One label's value."""
        return str((self.data.get("Labels") or {}).get(name, ""))


def _created(row: table.Row) -> str:
    text = str(row.data["Created"])
    body = text.replace("T", " ", 1)
    return body.removesuffix("Z") + " +0000 UTC" if body.endswith("Z") else body


Network.FIELDS = {
    "CreatedAt": _created,
    "Driver": lambda row: row.data["Driver"],
    "ID": lambda row: row.data["Id"] if row.full else row.data["Id"][:12],
    "IPv4": lambda row: _shown(row.data.get("EnableIPv4", False)),
    "IPv6": lambda row: _shown(row.data.get("EnableIPv6", False)),
    "Internal": lambda row: _shown(row.data.get("Internal", False)),
    "Labels": labels,
    "Name": lambda row: row.data["Name"],
    "Scope": lambda row: row.data["Scope"],
}
TITLES = {
    "CreatedAt": "CREATED AT",
    "Driver": "DRIVER",
    "ID": "NETWORK ID",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Label": "LABEL",
    "Labels": "LABELS",
    "Name": "NAME",
    "Scope": "SCOPE",
}


def _shown(value: bool) -> str:
    return "true" if value else "false"


def listing(cli: CLI, options: Options, arguments: list[str]) -> int:
    """By name."""
    found = cli.client.call("GET", "/networks", {"filters": filters.encode(options.all("filter"))}) or []
    found.sort(key=lambda item: natural(item["Name"]))
    table.show(
        cli,
        [Network(item, full=options.flag("no-trunc")) for item in found],
        titles=TITLES,
        default=("ID", "Name", "Driver", "Scope"),
        form=options.text("format"),
        quiet="ID" if options.flag("quiet") else "",
        config_key="networksFormat",
    )
    return 0


def remove(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Print each removed one's name."""
    failed = False
    for name in arguments:
        try:
            cli.client.call("DELETE", path_of("networks", name))
            cli.print(name)
        except SampanError as error:
            if options.flag("force") and isinstance(error, APIError) and error.status == 404:
                continue
            cli.complain(text_of(error))
            failed = True
    if failed:
        raise CLIError("exit status 1")
    return 0


def connect(cli: CLI, options: Options, arguments: list[str]) -> int:
    """A container gets another network, running or not."""
    settings = endpoints.endpoint(
        {
            "aliases": options.all("alias"),
            "driver-opts": pairs(options.all("driver-opt")),
            "gw-priority": options.number("gw-priority"),
            "ip": options.text("ip"),
            "ip6": options.text("ip6"),
            "link-local": options.all("link-local-ip"),
            "links": options.all("link"),
        }
    )
    request = {"Container": arguments[1], "EndpointConfig": settings}
    cli.client.call("POST", f"{path_of('networks', arguments[0])}/connect", json=request)
    return 0


def disconnect(cli: CLI, options: Options, arguments: list[str]) -> int:
    """A container loses a network."""
    request = {"Container": arguments[1], "Force": options.flag("force")}
    cli.client.call("POST", f"{path_of('networks', arguments[0])}/disconnect", json=request)
    return 0


def egress(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Rules and refusals, one a line."""
    answer = cli.client.call("GET", f"{path_of('containers', arguments[0])}/egress")
    if options.text("format") == "json":
        import json

        cli.print(json.dumps(answer))
        return 0
    rows = [["STATE", "TARGET", "TIMES"]]
    if not answer["Controlled"]:
        rows.append(["allowed", "everything", ""])
    rows += [["allowed", rule, ""] for rule in answer["Allowed"]]
    for item in answer["Refused"]:
        host = f"[{item['Address']}]" if ":" in item["Address"] else item["Address"]
        where = (
            f"{host}:{item['Port']}/{item['Protocol']}" if item["Port"] else f"{host} ({item['Protocol']})"
        )
        rows.append(["refused", where, str(item["Packets"])])
    rows += [["refused", name, str(times)] for name, times in sorted(answer["RefusedNames"].items())]
    cli.write(table.columns(rows, least=10))
    return 0


CREATE = Command(
    create,
    "[OPTIONS] NETWORK",
    "Create a network",
    (1, 1),
    (
        ("attachable", "", "bool", False, "Containers may be attached by hand"),
        ("aux-address", "", "opts", "", "Address that containers don't get (name=address)"),
        ("config-from", "", "string", "", "Network to copy the configuration of"),
        ("config-only", "", "bool", False, "Make a configuration only"),
        ("driver", "d", "string", "bridge", "The network's driver"),
        (
            "egress",
            "",
            "list",
            "",
            "Let containers reach only these (name[:port], address/prefix[:port], none)",
        ),
        ("gateway", "", "ip-list", "", "The network's gateway"),
        ("ingress", "", "bool", False, "Swarm's routing mesh"),
        ("internal", "", "bool", False, "No way out of it"),
        ("ip-range", "", "strings", "", "Give addresses of this part of the subnet"),
        ("ipam-driver", "", "string", "default", "Driver of the addresses"),
        ("ipam-opt", "", "opts", "", "Option of it (key=value)"),
        ("ipv4", "", "bool", True, "Give IPv4 addresses"),
        ("ipv6", "", "bool", False, "Give IPv6 addresses"),
        ("label", "", "label", "", "Set a label (key=value)"),
        ("opt", "o", "opts", "", "Option of the driver (key=value)"),
        ("scope", "", "string", "", "The network's scope"),
        ("subnet", "", "strings", "", "The network's addresses (10.1.0.0/16)"),
    ),
)
LS = Command(
    listing,
    "[OPTIONS]",
    "List networks",
    (0, 0),
    (
        ("filter", "f", "filter", "", "Show only what matches (name=value)"),
        ("format", "", "string", "", FORMAT_HELP),
        ("no-trunc", "", "bool", False, "Show ids in full"),
        ("quiet", "q", "bool", False, "Print ids only"),
    ),
)
RM = Command(
    remove,
    "[OPTIONS] NETWORK [NETWORK...]",
    "Remove networks",
    (1, MANY),
    (("force", "f", "bool", False, "A missing one is no error"),),
)
CONNECT = Command(
    connect,
    "[OPTIONS] NETWORK CONTAINER",
    "Connect a container to a network",
    (2, 2),
    (
        ("alias", "", "strings", "", "Another name on the network"),
        ("driver-opt", "", "strings", "", "Option of the driver (key=value)"),
        ("gw-priority", "", "int", 0, "The highest one gives the default route"),
        ("ip", "", "string", "", "IPv4 address"),
        ("ip6", "", "string", "", "IPv6 address"),
        ("link", "", "link", "", "Link to another container (name[:alias])"),
        ("link-local-ip", "", "strings", "", "Link-local address"),
    ),
)
EGRESS = Command(
    egress,
    "[OPTIONS] CONTAINER",
    "Show what a container may reach and what it was refused",
    (1, 1),
    (("format", "", "string", "", "json, or a table without it"),),
)
DISCONNECT = Command(
    disconnect,
    "[OPTIONS] NETWORK CONTAINER",
    "Disconnect a container from a network",
    (2, 2),
    (("force", "f", "bool", False, "Even if the container is gone"),),
)
