"""Addresses and subnets of one machine's networks. Pure: nothing here touches the kernel or the disk.

A :class:`Pool` hands out the addresses of one subnet, lowest first, as Docker's default IPAM driver does. An
:class:`AddressSpace` hands out subnets: the ones asked for, or the first of the default pools that nothing
else on the machine uses.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping

from sampan.errors import Forbidden, InvalidParameter, SystemFailure

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# What dockerd takes when daemon.json names no default-address-pools: (base, prefix length of a network).
DEFAULT_POOLS: tuple[tuple[str, int], ...] = (
    *((f"172.{second}.0.0/16", 16) for second in range(17, 32)),
    ("192.168.0.0/16", 20),
)

_LOOPBACK = {4: ipaddress.ip_network("127.0.0.0/8"), 6: ipaddress.ip_network("::1/128")}
_LINK_LOCAL = ipaddress.ip_network("fe80::/64")


class PoolExhausted(SystemFailure):
    """Every address of the pool is in use (500, as dockerd)."""


class AddressInUse(Forbidden):
    """The address asked for is taken (403, dockerd's words: "Address already in use")."""


class Pool:
    """The addresses of one subnet. Not locked."""

    def __init__(
        self,
        subnet: Network,
        *,
        ip_range: Network | None = None,
        gateway: Address | None = None,
        aux: Mapping[str, Address] | None = None,
        known: bool = False,
    ) -> None:
        """``ip_range`` limits what is handed out unasked; ``aux`` addresses belong to others.

        Raises InvalidParameter when range, gateway or aux lie outside the subnet, SystemFailure when gateway
        or aux can't be had (dockerd's words). Without ``gateway`` the first free address of the range becomes
        it. A network that is ``known`` keeps what it has.
        """
        self.subnet = subnet
        self.ip_range = ip_range or subnet
        self.aux = dict(aux or {})
        self._used: set[int] = set()
        self._reserved = self._nobodys()
        self._first, self._last = self._bounds()
        self._hint = self._first
        if ip_range is not None and not inside(ip_range, subnet):
            raise InvalidParameter(f"invalid network config:\ninvalid ip-range {ip_range}: not in {subnet}")
        for name, address in self.aux.items():
            self._checkinside(address, f"auxiliary address {name}={address}")
        if gateway is not None:
            self._checkinside(gateway, f"gateway {gateway}")
            self.gateway: Address = self._own(gateway, f"gateway ({gateway})", known)
        for name, address in self.aux.items():
            self._own(address, f"secondary ip address ({name}:{address})", known)
        if gateway is None:
            self.gateway = self.allocate()

    def _own(self, address: Address, what: str, known: bool) -> Address:
        if known:
            self._used.add(int(address))
            return address
        try:
            return self.take(address)
        except AddressInUse as failure:
            raise SystemFailure(
                f"failed to allocate {what}: {failure.message}", hint=failure.hint
            ) from failure

    def _bounds(self) -> tuple[int, int]:
        first, last = int(self.ip_range.network_address), int(self.ip_range.broadcast_address)
        first += first in self._reserved
        last -= last in self._reserved
        return first, last

    def _nobodys(self) -> frozenset[int]:
        """The network's own address (with IPv6 the routers'), and with IPv4 the broadcast address."""
        if self.subnet.max_prefixlen - self.subnet.prefixlen <= 1:  # a /31 or /32 has no such two addresses
            return frozenset()
        own = {int(self.subnet.network_address)}
        if self.subnet.version == 4:
            own.add(int(self.subnet.broadcast_address))
        return frozenset(own)

    def _checkinside(self, address: Address, what: str) -> None:
        if address not in self.subnet:
            raise InvalidParameter(f"invalid network config:\ninvalid {what}: parent subnet is {self.subnet}")

    def allocate(self) -> Address:
        """The lowest free address of the range, now taken. PoolExhausted when there is none."""
        candidate = self._hint
        while candidate in self._used:
            candidate += 1
        if candidate > self._last:
            raise PoolExhausted(
                f"no available IPv{self.subnet.version} addresses on this network's address pools",
                hint=f"{self.ip_range} is full: remove containers, or create a network with a larger subnet.",
            )
        self._used.add(candidate)
        self._hint = candidate + 1
        return self._address(candidate)

    def take(self, address: Address) -> Address:
        """Take a given address. AddressInUse, or InvalidParameter when the subnet doesn't hold it."""
        value = int(address)
        if address not in self.subnet:
            raise InvalidParameter(
                f"invalid endpoint settings:\nno configured subnet contains IP address {address}"
            )
        if value in self._used:
            raise AddressInUse("Address already in use")
        if value in self._reserved:
            raise AddressInUse("Address already in use", hint=f"{address} is {self.subnet}'s own address.")
        self._used.add(value)
        return address

    def release(self, address: Address) -> None:
        """Give an address back; one that isn't taken is no error. The gateway and aux addresses stay."""
        value = int(address)
        if address == self.gateway or address in self.aux.values():
            return
        self._used.discard(value)
        if self._first <= value < self._hint:
            self._hint = value

    def _address(self, value: int) -> Address:
        return ipaddress.IPv4Address(value) if self.subnet.version == 4 else ipaddress.IPv6Address(value)

    @property
    def in_use(self) -> int:
        """How many addresses are gone; Docker counts the network and broadcast address too."""
        return len(self._used) + (2 if self.subnet.version == 4 and self.subnet.prefixlen < 31 else 1)

    @property
    def available(self) -> int:
        """How many addresses the range still has."""
        taken = sum(1 for value in self._used if self._first <= value <= self._last)
        return self._last - self._first + 1 - taken


def inside(inner: Network, outer: Network) -> bool:
    """Whether ``inner`` lies in ``outer``; networks of two IP versions don't."""
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


def overlaps(subnet: Network, others: Iterable[Network]) -> Network | None:
    """The first of ``others`` that shares an address with ``subnet``."""
    return next(
        (other for other in others if other.version == subnet.version and subnet.overlaps(other)), None
    )


def _first_free(base: Network, size: int, others: Iterable[Network]) -> Network | None:
    """The first subnet of ``base`` with this prefix length that overlaps none of ``others``.

    One step for each that is in the way, however many subnets that one has.
    """
    taken = list(others)
    step = 1 << (base.max_prefixlen - size)
    start, last = int(base.network_address), int(base.broadcast_address)
    while size >= base.prefixlen and start <= last:
        candidate = type(base)((start, size))
        other = overlaps(candidate, taken)
        if other is None:
            return candidate
        start = (max(int(other.broadcast_address), start + step - 1) // step + 1) * step
    return None


def unusable(subnet: Network) -> str:
    """Why no network can have this subnet, as dockerd says it where it does; "" when it can."""
    first = subnet.network_address
    if subnet.is_multicast:
        return f"multicast subnet '{subnet}' is not allowed"
    if subnet.overlaps(_LOOPBACK[subnet.version]) and not first.is_unspecified:
        return f"loopback subnet '{subnet}' is not allowed"
    if isinstance(first, ipaddress.IPv6Address):
        if first.ipv4_mapped is not None:
            return f"'{subnet}' is not a valid IPv6 subnet"
        if subnet != _LINK_LOCAL and subnet.overlaps(_LINK_LOCAL):
            return f"'{subnet}' clashes with the Link-Local prefix '{_LINK_LOCAL}'"
    return ""


class AddressSpace:
    """Which subnets the engine's networks have, and which one is next."""

    def __init__(self, pools: Iterable[tuple[str, int]] = DEFAULT_POOLS, *, seed: str = "sampan") -> None:
        """``pools`` are (base, size) pairs; ``seed`` makes the IPv6 subnets of two machines differ."""
        self._pools = [(ipaddress.ip_network(base), size) for base, size in pools]
        digest = hashlib.sha256(seed.encode()).digest()
        self._ula = ipaddress.IPv6Network((b"\xfd" + digest[:5] + bytes(10), 48))
        self._taken: set[Network] = set()

    @property
    def taken(self) -> frozenset[Network]:
        """The subnets in use."""
        return frozenset(self._taken)

    def claim(self, subnet: Network) -> Network:
        """Take a given subnet. Forbidden (403) when it overlaps one of the engine's own networks."""
        if overlaps(subnet, self._taken):
            raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
        self._taken.add(subnet)
        return subnet

    def next_free(self, version: int, avoid: Iterable[Network], size: int | None = None) -> Network:
        """Take the first subnet of the default pools that overlaps neither ours nor ``avoid``.

        ``size`` is the prefix length asked for; None takes each pool's own.
        """
        others = [*self._taken, *avoid]
        for base, usual in self._bases(version):
            found = _first_free(base, max(usual, base.prefixlen) if size is None else size, others)
            if found is not None:
                self._taken.add(found)
                return found
        raise SystemFailure(
            f"could not find an available, non-overlapping IPv{version} address pool "
            "among the defaults to assign to the network",
            hint="Remove unused networks (docker network prune), give --subnet or more default pools.",
        )

    def _bases(self, version: int) -> list[tuple[Network, int]]:
        found = [(base, size) for base, size in self._pools if base.version == version]
        return found or ([(self._ula, 64)] if version == 6 else [])

    def release(self, subnet: Network) -> None:
        """Give a subnet back."""
        self._taken.discard(subnet)
