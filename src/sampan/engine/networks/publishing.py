"""Published ports of containers: which host ports they hold, where those lead, and opening the ways."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sampan import errors
from sampan.engine.networks import endpoints as places
from sampan.engine.networks.records import Binding, Endpoint, Sandbox
from sampan.engine.networks.types import SandboxRequest
from sampan.kernel import conntrack
from sampan.network import ports
from sampan.network.firewall import Forwarded
from sampan.network.options import BridgeOptions
from sampan.network.ports import Published, Reserved, Wanted
from sampan.network.switchboard.client import Target

if TYPE_CHECKING:
    from sampan.engine.networks.service import Networks


class Publishing:
    """The ports of all sandboxes of an engine."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks
        self._reserved: dict[str, list[Reserved]] = {}

    # -- the host's side -----------------------------------------------------------------------------------

    def reserve(self, item: Sandbox, request: SandboxRequest) -> None:
        """Take the host's ports that a container asks for. SystemFailure with dockerd's words."""
        target = self.target(item)
        if target is None:
            return
        network = self._networks.catalog.get(target.network_id)
        options = self._networks.ground.options(network)
        wanted = self._wanted(options, request)
        own = [6 if ":" in address else 4 for address in target.addresses()]
        routed = [version for version in options.versions("routed") if version in own]
        # Where nothing is translated, an asker's IP version must be the container's own.
        bound = [version for version in (4, 6) if version not in routed and (not routed or version in own)]
        try:
            reserved = self._networks.reservations.reserve(wanted, item.container, bound)
        except errors.SystemFailure as failure:
            what = f"driver failed programming external connectivity on endpoint {item.name} ({target.id}): "
            raise errors.SystemFailure(what + failure.message, hint=failure.hint) from failure
        self._reserved[item.container] = reserved
        held = [one.published for one in reserved]
        item.published = [Binding(one.port, one.protocol, one.host_ip, one.host_port) for one in held]
        item.published += [
            Binding(one.port, one.protocol, host, 0) for one in wanted for host in one.hosts(routed)
        ]

    def _wanted(self, options: BridgeOptions, request: SandboxRequest) -> list[Wanted]:
        default_ip = options.binding_ip or self._networks.config.ip
        bindings = (request.host.port_bindings or {}).items()
        return ports.plan(
            {key: [_binding(entry) for entry in value or ()] for key, value in bindings},
            request.config.exposed_ports or (),
            publish_all=request.host.publish_all_ports,
            default_ip="" if default_ip in ("0.0.0.0", "") else default_ip,
        )

    def adopt(self, item: Sandbox) -> None:
        """Know ports that the switchboard has held since before a restart."""
        self._networks.reservations.adopt(bound(item), item.container)

    def take(self, container: str) -> list[Reserved]:
        """The sockets that hold a container's ports, to be handed over."""
        return self._reserved.pop(container, [])

    def again(self, item: Sandbox) -> list[Reserved]:
        """New sockets for ports whose old ones are lost, as far as nobody else has them."""
        result = []
        for published in bound(item):
            with contextlib.suppress(errors.SampanError):
                result.append(Reserved(published, ports.bind(published)))
        return result

    # -- the container's side ------------------------------------------------------------------------------

    def target(self, item: Sandbox) -> Endpoint | None:
        """The endpoint that published ports lead to: the one with the default route, on a bridge."""
        bridges = [
            endpoint
            for endpoint in item.endpoints
            if endpoint.driver == "bridge" and not self._networks.catalog.get(endpoint.network_id).internal
        ]
        return places.gateway_endpoint(bridges, 4) or places.gateway_endpoint(bridges, 6)

    def forwarded(self, item: Sandbox) -> list[Forwarded]:
        """Where the held ports of a sandbox lead."""
        endpoint = self.target(item)
        if endpoint is None:
            return []
        result = []
        for one in bound(item):
            target = endpoint.ipv6 if ":" in one.host_ip and endpoint.ipv6 else endpoint.ipv4 or endpoint.ipv6
            result.append(Forwarded(one.protocol, one.host_ip, one.host_port, target, one.port))
        return result

    def targets(self, item: Sandbox) -> list[Target]:
        """The same for the switchboard."""
        return [
            Target(one.protocol, one.host_ip, one.host_port, one.target, one.target_port)
            for one in self.forwarded(item)
        ]

    # -- the ways ------------------------------------------------------------------------------------------

    def open(self, item: Sandbox) -> None:
        """Lead published ports to the container."""
        forwarded = self.forwarded(item)
        if forwarded:
            self._networks.ground.firewall.publish(forwarded)
            # Flows that lead there already came after the rules, or before a restart of the engine's.
            self._forget_udp(forwarded, keep=frozenset(one.target for one in forwarded))
        self._reach(item)

    def change(self, item: Sandbox, before: list[Forwarded]) -> None:
        """Lead them elsewhere: the container's endpoints have changed."""
        after = self.forwarded(item)
        firewall = self._networks.ground.firewall
        firewall.withdraw([one for one in before if one not in after])
        firewall.publish(after)
        self._reach(item)

    def close(self, item: Sandbox) -> None:
        """Lead them nowhere, and give them up."""
        for one in self._reserved.pop(item.container, []):
            one.socket.close()
        with contextlib.suppress(errors.SampanError, OSError):
            forwarded = self.forwarded(item)
            if forwarded:
                self._networks.ground.firewall.withdraw(forwarded)
                self._forget_udp(forwarded)
            self._networks.ground.firewall.set_owned(_owner(item), {})
        self._networks.reservations.disown(bound(item))

    def abandon(self, item: Sandbox) -> None:
        """As :meth:`close`, for a container that goes on without published ports."""
        self.close(item)
        item.published = []

    def _reach(self, item: Sandbox) -> None:
        """Open published ports at the container's own address, where the network or the engine wants that."""
        endpoint = self.target(item)
        elements: dict[str, list[str]] = {}
        for one in item.published if endpoint is not None else ():
            version = 6 if ":" in one.host_ip else 4
            address = endpoint and (endpoint.ipv6 if version == 6 else endpoint.ipv4)
            known = self._known_as(one, endpoint)
            if known and address:
                key = f"{address} . {ports.PROTOCOLS[one.protocol]} . {one.port}"
                elements.setdefault(f"{known}{version}", []).append(key)
        unique = {name: list(dict.fromkeys(keys)) for name, keys in elements.items()}
        self._networks.ground.firewall.set_owned(_owner(item), unique)

    def _known_as(self, one: Binding, endpoint: Endpoint | None) -> str:
        """The set of a published port's own address: reached by all, from trusted interfaces, "" for neither."""
        if not one.host_port:
            return "reach"
        if endpoint is None or one.host_ip == "::1" or one.host_ip.startswith("127."):
            return ""
        if self._networks.config.allow_direct_routing:
            return "reach"
        network = self._networks.catalog.get(endpoint.network_id)
        return "direct" if self._networks.ground.options(network).trusted else ""

    def _forget_udp(self, forwarded: Iterable[Forwarded], keep: frozenset[str] = frozenset()) -> None:
        """Drop tracked UDP flows to these ports, but for those that lead to the addresses in ``keep``."""
        changed = {one.host_port for one in forwarded if one.protocol == "udp"}
        if changed:
            self._networks.in_background(
                lambda: conntrack.forget(
                    lambda flow: flow.protocol == 17 and flow.port in changed and flow.replier not in keep
                )
            )


def bound(item: Sandbox) -> list[Published]:
    """The ports of the host that a sandbox holds; those of routed networks are none."""
    return [
        Published(one.port, one.protocol, one.host_ip, one.host_port)
        for one in item.published
        if one.host_port
    ]


def loopback(item: Sandbox) -> tuple[tuple[str, int], ...]:
    """The published ports of a container, as it sees them: those that may fall back to its loopback."""
    return tuple(dict.fromkeys((one.protocol, one.port) for one in item.published))


def _owner(item: Sandbox) -> str:
    return f"routed {item.container}"


def _binding(entry: Any) -> dict[str, str]:
    return {"HostIp": entry.host_ip, "HostPort": entry.host_port}
