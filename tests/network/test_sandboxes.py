"""Containers on networks, on a real kernel: addresses, published ports, names, isolation, what remains."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from sampan import errors
from sampan.engine.networks import CreateNetwork
from sampan.engine.networks.create import IPAM, IPAMConfig
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from sampan.runtime.config import EndpointIPAMConfig, EndpointSettings
from tests.network.lab import ECHO, Box, Lab, aask, lookup, ping

pytestmark = pytest.mark.usefixtures("machine")


def in_lab(**config: Any) -> Callable[[Callable[[Lab], Awaitable[None]]], Callable[[], None]]:
    """Run an async test in a lab, and see that nothing is left after it."""

    def decorate(test: Callable[[Lab], Awaitable[None]]) -> Callable[[], None]:
        async def whole() -> None:
            lab = Lab(**config)
            try:
                await lab.open()
                await test(lab)
            finally:
                await lab.close()
            await left_nothing()

        def run() -> None:
            asyncio.run(asyncio.wait_for(whole(), 60))

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate


async def left_nothing() -> None:
    """No link, table, listening port or changed sysctl is left (namespaces take a moment to go)."""
    for _ in range(100):
        with Netlink() as route:
            links = {link.name for link in rt.list_links(route)} - {"lo"}
        if not links:
            break
        await asyncio.sleep(0.02)
    assert not links
    assert subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout == ""
    for _ in range(100):
        listening = subprocess.run(["ss", "-Hltun"], capture_output=True, text=True).stdout
        if not listening:
            break
        await asyncio.sleep(0.02)
    assert not listening
    assert open("/proc/sys/net/ipv4/ip_forward").read().strip() == "0"


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


@pytest.mark.parametrize("short_cut", [True, False])
def test_published_port_from_everywhere(short_cut: bool) -> None:
    @in_lab()
    async def check(lab: Lab) -> None:
        lab.networks.ground.firewall.set_short_cut(short_cut)
        outside = lab.neighbour()
        _web, server = await lab.run(ports={"80/tcp": "8080", "53/udp": "5353"})
        _other, client = await lab.run()
        server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
        server.app(ECHO, "udp", "0.0.0.0", "53", "dns")
        for kind, port, word in (("tcp", 8080, "web"), ("udp", 5353, "dns")):
            for where, host in ((None, "127.0.0.1"), (None, "10.201.6.1"), (client, "10.201.6.1"),
                                (server, "10.201.6.1"), (outside, "10.201.7.1")):  # fmt: skip
                answer = await aask(where, kind, host, port)
                assert answer.startswith(word) and answer.endswith("hello"), (kind, host, answer)
        seen = (await aask(outside, "tcp", "10.201.7.1", 8080)).split()[1]
        assert seen == ("10.201.7.2" if short_cut else "10.201.6.1"), "the source address"
        assert (await aask(None, "tcp", "::1", 8080)).startswith("web")

    check()


@in_lab()
async def test_loopback_only_app_is_reached_and_nothing_else(lab: Lab) -> None:
    outside = lab.neighbour()
    _web, server = await lab.run(ports={"5000/tcp": "8080", "5001/tcp": "8081"})
    server.app(ECHO, "tcp", "127.0.0.1", "5000", "loop")
    server.app(ECHO, "tcp", "127.0.0.1", "6000", "private")
    server.app(ECHO, "tcp", "0.0.0.0", "5001", "all")
    for where, host in ((None, "127.0.0.1"), (None, "10.201.6.1"), (outside, "10.201.7.1")):
        assert (await aask(where, "tcp", host, 8080)).startswith("loop"), host
        assert (await aask(where, "tcp", host, 8081)).startswith("all"), host
    lab.networks.ground.firewall.set_short_cut(False)
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("loop")
    assert (await aask(None, "tcp", "10.201.6.2", 6000)).startswith("ERROR")


@in_lab()
async def test_udp_apps_on_a_loopback_are_reached_over_both_ip_versions(lab: Lab) -> None:
    outside = lab.neighbour("fd00:77::2/64", "fd00:77::1/64")
    await lab.networks.create(CreateNetwork(name="six", enable_ipv6=True))
    ports = {f"{number}/udp": str(number) for number in range(5001, 5006)}
    _web, server = await lab.run("six", ports=ports)
    server.app(ECHO, "udp", "::1", "5001", "six")
    server.app(ECHO, "udp", "127.0.0.1", "5002", "four")
    server.app(ECHO, "udp", "0.0.0.0", "5003", "all")
    server.app(ECHO, "udp", "::1", "6000", "private")
    places = ((None, "127.0.0.1"), (None, "10.201.6.1"), (None, "::1"), (outside, "fd00:77::1"))
    for where, host in places:
        assert await aask(where, "udp", host, 5001) == "six ::1 hello", host
        assert (await aask(where, "udp", host, 5002)).startswith("four"), host
        if host != "::1":  # which the listener answers: as in Docker it says nothing
            assert "ConnectionRefused" in await aask(where, "udp", host, 5004), "as the kernel would answer"
    seen = (await aask(None, "udp", "10.201.6.1", 5003)).split()[1]
    assert seen not in ("::1", "127.0.0.1"), "an app that is heard is asked by the asker itself"
    large = "x" * 1500  # fragments, and back
    assert await aask(None, "udp", "10.201.6.1", 5001, large) == f"six ::1 {large}"
    own = (await asyncio.to_thread(server.python, OWN)).stdout.split()
    for address in own:
        assert (await aask(None, "udp", address, 6000)).startswith("ERROR"), "it wasn't published"


OWN = """
import subprocess
out = subprocess.run(["ip", "-o", "addr", "show", "dev", "eth0", "scope", "global"], capture_output=True, text=True)
print(*(line.split()[3].split("/")[0] for line in out.stdout.splitlines()))
"""


@in_lab()
async def test_udp_flows_are_not_bound_to_the_relay(lab: Lab) -> None:
    _web, server = await lab.run(ports={"5000/udp": "8080"})
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(2)
        asker.connect(("10.201.6.1", 8080))

        def ask() -> str:
            asker.send(b"x")
            return asker.recv(100).decode()

        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(ask)
        server.app(ECHO, "udp", "::1", "5000", "first")
        await asyncio.sleep(0.3)
        assert await asyncio.to_thread(ask) == "first ::1 x"
        there = lab.networks.switchboard.pid
        assert there not in (0, os.getpid())
        os.kill(there, signal.SIGKILL)
        answer = ""
        for _ in range(100):  # a new switchboard gets new sockets, and the rules lead to them
            await asyncio.sleep(0.05)
            with contextlib.suppress(OSError):
                answer = await asyncio.to_thread(ask)
                break
        assert answer == "first ::1 x"
        server.apps.pop().kill()
        server.app(ECHO, "udp", "0.0.0.0", "5000", "second")
        seen = (await asyncio.to_thread(ask)).split()
        assert seen[0] == "second" and seen[1].startswith("10.201.6."), (
            "same flow, and the asker's own address"
        )


@in_lab()
async def test_port_on_127_0_0_1_stays_there(lab: Lab) -> None:
    outside = lab.neighbour()
    _web, server = await lab.run(ports={"80/tcp": [("127.0.0.1", "8080")]})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("ERROR")
    # A neighbour that sends packets for 127.0.0.1 to us.
    subprocess.run(outside.command("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"), check=True)
    subprocess.run(outside.command("ip", "addr", "del", "127.0.0.1/8", "dev", "lo"))
    subprocess.run(
        outside.command("ip", "route", "add", "127.0.0.1/32", "via", "10.201.7.1", "src", "10.201.7.2"),
        check=True,
    )
    assert (await aask(outside, "tcp", "127.0.0.1", 8080)).startswith("ERROR")


@in_lab()
async def test_host_loopback_is_closed_to_containers(lab: Lab) -> None:
    _c, box = await lab.run()
    host = subprocess.Popen(
        ["python3", "-c", ECHO, "tcp", "127.0.0.1", "7777", "host"], stdout=subprocess.PIPE
    )
    assert host.stdout is not None and host.stdout.readline()
    try:
        subprocess.run(box.command("ip", "link", "set", "lo", "down"), check=True)
        subprocess.run(box.command("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"), check=True)
        subprocess.run(box.command("ip", "route", "add", "127.0.0.1/32", "via", "10.201.6.1"))
        assert (await aask(box, "tcp", "127.0.0.1", 7777)).startswith("ERROR")
    finally:
        host.kill()
        host.wait()
        host.stdout.close()


@in_lab()
async def test_taken_ports(lab: Lab) -> None:
    first, _box = await lab.run(ports={"80/tcp": "8080"})
    with pytest.raises(errors.SystemFailure) as refused:
        await lab.run(ports={"80/tcp": "8080"}, name="p2")
    assert refused.value.message.startswith(
        "failed to set up container networking: "
        "driver failed programming external connectivity on endpoint p2 ("
    )
    assert refused.value.message.endswith("Bind for 0.0.0.0:8080 failed: port is already allocated")
    other = subprocess.Popen(["python3", "-c", ECHO, "tcp", "127.0.0.1", "5000", "x"], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline()
    try:
        with pytest.raises(errors.SystemFailure) as refused:
            await lab.run(ports={"80/tcp": [("127.0.0.1", "5000")]})
        assert "failed to bind host port 127.0.0.1:5000/tcp: address already in use" in refused.value.message
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with pytest.raises(errors.SystemFailure, match=r"1\.2\.3\.4:8081/tcp: cannot assign requested address"):
        await lab.run(ports={"80/tcp": [("1.2.3.4", "8081")]})
    await lab.stop(first)
    _again, _box = await lab.run(ports={"80/tcp": "8080"})
    pool = lab.networks.catalog.pool(lab.networks.default, 4)
    assert pool is not None and pool.in_use == 4, "a refused start keeps no address"


@in_lab()
async def test_random_ports_and_publish_all(lab: Lab) -> None:
    web, _box = await lab.run(
        ports={"82/tcp": ""}, publish_all_ports=True, config={"exposed_ports": {"90/tcp": {}, "91/udp": {}}}
    )
    shown = lab.networks.settings(web.id)["Ports"]
    numbers = [entry["HostPort"] for key in ("82/tcp", "90/tcp", "91/udp") for entry in shown[key]]
    assert len(numbers) == 6 and len(set(numbers)) == 3
    assert [entry["HostIp"] for entry in shown["82/tcp"]] == ["0.0.0.0", "::"]


@in_lab()
async def test_more_ports_than_select_knows_descriptors(lab: Lab) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4000:
        pytest.skip("needs 4000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        outside = lab.neighbour()
        ports = {f"{number}/tcp": str(number) for number in range(20000, 20600)}
        web, server = await lab.run(ports=ports)
        server.app(ECHO, "tcp", "127.0.0.1", "20599", "many")
        label = {"sampan.egress": "example.org"}
        await lab.run(ports={"80/tcp": [("10.201.7.1", "8080")]}, config={"labels": label})
        for short_cut in (True, False):
            lab.networks.ground.firewall.set_short_cut(short_cut)
            assert (await aask(outside, "tcp", "10.201.7.1", 20599)).startswith("many")
        assert lab.networks.switchboard.pid
        await lab.stop(web)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@in_lab()
async def test_names_on_user_networks(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    await lab.networks.create(CreateNetwork(name="n2"))
    one, first = await lab.run("n1", name="one", networks={"n1": EndpointSettings(aliases=["svc"])})
    two, second = await lab.run("n1", name="two", networks={"n1": EndpointSettings(aliases=["svc"])})
    _three, third = await lab.run("n2", name="three", dns=["192.0.2.1"])
    at = {c.name: lab.networks.settings(c.id)["Networks"]["n1"]["IPAddress"] for c in (one, two)}
    assert await lookup(first, "two") == f"NOERROR {at['two']}"
    assert await lookup(first, "TWO.n1") == f"NOERROR {at['two']}"
    assert await lookup(first, two.id[:12], "A", "tcp") == f"NOERROR {at['two']}"
    assert await lookup(second, "svc") == f"NOERROR {at['one']} {at['two']}"
    assert await lookup(first, "two", "AAAA") == "NOERROR"
    reverse = ".".join(reversed(at["two"].split("."))) + ".in-addr.arpa"
    assert await lookup(first, reverse, "PTR") == "NOERROR two.n1."
    subprocess.run(third.command("ip", "route", "add", "blackhole", "192.0.2.1"), check=True)
    assert await lookup(third, "one") == "SERVFAIL"
    await lab.stop(two)
    assert await lookup(first, "svc") == f"NOERROR {at['one']}"
    assert lab.networks.settings(one.id)["Networks"]["n1"]["DNSNames"] == ["one", "svc", one.id[:12]]


@in_lab()
async def test_own_name_server_of_the_container_can_have_port_53(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    _c, box = await lab.run("n1", name="one")
    box.app(ECHO, "udp", "0.0.0.0", "53", "own")
    assert (await lookup(box, "one")).startswith("NOERROR 172.")


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
        assert await ping(boxes[source], addresses[target]) is expected, (source, target)
    assert await ping(boxes["b1"], "10.201.7.2")
    assert await ping(boxes["s1"], "10.201.7.2")
    assert not await ping(boxes["i1"], "10.201.7.2")
    assert not await ping(outside, addresses["b1"]), "only published ports are reached from outside"


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


@in_lab()
async def test_connect_and_disconnect_while_running(lab: Lab) -> None:
    subnet = IPAM(config=[IPAMConfig(subnet="172.29.60.0/24")])
    await lab.networks.create(CreateNetwork(name="n1"))
    await lab.networks.create(CreateNetwork(name="n2", ipam=subnet))
    web, box = await lab.run(name="web")
    _other, peer = await lab.run("n2", name="other")
    await lab.networks.connect("n1", "web")
    with pytest.raises(errors.Forbidden, match="endpoint with name web already exists in network n1"):
        await lab.networks.connect("n1", "web")
    fixed = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="172.29.60.77"), aliases=["al"])
    await lab.networks.connect("n2", "web", fixed)
    assert await ping(peer, "172.29.60.77")
    assert await lookup(peer, "al") == "NOERROR 172.29.60.77"
    with pytest.raises(errors.Forbidden, match=r"^Address already in use"):
        await lab.networks.connect("n2", (await lab.run(name="late"))[0].name, fixed)
    with pytest.raises(errors.Forbidden, match="network n1 has active endpoints"):
        await lab.networks.remove("n1")
    await lab.networks.disconnect("n1", "web")
    with pytest.raises(errors.SystemFailure, match=f"container {web.id} is not connected to network n1"):
        await lab.networks.disconnect("n1", "web")
    await lab.networks.disconnect("bridge", "web")
    shown = subprocess.run(box.command("ip", "-4", "-o", "addr"), capture_output=True, text=True).stdout
    assert "eth2" in shown and "eth0" not in shown and "eth1" not in shown
    routes = subprocess.run(box.command("ip", "route"), capture_output=True, text=True).stdout
    assert "default via 172.29.60.1 dev eth2" in routes
    assert list(lab.networks.settings(web.id)["Networks"]) == ["n2"]
    assert lab.events.names()[-2:] == ["disconnect n1", "disconnect bridge"]
    await lab.networks.remove("n1")
    with pytest.raises(errors.NotFound, match="network n1 not found"):
        await lab.networks.connect("n1", "web")


@in_lab()
async def test_ports_come_and_go_with_the_network_they_are_reached_from(lab: Lab) -> None:
    outside = lab.neighbour()
    await lab.networks.create(CreateNetwork(name="inner", internal=True))
    await lab.networks.create(CreateNetwork(name="n1"))
    web, server = await lab.run("inner", name="web", ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "127.0.0.1", "80", "web")
    assert "8080" not in subprocess.run(["ss", "-Hltn"], capture_output=True, text=True).stdout
    for network in ("bridge", "n1"):
        await lab.networks.connect(network, "web")
        assert lab.networks.settings(web.id)["Ports"]["80/tcp"][0]["HostPort"] == "8080"
        for short_cut in (True, False):
            lab.networks.ground.firewall.set_short_cut(short_cut)
            assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("web"), network
        assert await lookup(server, "web") != "SERVFAIL"
        await lab.networks.disconnect(network, "web")
        assert "8080" not in subprocess.run(["ss", "-Hltn"], capture_output=True, text=True).stdout
        assert not lab.networks.settings(web.id)["Ports"]
        assert (await lookup(server, "web")).startswith("NOERROR"), "names go on"
    taken = pytest.raises(errors.SystemFailure, match="failed to bind host port")
    with socket.create_server(("0.0.0.0", 8080)), taken:
        await lab.networks.connect("n1", "web")
    assert list(lab.networks.settings(web.id)["Networks"]) == ["inner"]
    await lab.networks.connect("n1", "web")
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("web")


@in_lab()
async def test_a_connect_that_fails_leaves_nothing(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="aaa"))  # it would be the way out
    web, box = await lab.run(name="web", ports={"80/tcp": "8080"})
    box.app(ECHO, "tcp", "0.0.0.0", "80", "web")

    def seen() -> list[str]:
        shown = [subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout.count("\n")]
        for what in (("-o", "link"), ("-4", "-o", "addr"), ("route",)):
            shown.append(subprocess.run(box.command("ip", *what), capture_output=True, text=True).stdout)
        return [*map(str, shown)]

    before = seen()
    missing = {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.nosuch=1"}
    with pytest.raises(errors.SystemFailure, match="open /proc/sys/net/ipv4/conf/eth1/nosuch: no such file"):
        await lab.networks.connect("aaa", "web", EndpointSettings(driver_opts=missing))
    taken = {"com.docker.network.endpoint.ifname": "lo"}
    with pytest.raises(errors.SystemFailure, match="networking: file exists"):
        await lab.networks.connect("aaa", "web", EndpointSettings(driver_opts=taken))
    assert seen() == before
    assert list(lab.networks.settings(web.id)["Networks"]) == ["bridge"]
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web"), "its ports lead where they led"


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
async def test_ipv6_is_switched_on_for_a_bridge_in_use(lab: Lab) -> None:
    web, box = await lab.run()
    lab.crash()
    lab.config = replace(lab.config, ipv6=True)
    lab.begin()
    await lab.open()
    await lab.networks.restore({web.id: box.pid})
    later, _box = await lab.run()
    assert lab.networks.settings(later.id)["Networks"]["bridge"]["GlobalIPv6Address"].startswith("fd")
    assert (await ping(box, "10.201.6.3")) is True


@in_lab()
async def test_gateway_priority(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="a"))
    await lab.networks.create(CreateNetwork(name="b"))
    both = {"a": EndpointSettings(), "b": EndpointSettings(gw_priority=10)}
    container, box = await lab.run("a", networks=both)
    gateway = lab.networks.settings(container.id)["Networks"]["b"]["Gateway"]
    routes = subprocess.run(box.command("ip", "route"), capture_output=True, text=True).stdout
    assert f"default via {gateway} dev eth1" in routes


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


@in_lab()
async def test_engine_killed_and_started_again(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    web, server = await lab.run("n1", name="web", ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    gone, _dead = await lab.run(name="gone", ports={"80/tcp": "8081"})
    # Handed over: what a process has in its queue dies with it, but this test's process goes on.
    await lab.networks.switchboard.ask({"op": "state"})
    lab.crash()
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")
    assert (await lookup(server, "web")).startswith("NOERROR 172."), "answers survive the engine"
    lab.boxes.pop(gone.id).end()
    lab.begin()
    await lab.open()
    await lab.networks.restore({web.id: server.pid})
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")
    assert lab.networks.settings(web.id)["Ports"]["80/tcp"][0] == {"HostIp": "0.0.0.0", "HostPort": "8080"}
    assert (await lookup(server, "web")).startswith("NOERROR 172.")
    with pytest.raises(errors.SystemFailure, match="port is already allocated"):
        await lab.run(ports={"80/tcp": "8080"})
    again, _box = await lab.run(ports={"80/tcp": "8081"})
    place = lab.networks.settings(again.id)["Networks"]["bridge"]
    assert place["IPAddress"] == "10.201.6.2", "the address of the container that ended is free again"


@in_lab()
async def test_switchboard_killed(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    _web, server = await lab.run("n1", name="web", ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    await lab.networks.switchboard.ask({"op": "state"})
    process = lab.networks.switchboard._process
    assert process is not None
    process.kill()
    await asyncio.sleep(0.5)
    lab.networks.ground.firewall.set_short_cut(False)
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")
    assert (await lookup(server, "web")).startswith("NOERROR 172.")


def test_switchboard_that_could_not_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    @in_lab()
    async def check(lab: Lab) -> None:
        await lab.networks.create(CreateNetwork(name="n1"))
        python = sys.executable
        monkeypatch.setattr(sys, "executable", "/nonexistent")  # as while Python itself is being replaced
        _web, server = await lab.run("n1", name="web", ports={"80/tcp": "8080"})
        await asyncio.sleep(0.1)
        monkeypatch.setattr(sys, "executable", python)
        server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
        lab.networks.ground.firewall.set_short_cut(False)
        assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("ERROR")
        for _ in range(100):
            if (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web"):
                break
            await asyncio.sleep(0.05)
        assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web"), "tried again"
        assert (await lookup(server, "web")).startswith("NOERROR 172.")

    check()


@in_lab()
async def test_big_transfer_through_the_listener(lab: Lab) -> None:
    lab.networks.ground.firewall.set_short_cut(False)
    _web, server = await lab.run(ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    code = (
        "import socket,sys,hashlib,os\n"
        "s=socket.create_connection(('127.0.0.1',8080)); d=os.urandom(1<<20)*8; s.sendall(d)\n"
        "s.shutdown(1); r=b''\nwhile c:=s.recv(1<<20): r+=c\n"
        "print(r.endswith(d), len(r))"
    )
    done = await asyncio.to_thread(
        subprocess.run, ["python3", "-c", code], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith("True"), done


@in_lab()
async def test_same_namespace_used_by_another_process_loses_its_links(lab: Lab) -> None:
    container, box = await lab.run()
    stays = subprocess.Popen(box.command("sleep", "30"))
    try:
        await lab.stop(container)
        await asyncio.sleep(2.5)
        with Netlink() as route:
            assert [link.name for link in rt.list_links(route)] == ["lo", "smpf0"]
    finally:
        stays.kill()
        stays.wait()


@in_lab()
async def test_links_that_leave_while_the_engine_ends_or_is_killed(lab: Lab) -> None:
    def links() -> list[str]:
        with Netlink() as route:
            return [link.name for link in rt.list_links(route)]

    for ends in (False, True):
        container, box = await lab.run()
        stays = subprocess.Popen(box.command("sleep", "30"))
        try:
            await lab.stop(container)
            assert len(links()) == 3
            if ends:
                await lab.networks.close()
                assert links() == ["lo"]
                lab.db.close()
            else:
                lab.networks.sandboxes._leaving.clear()  # what it would have done in two seconds
                lab.crash()
            lab.begin()
            await lab.open()
            await lab.networks.restore({})
            await asyncio.sleep(0 if ends else 2.5)
            assert links() == ["lo", "smpf0"]
        finally:
            stays.kill()
            stays.wait()


@in_lab()
async def test_a_shared_namespace_goes_with_no_network_options(lab: Lab) -> None:
    srv, _box = await lab.run(name="srv")
    mode = "container:srv"
    shared = {"hostname": srv.config.hostname}

    def check(*, config: dict[str, Any] | None = None, **host: Any) -> None:
        ports = host.pop("ports", None)
        container = lab.container(mode, ports=ports, **host)
        container.config.hostname = shared["hostname"]
        for name, value in (config or {}).items():
            setattr(container.config, name, value)
        lab.networks.check(container.config, container.host, None)

    check()
    for options, words in (
        ({"config": {"hostname": "x"}}, "hostname and the network mode"),
        ({"dns": ["1.1.1.1"]}, "dns and the network mode"),
        ({"extra_hosts": ["a:1.1.1.1"]}, "custom host-to-IP mapping and the network mode"),
        ({"ports": {"80/tcp": "80"}}, "port publishing and the container type network mode"),
    ):
        with pytest.raises(errors.InvalidParameter, match=f"^conflicting options: {words}$"):
            check(**options)
    with pytest.raises(errors.InvalidParameter, match="invalid container format container:<name"):
        mode = "container:"
        check()
    hosted = lab.container("host", ports={"80/tcp": "8083"})
    warnings = lab.networks.check(hosted.config, hosted.host, None)
    assert warnings == ["Published ports are discarded when using host network mode"]


@in_lab()
async def test_settings_refused_at_create_and_start(lab: Lab) -> None:
    wanted = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.0.0.1"))
    from sampan.runtime.config import NetworkingConfig

    container = lab.container()
    with pytest.raises(
        errors.InvalidParameter,
        match=r"^invalid config for network bridge: invalid endpoint settings:\nuser-specified IP address is",
    ):
        lab.networks.check(
            container.config, container.host, NetworkingConfig(endpoints_config={"bridge": wanted})
        )
    with pytest.raises(
        errors.NotFound, match=r"^failed to set up container networking: network nosuch not found"
    ):
        await lab.run("nosuch")
    both = {"host": EndpointSettings(), "none": EndpointSettings()}
    with pytest.raises(errors.InvalidParameter, match="container sharing network namespace with another"):
        await lab.run("host", networks=both)


@in_lab()
async def test_link_on_the_default_bridge(lab: Lab) -> None:
    db, _box = await lab.run(name="db")
    user = lab.container(name="lk")
    user.links = {"database": db.id}
    _box, prepared = await lab.start(user)
    assert f"10.201.6.2\tdatabase {db.id[:12]} db\n10.201.6.3\t" in prepared.hosts


@in_lab()
async def test_link_on_a_user_network(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    _db, _box = await lab.run("n1", name="db")
    _user, box = await lab.run("n1", networks={"n1": EndpointSettings(links=["db:database"])})
    _other, stranger = await lab.run("n1", dns=["127.0.0.1"])
    assert (await lookup(box, "database")).startswith("NOERROR 172.")
    assert await lookup(stranger, "database") == "SERVFAIL"


@in_lab(bridge="smpfA", bip="10.201.8.1/24")
async def test_two_engines_side_by_side(lab: Lab) -> None:
    second = await Lab(bridge="smpfB", bip="10.201.9.1/24").open()
    try:
        _web, server = await lab.run(ports={"80/tcp": "8080"})
        server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
        _c, box = await second.run()
        assert not await ping(box, "10.201.8.2"), "bridges of two engines are apart, too"
        assert (await aask(box, "tcp", "10.201.9.1", 8080)).startswith("web")
        with pytest.raises(errors.SystemFailure, match="address already in use"):
            await second.run(ports={"80/tcp": "8080"})
    finally:
        await second.close()
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")


@in_lab()
async def test_connections_refused(lab: Lab) -> None:
    subnet = IPAM(config=[IPAMConfig(subnet="172.29.60.0/24")])
    await lab.networks.create(CreateNetwork(name="n2", ipam=subnet))
    web, _box = await lab.run(name="web")
    stopped = lab.container(name="stopped")
    await lab.run("host", name="hostc")
    await lab.run("none", name="nonec")
    given = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.0.0.1"))
    private = "container cannot be connected to multiple networks with one of the networks in private"
    shared = "container sharing network namespace with another container or host cannot be connected"
    for network, who, settings, words in (
        ("host", "web", None, "cannot connect container to host network - container must be created in host"),
        ("none", "web", None, private),
        ("n2", "nonec", None, private),
        ("n2", "hostc", None, shared),
        ("n2", "web", given, "invalid endpoint settings:\nno configured subnet contains IP address 10.0.0.1"),
        ("bridge", "stopped", given, "invalid endpoint settings:\nuser-specified IP address is supported on"),
    ):
        with pytest.raises(errors.InvalidParameter) as refused:
            await lab.networks.connect(network, who, settings)
        assert refused.value.message.startswith(words)
    with pytest.raises(errors.InvalidParameter, match="cannot disconnect container from host network"):
        await lab.networks.disconnect("host", "hostc")
    with pytest.raises(errors.NotFound, match=r"^No such container: nosuch$"):
        await lab.networks.connect("n2", "nosuch")
    with pytest.raises(errors.NotFound, match=r"^endpoint nosuch not found$"):
        await lab.networks.disconnect("n2", "nosuch", force=True)
    await lab.networks.connect("n2", "stopped")
    assert list(stopped.networks) == ["bridge", "n2"]
    await lab.networks.disconnect("n2", "stopped")
    assert list(stopped.networks) == ["bridge"]
    assert list(lab.networks.settings(web.id)["Networks"]) == ["bridge"]


@in_lab()
async def test_killed_between_prepare_and_attach(lab: Lab) -> None:
    container = lab.container(ports={"80/tcp": "8080"})
    from sampan.engine.networks import SandboxRequest

    await lab.networks.prepare(SandboxRequest.of(container))
    lab.crash()
    for held in lab.networks.publishing.take(container.id):
        held.socket.close()  # the kernel does that for a killed process
    lab.begin()
    await lab.open()
    await lab.networks.restore({})
    assert lab.networks.sandboxes.get(container.id) is None
    again, _box = await lab.run(ports={"80/tcp": "8080"})
    assert lab.networks.settings(again.id)["Networks"]["bridge"]["IPAddress"] == "10.201.6.2"


@in_lab()
async def test_links_of_a_crashed_engine_are_found(lab: Lab) -> None:
    network = await lab.networks.create(CreateNetwork(name="n1"))
    lab.networks.store.delete_network(network.id)  # as if killed before the row was written
    lab.crash()
    lab.begin()
    await lab.open()
    with Netlink() as route:
        assert rt.find_link(route, network.device) is None
        assert rt.find_link(route, "smpf0") is not None


@in_lab(bip="10.201.6.1/29")
async def test_exhausted_pool(lab: Lab) -> None:
    started = [(await lab.run())[0] for _ in range(5)]
    with pytest.raises(
        errors.SystemFailure, match="no available IPv4 addresses on this network's address pools"
    ):
        await lab.run()
    await lab.stop(started[2])
    await lab.run()


SCTP_SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
s.bind(("0.0.0.0", 9))
s.listen(4)
print("ready", flush=True)
while True:
    c, peer = s.accept()
    c.sendall(b"sctp " + peer[0].encode() + b" " + c.recv(100))
"""
SCTP_CLIENT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)
s.settimeout(3)
s.connect((sys.argv[1], 3868))
s.sendall(b"hello")
print(s.recv(100).decode())
"""


def _has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_sctp(), reason="the kernel has no SCTP (its module is loaded by modprobe sctp)")
@in_lab()
async def test_sctp_port(lab: Lab) -> None:
    outside = lab.neighbour()
    _c, server = await lab.run(ports={"9/sctp": "3868"})
    server.app(SCTP_SERVER)
    done = await asyncio.to_thread(outside.python, SCTP_CLIENT, "10.201.7.1")
    assert done.stdout.strip() == "sctp 10.201.7.2 hello", done.stderr
    with pytest.raises(errors.SystemFailure, match="port is already allocated"):
        await lab.run(ports={"9/sctp": "3868"})


@in_lab()
async def test_sctp_without_the_kernels_module_is_said(lab: Lab) -> None:
    if _has_sctp():
        pytest.skip("the kernel has SCTP")
    with pytest.raises(
        errors.SystemFailure, match=r"failed to bind host port 0.0.0.0:3868/sctp: protocol not"
    ):
        await lab.run(ports={"9/sctp": "3868"})
