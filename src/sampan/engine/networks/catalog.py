"""All networks of an engine in memory, with the addresses that are taken on them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

from sampan import errors
from sampan.engine.networks.records import DEFAULT, NetworkRecord, Store, Subnet
from sampan.network.ipam import Address, AddressSpace, Network, Pool

_HEX = re.compile(r"[0-9a-f]{1,64}\Z")


class Catalog:
    """Networks by id, name and prefix; their pools. For the event loop."""

    def __init__(self, store: Store, space: AddressSpace) -> None:
        self.store = store
        self.space = space
        self._by_id: dict[str, NetworkRecord] = {}
        self._pools: dict[str, list[Pool]] = {}

    def __iter__(self) -> Iterator[NetworkRecord]:
        return iter(list(self._by_id.values()))

    def find(self, reference: str) -> NetworkRecord | None:
        """The network with this id, name or unique id prefix. InvalidParameter when a prefix fits several."""
        if reference in self._by_id:
            return self._by_id[reference]
        named = next((item for item in self._by_id.values() if item.name == reference), None)
        if named is not None or not _HEX.match(reference):
            return named
        matches = [item for item in self._by_id.values() if item.id.startswith(reference)]
        if len(matches) > 1:
            raise errors.InvalidParameter(
                f"network {reference} is ambiguous ({len(matches)} matches found on ID prefix)"
            )
        return matches[0] if matches else None

    def get(self, reference: str) -> NetworkRecord:
        """As :meth:`find`; NotFound "network x not found"."""
        found = self.find(reference)
        if found is None:
            # The default network is missing from an engine with --bridge none only.
            hint = "This engine has no default network: say --network none, host or one of yours."
            raise errors.NotFound(f"network {reference} not found", hint=hint if reference == DEFAULT else "")
        return found

    def load(self, networks: Iterable[NetworkRecord]) -> None:
        """Know networks that are stored already."""
        for network in networks:
            self._claim(network)
            self._by_id[network.id] = network

    def add(self, network: NetworkRecord, avoid: Iterable[Network]) -> None:
        """Know and store a new network. Subnets without an address are chosen so as to miss ``avoid``.

        Raises what IPAM raises; nothing is left then.
        """
        chosen: list[Subnet] = []
        try:
            for subnet in () if network.config_only else network.subnets:
                if not subnet.chosen:
                    size = subnet.prefix().prefixlen if subnet.subnet else None
                    subnet.subnet = str(self.space.next_free(subnet.version, avoid, size))
                else:
                    self.space.claim(ipaddress.ip_network(subnet.subnet))
                chosen.append(subnet)
            self._make_pools(
                network, known=False
            )  # nothing for a mere configuration: the addresses are for others
        except BaseException:
            for subnet in chosen:
                self.space.release(subnet.prefix())
            raise
        self._by_id[network.id] = network
        self.store.save_network(network)

    def _claim(self, network: NetworkRecord) -> None:
        if network.config_only:
            return
        for subnet in network.subnets:
            self.space.claim(subnet.prefix())
        self._make_pools(network, known=True)

    def _make_pools(self, network: NetworkRecord, *, known: bool) -> None:
        pools = []
        for subnet in () if network.config_only else network.subnets:
            pool = Pool(
                subnet.prefix(),
                ip_range=ipaddress.ip_network(subnet.ip_range) if subnet.ip_range else None,
                gateway=ipaddress.ip_address(subnet.gateway) if subnet.gateway else None,
                aux={name: ipaddress.ip_address(text) for name, text in subnet.aux.items()},
                known=known,
            )
            subnet.gateway = str(pool.gateway)
            pools.append(pool)
        self._pools[network.id] = pools

    def remove(self, network: NetworkRecord) -> None:
        """Forget a network, in memory and in the database."""
        self.store.delete_network(network.id)
        del self._by_id[network.id]
        self._pools.pop(network.id, None)
        for subnet in () if network.config_only else network.subnets:
            self.space.release(subnet.prefix())

    def pools(self, network: NetworkRecord) -> list[Pool]:
        """The pools of a network, one a subnet."""
        return self._pools.get(network.id, [])

    def pool(self, network: NetworkRecord, version: int, wanted: Address | None = None) -> Pool | None:
        """The pool of this IP version (that holds ``wanted``, if given)."""
        for pool in self.pools(network):
            if pool.subnet.version == version and (wanted is None or wanted in pool.subnet):
                return pool
        return None

    def release(self, network_id: str, addresses: Iterable[str]) -> None:
        """Give addresses of a network back."""
        for text in addresses:
            address = ipaddress.ip_address(text)
            for pool in self._pools.get(network_id, []):
                if address in pool.subnet:
                    pool.release(address)
