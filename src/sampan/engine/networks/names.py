"""Names: the two files a container gets, and what the resolver is told of who is where."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sampan import errors
from sampan.engine.networks.links import link_names
from sampan.engine.networks.records import Endpoint, Sandbox
from sampan.engine.networks.types import SandboxRequest
from sampan.network import egress, files

if TYPE_CHECKING:
    from sampan.engine.networks.service import Networks


def resolver_wanted(networks: Networks, item: Sandbox) -> bool:
    """Whether the container asks our resolver: on user-defined networks, and under egress control."""
    own = any(not networks.catalog.get(endpoint.network_id).predefined for endpoint in item.endpoints)
    return own or item.egress is not None


def sandbox_files(networks: Networks, request: SandboxRequest, item: Sandbox) -> tuple[str, str]:
    """The texts of /etc/hosts and /etc/resolv.conf; notes in ``item`` what the resolver has to know."""
    host, config = request.host, networks.config
    gateways = networks.host_gateways()
    extra = [one for text in host.extra_hosts or () for one in files.parse_extra_host(text, gateways)]
    item.extra_hosts = dict(reversed(extra))
    if item.mode == "host":
        hosts = files.host_hosts(extra)
    else:
        own = [address for endpoint in item.endpoints for address in endpoint.addresses()]
        links = _link_lines(networks, request, item)
        hosts = files.hosts(
            own=own, hostname=item.hostname, domainname=request.config.domainname, extra=extra, links=links
        )
    names = files.Names(
        tuple(host.dns or config.dns),
        tuple(host.dns_search or config.dns_search),
        tuple(host.dns_options or config.dns_opts),
    )
    found, source = files.host_resolv()
    if not item.resolver:
        return hosts, files.resolv_conf(found, names, source=source)
    item.servers = [server.partition("%")[0] for server in files.merged(found, names).servers]
    item.servers_inside = bool(names.servers)
    networks.store.save_sandbox(item)
    return hosts, files.resolv_conf_internal(found, names, source=source)


def _link_lines(networks: Networks, request: SandboxRequest, item: Sandbox) -> list[tuple[str, list[str]]]:
    """Lines for --link on the default bridge: address, then alias, short id, name."""
    lines = []
    bridge = next((endpoint for endpoint in item.endpoints if not endpoint.dns_names), None)
    for alias, target in request.links.items() if bridge else ():
        other = networks.sandboxes.get(target)
        if other is None or bridge is None:
            continue
        for endpoint in other.endpoints:
            if endpoint.network_id == bridge.network_id and endpoint.ipv4:
                lines.append((endpoint.ipv4, link_names(alias, other)))
    return lines


class Names:
    """Keeps the switchboard's resolver told. Nothing is told while no container asks it."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._told: dict[str, Endpoint] = {}

    def changed(self, item: Sandbox) -> None:
        """A sandbox came, or its endpoints changed: tell of it, and it of the others."""
        named = [endpoint for endpoint in item.endpoints if endpoint.dns_names]
        if not (item.resolver or self._networks.switchboard.connected):
            return
        for endpoint in named:
            self._put(endpoint)
        if item.resolver and item.pid:
            self._client(item)
        for other, _endpoint in self._linked_to(item):
            self._client(other)

    def _put(self, endpoint: Endpoint) -> None:
        self._told[endpoint.id] = endpoint
        self._networks.switchboard.tell(
            {
                "op": "names",
                "network": endpoint.network_id,
                "title": endpoint.network,
                "endpoint": endpoint.id,
                "names": endpoint.dns_names,
                "addresses": endpoint.addresses(),
            }
        )

    def _client(self, item: Sandbox) -> None:
        rules = None if item.egress is None else [rule for text in item.egress for rule in egress.parse(text)]
        self._networks.switchboard.tell(
            {
                "op": "client",
                "container": item.container,
                "networks": [endpoint.network_id for endpoint in item.endpoints if endpoint.dns_names],
                "links": self._links(item),
                "servers": item.servers if self._may_ask_outside(item) else [],
                "inside": item.servers_inside and item.egress is None,
                "table": self._networks.ground.table,
                "sources": [address for endpoint in item.endpoints for address in endpoint.addresses()],
                "egress": None if rules is None else [one for rule in rules for one in rule.as_dicts()],
            }
        )

    def _may_ask_outside(self, item: Sandbox) -> bool:
        """On internal networks alone it learns nothing from outside, and tells nothing (CVE-2024-29018)."""
        catalog = self._networks.catalog
        return any(not catalog.get(endpoint.network_id).internal for endpoint in item.endpoints)

    def _links(self, item: Sandbox) -> dict[str, list[str]]:
        result: dict[str, list[str]] = {}
        for endpoint in item.endpoints:
            for alias, reference in endpoint.links.items():
                for other, there in self._networks.sandboxes.on(endpoint.network_id):
                    if reference in (other.container, other.name, other.container[:12]):
                        result[alias.lower()] = there.addresses()
        return result

    def _linked_to(self, item: Sandbox) -> Iterable[tuple[Sandbox, Endpoint]]:
        """The running sandboxes that have a link to this one."""
        known = {item.container, item.name, item.container[:12]}
        for other in self._networks.sandboxes:
            for endpoint in other.endpoints:
                if other is not item and other.pid and known & set(endpoint.links.values()):
                    yield other, endpoint

    def gone(self, item: Sandbox) -> None:
        """A sandbox ended."""
        for endpoint in item.endpoints:
            self.left(endpoint)

    def left(self, endpoint: Endpoint) -> None:
        """An endpoint ended."""
        if self._told.pop(endpoint.id, None) is None:
            return
        order = {"op": "unname", "network": endpoint.network_id, "endpoint": endpoint.id}
        self._networks.switchboard.tell(order)

    def renamed(self, container: str, name: str, old: str) -> None:
        """A container has another name."""
        item = self._networks.sandboxes.get(container)
        if item is None:
            return
        item.name = name
        for endpoint in item.endpoints:
            endpoint.dns_names = [name if known == old else known for known in endpoint.dns_names]
        self._networks.store.save_sandbox(item)
        self.changed(item)


def check_extra_hosts(texts: Iterable[str], gateways: Sequence[str]) -> None:
    """InvalidParameter for --add-host values that are malformed."""
    for text in texts:
        with contextlib.suppress(errors.NotFound):
            files.parse_extra_host(text, gateways or ["0.0.0.0"])
