"""``/networks``: create, list, inspect, connect, disconnect, remove, prune; what egress control refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from sampan import errors
from sampan.api.http import Request, Response, Route, json_response
from sampan.api.query import filter_bool, filter_matches
from sampan.engine.containers.timestamps import parse_filter_time, rfc3339
from sampan.engine.networks import CreateNetwork, NetworkRecord
from sampan.runtime.config import EndpointSettings

if TYPE_CHECKING:
    from sampan.engine.engine import Engine
    from sampan.engine.networks import Networks

_LIST_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_PRUNE_FILTERS = ("label", "label!", "until")
_STATUS_SINCE = (1, 52)


class ConnectRequest(msgspec.Struct, rename="pascal", kw_only=True):
    """The body of connect."""

    go_name: ClassVar[str] = "network.ConnectRequest"

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class DisconnectRequest(msgspec.Struct, rename="pascal", kw_only=True):
    """The body of disconnect."""

    go_name: ClassVar[str] = "network.DisconnectRequest"

    container: str = ""
    force: bool = False


def summary(network: NetworkRecord) -> dict[str, Any]:
    """A network as the list shows it."""
    configs = []
    for subnet in network.subnets:
        config: dict[str, Any] = {"Subnet": subnet.subnet}
        if subnet.ip_range:
            config["IPRange"] = subnet.ip_range
        if subnet.gateway:
            config["Gateway"] = subnet.gateway
        if subnet.aux:
            config["AuxiliaryAddresses"] = subnet.aux
        configs.append(config)
    empty: list[Any] | None = None if network.predefined else []
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created_ns),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": {
            "Driver": network.ipam_driver,
            "Options": network.ipam_options,
            "Config": configs or empty,
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": network.ingress,
        "ConfigFrom": {"Network": network.config_from},
        "ConfigOnly": network.config_only,
        "Options": network.options,
        "Labels": network.labels,
    }


def _inspected(networks: Networks, network: NetworkRecord, version: tuple[int, int]) -> dict[str, Any]:
    shown = {**summary(network), "Containers": networks.users(network)}
    pools = networks.catalog.pools(network)
    if version >= _STATUS_SINCE and pools:
        shown["Status"] = {
            "IPAM": {
                "Subnets": {
                    str(pool.subnet): {"IPsInUse": pool.in_use, "DynamicIPsAvailable": pool.available}
                    for pool in pools
                }
            }
        }
    return shown


def _label_matches(labels: dict[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)


def _type_matches(network: NetworkRecord, wanted: str) -> bool:
    if wanted not in ("builtin", "custom"):
        raise errors.SystemFailure(f"invalid filter: 'type'='{wanted}'", hint="Types: builtin, custom.")
    return network.predefined == (wanted == "builtin")


def _selected(networks: Networks, filters: dict[str, list[str]]) -> list[NetworkRecord]:
    dangling = filter_bool(filters, "dangling", False)
    tests: dict[str, Callable[[NetworkRecord, str], bool]] = {
        "dangling": lambda network, _value: (
            dangling == (not network.predefined and not networks.users(network))
        ),
        "driver": lambda network, value: network.driver == value,
        "id": lambda network, value: network.id.startswith(value) or value in network.id,
        "label": lambda network, value: _label_matches(network.labels, value),
        "name": lambda network, value: filter_matches(value, network.name),
        "scope": lambda _network, value: value == "local",
        "type": _type_matches,
    }

    def wanted(network: NetworkRecord) -> bool:
        for name, values in filters.items():
            results = [tests[name](network, value) for value in values]
            # Labels must all be there; of other filters one value is enough.
            if results and not (all(results) if name == "label" else any(results)):
                return False
        return True

    return [network for network in networks.all() if wanted(network)]


async def list_networks(engine: Engine, request: Request) -> Response:
    """GET /networks."""
    filters = request.query.filters(_LIST_FILTERS)
    return json_response([summary(network) for network in _selected(engine.networks, filters)])


async def create(engine: Engine, request: Request) -> Response:
    """POST /networks/create."""
    network = await engine.networks.create(await request.json(CreateNetwork))
    return json_response({"Id": network.id, "Warning": ""}, 201)


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /networks/{id}."""
    scope = request.query.get("scope")
    network = engine.networks.get(request.params["id"])
    if scope not in ("", "local"):
        raise errors.NotFound(f"network {request.params['id']} not found")
    return json_response(_inspected(engine.networks, network, request.version))


async def connect(engine: Engine, request: Request) -> Response:
    """POST /networks/{id}/connect."""
    asked = await request.json(ConnectRequest)
    await engine.networks.connect(request.params["id"], asked.container, asked.endpoint_config)
    return Response(200)


async def disconnect(engine: Engine, request: Request) -> Response:
    """POST /networks/{id}/disconnect."""
    asked = await request.json(DisconnectRequest)
    await engine.networks.disconnect(request.params["id"], asked.container, force=asked.force)
    return Response(200)


async def remove(engine: Engine, request: Request) -> Response:
    """DELETE /networks/{id}."""
    await engine.networks.remove(request.params["id"])
    return Response(204)


async def prune(engine: Engine, request: Request) -> Response:
    """POST /networks/prune."""
    filters = request.query.filters(_PRUNE_FILTERS)
    untils = filters.get("until", [])
    if len(untils) > 1:
        raise errors.InvalidParameter("more than one until filter specified")
    before = parse_filter_time(untils[0], time.time_ns()) if untils else None

    def keep(network: NetworkRecord) -> bool:
        if before is not None and network.created_ns >= before:
            return True
        if not all(_label_matches(network.labels, value) for value in filters.get("label", [])):
            return True
        return any(_label_matches(network.labels, value) for value in filters.get("label!", []))

    removed = await engine.networks.prune(keep)
    return json_response({"NetworksDeleted": removed or None})


async def egress(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/egress: what a container may reach and was refused (an extension of sampan)."""
    return json_response(await engine.networks.egress(request.params["id"]))


ROUTES = [
    Route("GET", "/networks", list_networks),
    Route("GET", "/networks/", list_networks),
    Route("GET", "/networks/{id}", inspect),
    Route("POST", "/networks/create", create),
    Route("POST", "/networks/prune", prune),
    Route("POST", "/networks/{id}/connect", connect),
    Route("POST", "/networks/{id}/disconnect", disconnect),
    Route("DELETE", "/networks/{id}", remove),
    Route("GET", "/containers/{id}/egress", egress),
]
