"""Addresses and subnets: pure, so checked on made-up cases."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan import errors
from sampan.network.ipam import AddressInUse, AddressSpace, Pool, PoolExhausted, overlaps, unusable


def pool(subnet: str, **more: str) -> Pool:
    ip_range = more.get("ip_range")
    gateway = more.get("gateway")
    return Pool(
        ipaddress.ip_network(subnet),
        ip_range=ipaddress.ip_network(ip_range) if ip_range else None,
        gateway=ipaddress.ip_address(gateway) if gateway else None,
    )


def test_lowest_first_and_used_again() -> None:
    one = pool("10.0.0.0/24")
    assert str(one.gateway) == "10.0.0.1"
    first, second = one.allocate(), one.allocate()
    assert (str(first), str(second)) == ("10.0.0.2", "10.0.0.3")
    one.release(first)
    assert one.allocate() == first
    assert (one.in_use, one.available) == (5, 251)


def test_range_gateway_and_aux() -> None:
    one = Pool(
        ipaddress.ip_network("172.29.60.0/24"),
        ip_range=ipaddress.ip_network("172.29.60.128/25"),
        gateway=ipaddress.ip_address("172.29.60.254"),
        aux={"printer": ipaddress.ip_address("172.29.60.129")},
    )
    assert str(one.allocate()) == "172.29.60.128"
    assert str(one.allocate()) == "172.29.60.130"
    assert str(one.take(ipaddress.ip_address("172.29.60.5"))) == "172.29.60.5", "outside the range, if asked"
    with pytest.raises(AddressInUse, match=r"^Address already in use"):
        one.take(ipaddress.ip_address("172.29.60.129"))
    with pytest.raises(
        errors.InvalidParameter, match=r"no configured subnet contains IP address 10\.0\.0\.1"
    ):
        one.take(ipaddress.ip_address("10.0.0.1"))
    one.release(one.gateway)
    with pytest.raises(AddressInUse):
        one.take(one.gateway)


@pytest.mark.parametrize("subnet", ["10.0.0.0/29", "10.0.0.0/30", "10.0.0.0/31", "fd00::/125"])
def test_exhaustion(subnet: str) -> None:
    one = pool(subnet)
    seen = {one.gateway}
    with pytest.raises(PoolExhausted):
        while True:
            seen.add(one.allocate())
    network = ipaddress.ip_network(subnet)
    if network.prefixlen < 31:
        assert network.network_address not in seen
        assert network.version == 6 or network.broadcast_address not in seen
    assert one.available == 0


def test_faults_outside_the_subnet() -> None:
    for more in ({"gateway": "10.1.0.1"}, {"ip_range": "10.1.0.0/25"}):
        with pytest.raises(errors.InvalidParameter):
            pool("10.0.0.0/24", **more)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60))
def test_no_address_twice(steps: list[tuple[bool, int]]) -> None:
    one = pool("192.0.2.0/27")
    held = [one.gateway]
    for take, number in steps:
        if take:
            try:
                address = one.allocate()
            except PoolExhausted:
                assert len(held) == 30
                continue
            assert address not in held and address in one.subnet
            held.append(address)
        elif len(held) > 1:
            one.release(held.pop(1 + number % (len(held) - 1)))
    assert one.available == 30 - len(held)


def test_default_pools_miss_what_the_host_uses() -> None:
    space = AddressSpace()
    busy = [ipaddress.ip_network("172.16.0.0/14"), ipaddress.ip_network("10.0.0.0/8")]
    assert str(space.next_free(4, busy)) == "172.20.0.0/16"
    assert str(space.next_free(4, busy)) == "172.21.0.0/16"
    with pytest.raises(errors.Forbidden, match="Pool overlaps with other one on this address space"):
        space.claim(ipaddress.ip_network("172.20.4.0/24"))
    space.release(ipaddress.ip_network("172.20.0.0/16"))
    assert str(space.next_free(4, busy)) == "172.20.0.0/16"
    six = space.next_free(6, [])
    assert six.prefixlen == 64 and six.is_private and space.next_free(6, []) != six


def test_subnets_of_a_given_size() -> None:
    space = AddressSpace([("10.9.0.0/16", 20), ("10.8.0.0/24", 24)])
    busy = [ipaddress.ip_network("10.9.0.0/17")]
    assert str(space.next_free(4, busy, 24)) == "10.9.128.0/24"
    assert str(space.next_free(4, busy, 28)) == "10.9.129.0/28"
    assert str(space.next_free(4, busy)) == "10.9.144.0/20"
    six = space.next_free(6, [])
    assert space.next_free(6, [], 120).prefixlen == 120, "no walk through all that the first one has"
    assert space.next_free(6, [six]).prefixlen == 64
    with pytest.raises(errors.SystemFailure, match="could not find an available"):
        space.next_free(4, [], 0)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.3.0.0/16", "loopback subnet '127.3.0.0/16' is not allowed"),
        ("126.0.0.0/7", "loopback"),
        ("239.1.0.0/24", "multicast subnet"),
        ("ff05::/64", "multicast subnet 'ff05::/64' is not allowed"),
        ("::1/128", "loopback"),
        ("fe80::/80", "'fe80::/80' clashes with the Link-Local prefix 'fe80::/64'"),
        ("::ffff:a00:0/104", "is not a valid IPv6 subnet"),
        *((text, "") for text in ("10.0.0.0/8", "169.254.0.0/16", "240.0.0.0/8", "0.0.0.0/24", "fe80::/64")),
        *((text, "") for text in ("::/96", "fd00::/64", "2001:db8::/32")),
    ],
)
def test_subnets_that_no_network_can_have(text: str, reason: str) -> None:
    found = unusable(ipaddress.ip_network(text))
    assert reason in found and bool(reason) == bool(found)


def test_pools_run_out() -> None:
    space = AddressSpace([("10.9.0.0/24", 26)])
    assert len({space.next_free(4, []) for _ in range(4)}) == 4
    with pytest.raises(errors.SystemFailure, match="could not find an available, non-overlapping IPv4"):
        space.next_free(4, [])


@given(st.sets(st.integers(0, 255), max_size=40))
def test_chosen_subnets_never_overlap(taken: set[int]) -> None:
    space = AddressSpace([("10.0.0.0/16", 24)])
    avoid = [ipaddress.ip_network(f"10.0.{number}.0/25") for number in taken]
    chosen = [space.next_free(4, avoid) for _ in range(10)]
    assert len(set(chosen)) == 10
    assert all(overlaps(subnet, avoid) is None for subnet in chosen)


def test_addresses_that_are_nobodys() -> None:
    """The network's own and the broadcast address are given to no one, asked for or not (as in Docker)."""
    subnet = ipaddress.ip_network("10.204.60.0/29")
    pool = Pool(subnet)
    for text in ("10.204.60.0", "10.204.60.7"):
        with pytest.raises(AddressInUse, match=r"^Address already in use"):
            pool.take(ipaddress.ip_address(text))
        with pytest.raises(
            errors.SystemFailure, match=rf"^failed to allocate gateway \({text}\): Address already in"
        ):
            Pool(subnet, gateway=ipaddress.ip_address(text))
        with pytest.raises(
            errors.SystemFailure, match=rf"^failed to allocate secondary ip address \(a:{text}\): "
        ):
            Pool(subnet, aux={"a": ipaddress.ip_address(text)})
        assert Pool(subnet, gateway=ipaddress.ip_address(text), known=True).gateway == ipaddress.ip_address(
            text
        ), "made before"
    gateway = ipaddress.ip_address("10.204.60.1")
    with pytest.raises(
        errors.SystemFailure, match=r"^failed to allocate secondary ip address \(a:10\.204\.60\.1\): "
    ):
        Pool(subnet, gateway=gateway, aux={"a": gateway})
    six = Pool(ipaddress.ip_network("fd00:60::/125"))
    with pytest.raises(AddressInUse):
        six.take(ipaddress.ip_address("fd00:60::"))
    assert six.take(ipaddress.ip_address("fd00:60::7")), "IPv6 has no broadcast"
    assert Pool(ipaddress.ip_network("10.204.60.0/31")).take(ipaddress.ip_address("10.204.60.1"))
