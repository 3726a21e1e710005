"""Names: the resolver in containers, links, floods."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from sampan.engine.networks import CreateNetwork
from sampan.runtime.config import EndpointSettings
from tests.network.lab import DNS, ECHO, Lab, in_lab, lookup

pytestmark = pytest.mark.usefixtures("machine")


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
async def test_other_records_of_names(lab: Lab) -> None:
    lab.neighbour().app(DNS.replace("q.q.qtype == 1:", "q.q.qtype in (15, 16):")
                        .replace('dnslib.A("10.201.7.2")', 'dnslib.TXT("far")').replace("qname, r", "qname, 16, r"),
                        "10.201.7.2")  # fmt: skip
    await lab.networks.create(CreateNetwork(name="n1"))
    places = {"n1": EndpointSettings(aliases=["site.example"])}
    _c, box = await lab.run("n1", name="one", networks=places, dns=["10.201.7.2"])
    assert (await lookup(box, "Site.Example")).startswith("NOERROR 172.")
    assert await lookup(box, "site.example", "TXT") == 'NOERROR "far"', "the Internet's knows the rest"
    assert await lookup(box, "site.example", "MX") == "NOERROR", "mail goes to the address (RFC 5321, 5.1)"
    assert await lookup(box, "one", "TXT") == await lookup(box, "one.n1", "TXT") == "NOERROR", "is known here"
    assert await lookup(box, "other", "TXT") == 'NOERROR "far"'


@in_lab()
async def test_own_name_server_of_the_container_can_have_port_53(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    _c, box = await lab.run("n1", name="one")
    box.app(ECHO, "udp", "0.0.0.0", "53", "own")
    assert (await lookup(box, "one")).startswith("NOERROR 172.")


@in_lab()
async def test_link_on_a_user_network(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    _db, _box = await lab.run("n1", name="db")
    _user, box = await lab.run("n1", networks={"n1": EndpointSettings(links=["db:database"])})
    _other, stranger = await lab.run("n1", dns=["127.0.0.1"])
    assert (await lookup(box, "database")).startswith("NOERROR 172.")
    assert await lookup(stranger, "database") == "SERVFAIL"


@in_lab()
async def test_link_on_the_default_bridge(lab: Lab) -> None:
    db, _box = await lab.run(name="db")
    user = lab.container(name="lk")
    user.links = {"database": db.id}
    _box, prepared = await lab.start(user)
    assert f"10.201.6.2\tdatabase {db.id[:12]} db\n10.201.6.3\t" in prepared.hosts


@in_lab()
async def test_resolver_forwards_by_udp_and_tcp(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(DNS, "10.201.7.2")
    await lab.networks.create(CreateNetwork(name="n1"))
    _c, box = await lab.run("n1", dns=["10.201.7.9", "10.201.7.2"])
    assert await lookup(box, "elsewhere.example") == "NOERROR 10.201.7.2", "the second server is asked"


@in_lab()
async def test_internal_networks_ask_nobody_outside(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(DNS, "10.201.7.2")
    await lab.networks.create(CreateNetwork(name="inner", internal=True))
    _c, box = await lab.run("inner", dns=["10.201.7.2"])
    assert await lookup(box, "elsewhere.example") == "SERVFAIL"


@in_lab()
async def test_a_flood_of_questions_stops_nobody(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    _a, flooder = await lab.run("n1", name="a")
    _b, box = await lab.run("n1", name="b")
    flooder.app(FLOOD)
    done = await asyncio.to_thread(box.python, FIVE)
    assert done.stdout.startswith("5 "), done
    assert float(done.stdout.split()[1]) < 15, "the slowest answer, on a busy machine: before the flood ends"


FIVE = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
slowest, right = 0, 0
for number in range(5):
    started = time.monotonic()
    s.sendto(bytes([0, number]) + b"\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1a\\0\\0\\1\\0\\1", ("127.0.0.11", 53))
    answer = s.recv(512)
    slowest = max(slowest, time.monotonic() - started)
    right += answer[1] == number and answer[3] & 15 == 0 and answer[7] == 1
print(right, slowest)
"""


FLOOD = """
import socket, threading, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
q = b"\\0\\1\\1\\0\\0\\1\\0\\0\\0\\0\\0\\0\\1x\\7example\\0\\0\\1\\0\\1"
print("ready", flush=True)
end = time.time() + 30
while time.time() < end:
    for _ in range(200):
        s.sendto(q, ("127.0.0.11", 53))
    time.sleep(0.001)
"""


@in_lab()
async def test_the_resolver_costs_no_tracking_of_connections(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    _c, box = await lab.run("n1", name="a")
    _p, published = await lab.run("n1", name="b", ports={"80/tcp": "8080"})
    for one, name in ((box, "b"), (published, "a")):
        assert (await lookup(one, name)).startswith("NOERROR 172.")
        assert (await lookup(one, name, way="tcp")).startswith("NOERROR 172.")
    count = ["cat", "/proc/sys/net/netfilter/nf_conntrack_count"]
    tracked = subprocess.run(box.command(*count), capture_output=True, text=True)
    assert tracked.stdout == "0\n"
