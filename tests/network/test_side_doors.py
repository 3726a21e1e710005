"""Ways around isolation and egress control that somebody inside, or on the wire, might try."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan import errors
from sampan.engine.networks import CreateNetwork
from sampan.runtime.config import EndpointIPAMConfig, EndpointSettings, NetworkingConfig
from tests.network.lab import (
    DNS,
    ECHO,
    PATIENCE,
    SHUT,
    Box,
    Lab,
    aask,
    host_app,
    in_lab,
    lookup,
    nft,
    ruleset,
    send_loopback_here,
    soon,
)

pytestmark = pytest.mark.usefixtures("machine")
FIXED = {"one": EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="172.29.61.9"))}
CONNECT = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 7009), timeout=float(sys.argv[2]))
    print("open")
except OSError as e:
    print("ERROR", e)
"""
SENDS = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    try:
        s.sendto(b"x", ("10.201.6.1", 7009))
    except OSError:
        pass
    time.sleep(0.01)
"""
FROM_ONE_PORT = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 4444))
s.settimeout(float(sys.argv[1]))
try:
    for _ in range(2):
        s.sendto(b"x", ("10.201.7.2", 80))
        print(s.recv(100).decode(), flush=True)
except OSError as e:
    print("ERROR", e)
"""


def controlled(rules: str) -> dict[str, Any]:
    return {"labels": {"sampan.egress": rules}}


async def make_network(lab: Lab, **more: Any) -> None:
    request = {"Name": "one", "IPAM": {"Config": [{"Subnet": "172.29.61.0/24"}]}, **more}
    await lab.networks.create(msgspec.convert(request, CreateNetwork))


@in_lab()
async def test_link_local_addresses_open_nothing(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="six", enable_ipv6=True))
    _c, shut = await lab.run("six", config=controlled("none"))
    _c, free = await lab.run("six")
    bridge = lab.networks.get("six").device
    command = ["ip", "-6", "-o", "addr", "show", "dev", bridge, "scope", "link", "-tentative"]

    def shown() -> list[str]:
        return subprocess.run(command, capture_output=True, text=True).stdout.split()

    assert await soon(shown)
    host = f"{shown()[3].partition('/')[0]}%eth0"
    with host_app("::", 7009):
        for box, opens in ((free, True), (shut, False)):
            tried = await asyncio.to_thread(box.python, CONNECT, host, str(PATIENCE if opens else 4))
            assert tried.stdout.startswith("open") is opens, tried


@in_lab()
async def test_an_address_brings_nothing_from_its_last_owner(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(DNS, "10.201.7.2")
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "tcp")
    outside.app(ECHO, "udp", "0.0.0.0", "80", "udp")
    await make_network(lab)
    first, box = await lab.run("one", networks=FIXED, config=controlled("good.example"), dns=["10.201.7.2"])
    assert await lookup(box, "good.example") == "NOERROR 10.201.7.2"
    assert (await aask(box, "tcp", "10.201.7.2", 80)).startswith("tcp")
    await lab.stop(first)
    free, box = await lab.run("one", networks=FIXED)
    assert box.python(FROM_ONE_PORT, str(PATIENCE)).stdout.count("udp") == 2
    await lab.stop(free)
    _c, box = await lab.run("one", networks=FIXED, config=controlled("none"))
    assert (await aask(box, "tcp", "10.201.7.2", 80, seconds=0.5)).startswith("ERROR"), "a name opened it"
    assert box.python(FROM_ONE_PORT, "1").stdout.startswith("ERROR"), "a flow that was under way"


@in_lab()
async def test_rules_that_end_take_along_what_they_opened(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(DNS, "10.201.7.2")
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "tcp")
    outside.app(ECHO, "udp", "0.0.0.0", "80", "udp")
    options = {"sampan.egress": "good.example"}
    await make_network(lab, Options=options)
    container, box = await lab.run(config=controlled("other.example"), dns=["10.201.7.2"])
    await lab.networks.connect("one", container.name)
    assert await lookup(box, "good.example") == "NOERROR 10.201.7.2"
    assert box.python(FROM_ONE_PORT, str(PATIENCE)).stdout.count("udp") == 2
    await lab.networks.disconnect("one", container.name)
    assert (await aask(box, "tcp", "10.201.7.2", 80, seconds=0.5)).startswith("ERROR")
    assert box.python(FROM_ONE_PORT, "1").stdout.startswith("ERROR")


@in_lab()
async def test_control_that_begins_ends_what_was_under_way(lab: Lab) -> None:
    lab.neighbour().app(ECHO, "udp", "0.0.0.0", "80", "udp")
    await make_network(lab, Labels={"sampan.egress": "none"})
    container, box = await lab.run()
    assert box.python(FROM_ONE_PORT, str(PATIENCE)).stdout.count("udp") == 2
    await lab.networks.connect("one", container.name)
    assert box.python(FROM_ONE_PORT, "1").stdout.startswith("ERROR")


@in_lab()
async def test_what_a_controlled_container_leaves_behind_sends_nothing(lab: Lab) -> None:
    def leavings() -> str:
        ports = subprocess.run(
            ["ip", "-o", "link", "show", "master", "smpf0"], capture_output=True, text=True
        )
        return ports.stdout + "".join(line for line in ruleset().splitlines() if "device" in line)

    async def arrives(seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            return bool(await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 10), seconds))
        return False

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("10.201.6.1", 7009))
        container, box = await lab.run(config=controlled("10.201.6.1:7009/udp"))
        # As packets that wait for an ARP answer do, this keeps the namespace when the container has ended.
        with subprocess.Popen(box.command(sys.executable, "-c", SENDS)) as stays:
            try:
                assert await arrives(PATIENCE)
                await lab.stop(container)
                await asyncio.sleep(0.1)
                with contextlib.suppress(BlockingIOError):
                    for _ in range(10000):
                        sock.recv(10)  # what came before
                assert not await arrives(0.5)
                assert await soon(lambda: not leavings())
            finally:
                stays.kill()


@in_lab()
async def test_link_local_addresses_go_with_no_rules(lab: Lab) -> None:
    inner = EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["169.254.9.9"]))
    wrong = "link-local addresses and egress control"
    asked = lab.container("bridge", config=controlled("none"), networks={"bridge": inner})
    with pytest.raises(errors.InvalidParameter, match=wrong):
        lab.networks.check(asked.config, asked.host, NetworkingConfig(endpoints_config={"bridge": inner}))
    with pytest.raises(errors.InvalidParameter, match=wrong):
        await lab.start(asked)
    await make_network(lab, Options={"sampan.egress": "none"})
    await lab.networks.create(CreateNetwork(name="two"))
    free, _box = await lab.run("two", networks={"two": inner})
    with pytest.raises(errors.InvalidParameter, match=wrong):
        await lab.networks.connect("one", free.name)
    shut, _box = await lab.run(config=controlled("none"))
    with pytest.raises(errors.InvalidParameter, match=wrong):
        await lab.networks.connect("two", shut.name, inner)
    again, _box = await lab.run("one", networks=FIXED)
    assert lab.networks.settings(again.id)["Networks"]["one"]["IPAddress"] == "172.29.61.9"


@in_lab()
async def test_rules_in_a_namespace_of_somebody_else_are_refused(lab: Lab) -> None:
    web, _box = await lab.run()
    joining = lab.container(f"container:{web.name}", config=controlled("none"))
    joining.config.hostname = web.config.hostname
    with pytest.raises(errors.InvalidParameter, match="egress rules and the container type network mode"):
        lab.networks.check(joining.config, joining.host, None)


@in_lab()
async def test_ports_on_127_0_0_1_where_the_host_takes_such_packets_from_the_wire(lab: Lab) -> None:
    outside = lab.neighbour()
    web, server = await lab.run(ports={"80/tcp": [("127.0.0.1", "8080")]})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    send_loopback_here(outside)
    Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("1")  # kube-proxy does that
    with host_app("127.0.0.1", 7777):
        assert (await aask(outside, "tcp", "127.0.0.1", 7777)).startswith("host"), "the host's own business"
        for short_cut in (True, False):
            lab.networks.ground.firewall.set_short_cut(short_cut)
            assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")
            assert (await aask(outside, "tcp", "127.0.0.1", 8080, seconds=0.5)).startswith("ERROR")
        await lab.stop(web)
        assert "8080" not in subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout


@in_lab()
async def test_internal_networks_reach_no_other_ones_by_published_ports(lab: Lab) -> None:
    outside = lab.neighbour()
    await lab.networks.create(CreateNetwork(name="inner", internal=True))
    _c, box = await lab.run("inner")
    gateway = lab.networks.get("inner").subnets[0].gateway
    two = {"80/tcp": [("0.0.0.0", "8080"), ("10.201.7.1", "8081")], "80/udp": "8080"}
    _web, server = await lab.run(ports=two)
    again, _server = await lab.run(ports={"80/tcp": [("127.0.0.1", "8081")]})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    server.app(ECHO, "udp", "0.0.0.0", "80", "web")
    await lab.stop(again)
    for short_cut in (True, False):
        if not short_cut:
            nft(
                "table inet admin {\n chain in {\n type filter hook input priority 0;\n tcp dport 9 drop\n}\n}\n"
            )
            assert await soon(lambda: not lab.networks.ground.firewall.short_cut)
        for kind, port in (("tcp", 8080), ("udp", 8080), ("tcp", 8081)):
            assert (await aask(outside, kind, "10.201.7.1", port)).startswith("web")
            asked = gateway if port == 8080 else "10.201.7.1"
            assert (await aask(box, kind, asked, port, seconds=0.5)).startswith("ERROR"), (short_cut, port)
    nft("delete table inet admin")


@in_lab()
async def test_the_next_server_is_asked_where_one_fails(lab: Lab) -> None:
    outside = lab.neighbour()
    subprocess.run(outside.command("ip", "addr", "add", "10.201.7.3/24", "dev", "eth0"), check=True)
    failing = DNS.replace("if q.q.qtype == 1:", "r.header.rcode = int(sys.argv[2])\n    if 0:")
    outside.app(DNS, "10.201.7.2")
    outside.app(failing, "10.201.7.3", "2")
    await lab.networks.create(CreateNetwork(name="n1"))
    _c, box = await lab.run("n1", dns=["10.201.7.3", "10.201.7.2"])
    assert await lookup(box, "elsewhere.example") == "NOERROR 10.201.7.2"
    _c, box = await lab.run("n1", dns=["10.201.7.3"])
    assert await lookup(box, "elsewhere.example") == "SERVFAIL"


@in_lab()
async def test_egress_rules_are_about_the_address_that_is_asked(lab: Lab) -> None:
    ports = {"80/tcp": "8080", "80/udp": "8080"}
    web, server = await lab.run(ports=ports)
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    server.app(ECHO, "udp", "0.0.0.0", "80", "web")
    lab.neighbour()
    await make_network(lab)
    _c, box = await lab.run("one", config=controlled("10.201.7.1:8080,10.201.7.1:8080/udp"))
    own = lab.networks.settings(web.id)["Networks"]["bridge"]["IPAddress"]
    _c, other = await lab.run("one", config=controlled(f"{own}"))
    for short_cut in (True, False):
        lab.networks.ground.firewall.set_short_cut(short_cut)
        for kind in ("tcp", "udp"):
            assert (await aask(box, kind, "10.201.7.1", 8080)).startswith("web")
            assert (await aask(box, kind, "172.29.61.1", 8080, seconds=SHUT)).startswith("ERROR"), (
                "not this one"
            )
            assert (await aask(other, kind, "10.201.7.1", 8080, seconds=SHUT)).startswith("ERROR"), (
                "nor by way of the host"
            )
        assert "refused" in await aask(box, "tcp", "172.29.61.1", 8080), "not a matter of waiting"


@in_lab()
async def test_the_listener_answers_from_the_address_that_was_asked(lab: Lab) -> None:
    four, six = lab.neighbour(), lab.neighbour("fd00:77::2/64", "fd00:77::1/64")
    subprocess.run(["ip", "addr", "add", "10.201.7.9/24", "dev", "smpfw1"], check=True)
    subprocess.run(["ip", "addr", "add", "fd00:77::9/64", "dev", "smpfw2", "nodad"], check=True)
    _web, server = await lab.run(ports={"80/udp": "8080"})
    server.app(ECHO, "udp", "0.0.0.0", "80", "web")
    lab.networks.ground.firewall.set_short_cut(False)
    for outside, host in (
        (four, "10.201.7.1"), (four, "10.201.7.9"), (six, "fd00:77::1"), (six, "fd00:77::9"), (None, "127.0.0.1"),
    ):  # fmt: skip
        assert (await aask(outside, "udp", host, 8080)).startswith("web"), host


@pytest.mark.parametrize("whole", [True, False])
def test_direct_routing_is_for_published_ports_where_it_is_wanted(whole: bool) -> None:
    @in_lab(allow_direct_routing=whole)
    async def check(lab: Lab) -> None:
        near, far = lab.neighbour(), lab.neighbour("10.201.8.2/24", "10.201.8.1/24")
        trusted = {"com.docker.network.bridge.trusted_host_interfaces": "" if whole else "smpfw1:nosuch0"}
        await make_network(lab, Options=trusted)
        ports = {"80/tcp": [("", "8080"), ("", "8081")], "81/tcp": [("127.0.0.1", "8082")]}
        web, server = await lab.run("one", networks=FIXED, ports=ports)
        server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
        server.app(ECHO, "tcp", "0.0.0.0", "81", "near")
        server.app(ECHO, "tcp", "0.0.0.0", "82", "private")
        for asker, opens in ((near, True), (far, whole)):
            answer = await aask(asker, "tcp", "172.29.61.9", 80, seconds=PATIENCE if opens else 0.5)
            assert answer.startswith("web") is opens, (asker, answer)
            for port in (81, 82):
                assert (await aask(asker, "tcp", "172.29.61.9", port, seconds=0.5)).startswith("ERROR")
        await lab.stop(web)

    check()


@in_lab(bridge_accept_fwmark="0x3/0xf")
async def test_packets_that_the_host_marks_reach_every_port(lab: Lab) -> None:
    outside = lab.neighbour()
    await make_network(lab)
    await lab.networks.create(CreateNetwork(name="inner", internal=True))
    _c, server = await lab.run("one", networks=FIXED)
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    kept, hidden = await lab.run("inner")
    hidden.app(ECHO, "tcp", "0.0.0.0", "80", "hidden")
    inner = lab.networks.settings(kept.id)["Networks"]["inner"]["IPAddress"]
    for mark, opens in (("0x13", True), ("0x12", False)):
        nft(f"table inet admin {{ chain pre {{ type filter hook prerouting priority mangle;"
            f" iifname smpfw1 meta mark set {mark}; }}; }}")  # fmt: skip
        answer = await aask(outside, "tcp", "172.29.61.9", 80, seconds=0.5)
        assert answer.startswith("web") is opens, (mark, answer)
        assert (await aask(outside, "tcp", inner, 80, seconds=0.5)).startswith("ERROR"), "internal stays so"
        nft("delete table inet admin")


ADVERTISE = """
import socket, struct, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + socket.inet_pton(socket.AF_INET6, sys.argv[1])
for _ in range(3):
    s.sendto(struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix, ("ff02::1", 0))
"""


@in_lab()
async def test_containers_are_no_routers_of_the_host(lab: Lab) -> None:
    def ways() -> str:
        return subprocess.run(["ip", "-6", "route"], capture_output=True, text=True).stdout

    def ready(box: Box) -> bool:
        words = ("ip", "-6", "addr", "show", "dev", "eth0", "scope", "link", "-tentative")
        return "fe80::" in subprocess.run(box.command(*words), capture_output=True, text=True).stdout

    lan = lab.neighbour("fd00:77::2/64", "fd00:77::1/64")
    assert await soon(lambda: ready(lan))
    assert await soon(lambda: lan.python(ADVERTISE, "fd00:78::") and "default" in ways()), (
        "a host that forwards nothing learns its way"
    )
    await lab.networks.create(CreateNetwork(name="before", enable_ipv6=True))
    _c, first = await lab.run("before")
    await lab.networks.create(CreateNetwork(name="after", enable_ipv6=True))
    _c, second = await lab.run("after")
    others = subprocess.run(["ip", "link", "add", "smpfother", "type", "bridge"], check=True)
    assert not others.returncode
    for number, box in enumerate((first, second, lan)):
        assert await soon(lambda box=box: ready(box))
        box.python(ADVERTISE, f"fd00:8{number}::")
    assert await soon(lambda: lan.python(ADVERTISE, "fd00:82::") and "fd00:82::/64" in ways()), (
        "and goes on learning there"
    )
    assert "fd00:80::" not in ways() and "fd00:81::" not in ways()
    assert ways().count("default") == 1
    assert Path("/proc/sys/net/ipv6/conf/smpfother/accept_ra").read_text() == "1\n", (
        "somebody else's new link"
    )
    subprocess.run(["ip", "link", "del", "smpfother"], check=True)
