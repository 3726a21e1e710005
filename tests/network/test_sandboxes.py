"""Containers on networks, on a real kernel: addresses, isolation, drivers."""

from __future__ import annotations

import subprocess

import pytest

from sampan import errors
from sampan.engine.networks import CreateNetwork
from sampan.engine.networks.create import IPAM, IPAMConfig
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from sampan.runtime.config import EndpointSettings
from tests.network.lab import ECHO, SHUT, Box, Lab, aask, host_app, in_lab, lookup, ping

pytestmark = pytest.mark.usefixtures("machine")


@in_lab()
async def test_addresses_and_files(lab: Lab) -> None:
    container = lab.container()
    box, prepared = await lab.start(container)
    shown = subprocess.run(box.command("ip", "-br", "addr"), capture_output=True, text=True).stdout
    assert "10.201.6.2/24" in shown
    assert prepared.hosts.endswith(f"10.201.6.2\t{container.id[:12]}\n")
    assert "nameserver" in prepared.resolv_conf
    settings = lab.networks.settings(container.id)
    place = settings["Networks"]["bridge"]
    assert (place["IPAddress"], place["IPPrefixLen"], place["Gateway"]) == ("10.201.6.2", 24, "10.201.6.1")
    assert settings["IPAddress"] == "10.201.6.2"
    assert (
        place["MacAddress"]
        in subprocess.run(box.command("ip", "link", "show", "eth0"), capture_output=True, text=True).stdout
    )
    assert await ping(box, "10.201.6.1")
    assert lab.events.names() == ["connect bridge"]
    await lab.stop(container)
    assert lab.events.names() == ["connect bridge", "disconnect bridge"]
    stopped = lab.networks.settings(container.id)
    assert stopped["Networks"]["bridge"]["IPAddress"] == "" and stopped["Ports"] == {}


@in_lab()
async def test_lowest_address_is_used_again_and_neighbours_notice(lab: Lab) -> None:
    _first, one = await lab.run()
    second, _two = await lab.run()
    assert await ping(one, "10.201.6.3")
    await lab.stop(second)
    _third, _box = await lab.run()
    assert await ping(one, "10.201.6.3"), "the old MAC address is still in the neighbour's table"


@in_lab()
async def test_host_loopback_is_closed_to_containers(lab: Lab) -> None:
    _c, box = await lab.run()
    with host_app("127.0.0.1", 7777):
        assert (await aask(None, "tcp", "127.0.0.1", 7777)).startswith("host")
        subprocess.run(box.command("ip", "link", "set", "lo", "down"), check=True)
        subprocess.run(box.command("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"), check=True)
        subprocess.run(box.command("ip", "route", "add", "127.0.0.1/32", "via", "10.201.6.1"), check=True)
        assert (await aask(box, "tcp", "127.0.0.1", 7777, seconds=SHUT)).startswith("ERROR")


@in_lab()
async def test_isolation(lab: Lab) -> None:
    outside = lab.neighbour()
    await lab.networks.create(CreateNetwork(name="n1"))
    await lab.networks.create(CreateNetwork(name="inner", internal=True))
    no_icc = {"com.docker.network.bridge.enable_icc": "false"}
    await lab.networks.create(CreateNetwork(name="silent", options=no_icc))
    boxes = {}
    addresses = {}
    for name, mode in (("b1", ""), ("b2", ""), ("n1", "n1"), ("i1", "inner"), ("i2", "inner"),
                       ("s1", "silent"), ("s2", "silent")):  # fmt: skip
        container, boxes[name] = await lab.run(mode, name=name)
        networks = lab.networks.settings(container.id)["Networks"]
        addresses[name] = next(iter(networks.values()))["IPAddress"]
    reach = [
        ("b1", "b2", True), ("b1", "n1", False), ("n1", "b1", False), ("i1", "i2", True), ("i1", "b1", False),
        ("b1", "i1", False), ("s1", "s2", False),
    ]  # fmt: skip
    for source, target, expected in reach:
        assert await ping(boxes[source], addresses[target], expected) is expected, (source, target)
    assert await ping(boxes["b1"], "10.201.7.2")
    assert await ping(boxes["s1"], "10.201.7.2")
    assert not await ping(boxes["i1"], "10.201.7.2", False)
    assert not await ping(outside, addresses["b1"], False), "only published ports are reached from outside"


@in_lab()
async def test_outgoing_connections_have_the_hosts_address(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "out")
    _c, box = await lab.run()
    assert await aask(box, "tcp", "10.201.7.2", 80) == "out 10.201.7.1 hello"
    await lab.networks.create(
        CreateNetwork(name="plain", options={"com.docker.network.bridge.enable_ip_masquerade": "false"})
    )
    _d, other = await lab.run("plain")
    assert (await aask(other, "tcp", "10.201.7.2", 80)).startswith("out 172.")


@in_lab(default_gateway="10.201.6.200", host_gateway_ips=("192.0.2.1", "2001:db8::1"),
        default_network_opts={"bridge": {"com.docker.network.driver.mtu": "1400", "sampan.egress": "none"}})  # fmt: skip
async def test_what_the_engine_is_told_of_networks(lab: Lab) -> None:
    def shown(box: Box, *what: str) -> str:
        return subprocess.run(box.command("ip", *what), capture_output=True, text=True).stdout

    plain = lab.container(extra_hosts=["here:host-gateway"])
    box, prepared = await lab.start(plain)
    assert "default via 10.201.6.200" in shown(box, "route"), "a router beside the bridge"
    assert "10.201.6.1/24" in subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True).stdout
    assert "192.0.2.1\there\n2001:db8::1\there\n" in prepared.hosts
    own = {"com.docker.network.driver.mtu": "1300"}
    for name, options in (("n1", {}), ("n2", own)):
        await lab.networks.create(CreateNetwork(name=name, options=options))
    assert lab.networks.get("n1").options["sampan.egress"] == "none"
    for name, mtu in (("n1", 1400), ("n2", 1300)):
        _c, box = await lab.run(name)
        assert f"mtu {mtu} " in shown(box, "link", "show", "eth0")


@pytest.mark.parametrize(
    ("told", "first"),
    [
        ({"fixed_cidr_v6": "fd00:66::/64"}, "fd00:66::2"),
        ({"bip6": "fd00:66::9/64", "fixed_cidr_v6": "fd00:66::100/120"}, "fd00:66::100"),
        ({}, "fd"),
    ],
)
def test_ipv6_on_the_default_network(told: dict[str, str], first: str) -> None:
    @in_lab(ipv6=True, **told)
    async def check(lab: Lab) -> None:
        outside = lab.neighbour("fd00:77::2/64", "fd00:77::1/64")
        outside.app(ECHO, "tcp", "::", "80", "out")
        web, server = await lab.run(ports={"80/tcp": "8080"})
        server.app(ECHO, "tcp", "::", "80", "web")
        place = lab.networks.settings(web.id)["Networks"]["bridge"]
        assert place["GlobalIPv6Address"].startswith(first) and place["IPAddress"] == "10.201.6.2"
        assert await aask(outside, "tcp", "fd00:77::1", 8080) == "web fd00:77::2 hello", "the asker's address"
        assert (await aask(server, "tcp", "fd00:77::2", 80)).startswith("out fd00:77::1")
        lab.crash()
        lab.begin()
        await lab.open()
        await lab.networks.restore({web.id: server.pid})
        assert lab.networks.settings(web.id)["Networks"]["bridge"] == place, "the same after a restart"
        assert (await aask(outside, "tcp", "fd00:77::1", 8080)).startswith("web")

    check()


@in_lab()
async def test_none_and_host(lab: Lab) -> None:
    _none, box = await lab.run("none")
    shown = subprocess.run(box.command("ip", "-br", "addr"), capture_output=True, text=True).stdout
    assert shown.split()[:3] == ["lo", "UNKNOWN", "127.0.0.1/8"] and "eth" not in shown
    hosted = lab.container("host")
    _box, prepared = await lab.start(hosted)
    assert prepared.hosts.startswith(open("/etc/hosts").read())
    assert lab.networks.settings(hosted.id)["Networks"]["host"]["EndpointID"]
    assert lab.events.names() == ["connect none", "connect host"]


@in_lab(bridge="smpfA", bip="10.201.8.1/24")
async def test_two_engines_side_by_side(lab: Lab) -> None:
    second = await Lab(bridge="smpfB", bip="10.201.9.1/24").open()
    try:
        await lab.web()
        _c, box = await second.run()
        assert not await ping(box, "10.201.8.2", False), "bridges of two engines are apart, too"
        assert (await aask(box, "tcp", "10.201.9.1", 8080)).startswith("web")
        with pytest.raises(errors.SystemFailure, match="address already in use"):
            await second.run(ports={"80/tcp": "8080"})
    finally:
        await second.close()
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")


@in_lab()
async def test_ipv6(lab: Lab) -> None:
    outside = lab.neighbour("fd00:77::2/64", "fd00:77::1/64")
    await lab.networks.create(CreateNetwork(name="six", enable_ipv6=True))
    web, server = await lab.run("six", name="web", ports={"80/tcp": "8080"})
    _two, client = await lab.run("six", name="two")
    place = lab.networks.settings(web.id)["Networks"]["six"]
    assert place["GlobalIPv6Address"].startswith("fd") and place["GlobalIPv6PrefixLen"] == 64
    server.app(ECHO, "tcp", "::", "80", "web")
    assert await lookup(client, "web", "AAAA") == f"NOERROR {place['GlobalIPv6Address']}"
    assert await ping(client, place["GlobalIPv6Address"])
    answer = await aask(outside, "tcp", "fd00:77::1", 8080)
    assert answer == "web fd00:77::2 hello"
    assert (await aask(None, "tcp", "::1", 8080)).startswith("web")
    assert await ping(client, "fd00:77::2")
    assert not await ping(outside, place["GlobalIPv6Address"], False)


def _supported(kind: str) -> bool:
    name = "smpfprobe"
    with Netlink() as route:
        try:
            route.send(rt.add_bridge("smpfpb"))
            lower = rt.find_link(route, "smpfpb")
            assert lower is not None
            if kind == "macvlan":
                route.send(rt.add_macvlan(name, lower.index, "bridge", netns=None))
            else:
                route.send(rt.add_ipvlan(name, lower.index, "l2", "bridge", netns=None))
        except OSError:
            return False
        finally:
            found = rt.find_link(route, "smpfpb")
            if found is not None:
                route.send(rt.delete_link(found.index))
    return True


@pytest.mark.parametrize("driver", ["macvlan", "ipvlan"])
def test_lan_drivers(driver: str) -> None:
    if not _supported(driver):
        pytest.skip(f"the kernel has no {driver}")

    @in_lab()
    async def check(lab: Lab) -> None:
        outside = lab.neighbour()

        ipam = IPAM(
            config=[IPAMConfig(subnet="10.201.7.0/24", gateway="10.201.7.254", ip_range="10.201.7.64/28")]
        )
        await lab.networks.create(
            CreateNetwork(name="lan", driver=driver, options={"parent": "smpfw1"}, ipam=ipam)
        )
        _one, first = await lab.run("lan", name="one", networks={"lan": EndpointSettings()})
        _two, second = await lab.run("lan", name="two")
        assert await ping(first, "10.201.7.65") and await ping(second, "10.201.7.64")
        assert await ping(outside, "10.201.7.64")

    check()


def test_boxes_end() -> None:
    box = Box()
    box.end()
    assert box.process.returncode is not None
