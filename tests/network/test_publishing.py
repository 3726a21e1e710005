"""Published ports, on a real kernel: from everywhere, both ways, to loopbacks, and what is taken."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import subprocess
import time

import pytest

from sampan import errors
from sampan.engine.networks import CreateNetwork
from tests.network.lab import ECHO, PATIENCE, SHUT, Lab, aask, host_app, in_lab, lookup, send_loopback_here

pytestmark = pytest.mark.usefixtures("machine")


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
    assert (await aask(None, "tcp", "10.201.6.2", 6000, seconds=SHUT)).startswith("ERROR")


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
        assert (await aask(None, "udp", address, 6000, seconds=SHUT)).startswith("ERROR"), (
            "it wasn't published"
        )


OWN = """
import subprocess
import time
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

        async def answered(word: str) -> str:
            """What comes from the app of that name, once it does."""
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    if (answer := await asyncio.to_thread(ask)).startswith(word):
                        return answer
                await asyncio.sleep(0.05)
            return ""

        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(ask)
        server.app(ECHO, "udp", "::1", "5000", "first")
        assert await answered("first") == "first ::1 x"
        there = lab.networks.switchboard.pid
        assert there not in (0, os.getpid())
        os.kill(there, signal.SIGKILL)
        # a new switchboard gets new sockets, and the rules lead to them
        assert await answered("first") == "first ::1 x"
        server.apps.pop().kill()
        server.app(ECHO, "udp", "0.0.0.0", "5000", "second")
        seen = (await answered("second")).split()
        assert seen[0] == "second" and seen[1].startswith("10.201.6."), (
            "same flow, and the asker's own address"
        )


@in_lab()
async def test_port_on_127_0_0_1_stays_there(lab: Lab) -> None:
    outside = lab.neighbour()
    _web, server = await lab.run(ports={"80/tcp": [("127.0.0.1", "8080")]})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")
    assert (await aask(outside, "tcp", "10.201.7.1", 8080, seconds=SHUT)).startswith("ERROR")
    send_loopback_here(outside)
    assert (await aask(outside, "tcp", "127.0.0.1", 8080, seconds=SHUT)).startswith("ERROR")


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
    with host_app("127.0.0.1", 5000), pytest.raises(errors.SystemFailure) as refused:
        await lab.run(ports={"80/tcp": [("127.0.0.1", "5000")]})
    assert "failed to bind host port 127.0.0.1:5000/tcp: address already in use" in refused.value.message
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
async def test_big_transfer_through_the_listener(lab: Lab) -> None:
    lab.networks.ground.firewall.set_short_cut(False)
    await lab.web()
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
s.settimeout(20)
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
