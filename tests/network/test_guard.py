"""Beside the host's own firewall: who decides, what is mended, what containers may reach."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
from typing import Any

import pytest

from sampan.engine.networks import CreateNetwork
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from sampan.network.foreign import judge
from sampan.network.legacy import fingerprint
from sampan.runtime.config import EndpointSettings
from tests.network.lab import ECHO, Box, Lab, aask, lookup, ping
from tests.network.test_sandboxes import in_lab

pytestmark = pytest.mark.usefixtures("machine")


def nft(text: str) -> str:
    done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


def ruleset() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout


async def soon(check: Any) -> bool:
    for _ in range(100):
        if check():
            return True
        await asyncio.sleep(0.02)
    return False


@in_lab()
async def test_foreign_input_rules_decide_on_published_ports(lab: Lab) -> None:
    outside = lab.neighbour()
    _web, server = await lab.run(ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    firewall = lab.networks.ground.firewall
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("web")
    nft("table inet admin {\n chain in {\n type filter hook input priority 0; policy drop;\n iif lo accept\n"
        " ct state established,related accept\n}\n}\n")  # fmt: skip
    assert await soon(lambda: not firewall.short_cut), "a change of the host's rules is noticed"
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("ERROR")
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")
    warnings = lab.networks.check(*_checked(lab))
    assert "nft insert rule inet admin in tcp dport PORT accept" in warnings[0]
    nft("insert rule inet admin in tcp dport 8080 accept")
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("web")
    nft("delete table inet admin")
    assert await soon(lambda: firewall.short_cut)
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)) == "web 10.201.7.2 hello"


def _checked(lab: Lab) -> tuple[Any, Any, None]:
    container = lab.container(ports={"80/tcp": "8081"})
    return container.config, container.host, None


@in_lab()
async def test_foreign_forward_drop_keeps_published_ports_closed_but_lets_containers_out(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "out")
    _web, server = await lab.run(ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    nft("table ip filter {\n chain FORWARD {\n type filter hook forward priority 0; policy drop;\n}\n}\n")
    assert await soon(lambda: "sampan: sampan_smpf0" in ruleset())
    assert (await aask(server, "tcp", "10.201.7.2", 80)).startswith("out")
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("ERROR"), "their policy holds"
    (warning,) = lab.networks.check(*_checked(lab))
    command = warning.partition("To open one: ")[2].replace("PORT", "8080").split()
    subprocess.run(command, check=True)
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("web"), "opened as the warning says"
    assert ruleset().count("jump sampan_smpf0") == 1
    network = await lab.networks.create(CreateNetwork(name="more"))
    assert network.device in ruleset().partition("table ip filter")[2].partition("FORWARD")[0] + ruleset()
    assert ruleset().count("jump sampan_smpf0") == 1
    nft("delete table ip filter")


@in_lab()
async def test_jump_goes_before_the_last_word_of_a_chain(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "out")
    nft("table inet fw {\n chain forwarding {\n type filter hook forward priority 0; policy accept;\n"
        " ct state established accept\n reject with icmpx admin-prohibited\n}\n}\n")  # fmt: skip
    assert await soon(lambda: "sampan: sampan_smpf0" in ruleset())
    _c, box = await lab.run()
    assert (await aask(box, "tcp", "10.201.7.2", 80)).startswith("out")
    lab.networks.guard.lift_jumps()
    assert "sampan_smpf0" not in ruleset().partition("table inet fw")[2].partition("}\n}")[0]
    nft("delete table inet fw")


FIREWALLD = """table inet firewalld {
  chain filter_INPUT { type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    jump filter_INPUT_POLICIES
    reject with icmpx admin-prohibited
  }
  chain filter_INPUT_POLICIES {
    iifname "smpfw1" jump filter_IN_public
    iifname "smpfw1" reject with icmpx admin-prohibited
  }
  chain filter_IN_public { tcp dport 22 accept; }
  chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    jump filter_FORWARD_POLICIES
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD_POLICIES {
    iifname "smpfw1" oifname "smpfw1" accept
    iifname "smpfw1" reject with icmpx admin-prohibited
    oifname "smpfw1" reject with icmpx admin-prohibited
    reject with icmpx admin-prohibited
  }
}
"""


@in_lab()
async def test_beside_the_chains_of_firewalld(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "out")
    _web, server = await lab.run(ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    for _ in range(2):  # it begins, and is told to load its rules anew
        nft(FIREWALLD)
        assert await soon(lambda: "sampan: sampan_smpf0" in ruleset())
        assert (await aask(server, "tcp", "10.201.7.2", 80)).startswith("out")
        assert await soon(lambda: not lab.networks.ground.firewall.short_cut)
        assert "ERROR" in await aask(outside, "tcp", "10.201.7.1", 8080)
        nft("add rule inet firewalld filter_IN_public tcp dport 8080 accept")
        assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("web")
        lines = [line.strip() for line in ruleset().partition("inet firewalld")[2].splitlines()]
        jump = next(number for number, line in enumerate(lines) if line.startswith("jump sampan_smpf0"))
        assert lines[jump + 1] == "jump filter_FORWARD_POLICIES", "after what it says of all"
        nft("delete table inet firewalld")
    nft("table inet fw {\n chain f {\n type filter hook forward priority 0; policy drop;\n}\n"
        " chain every {\n reject\n}\n}\n")  # fmt: skip
    assert await soon(lambda: "sampan: sampan_smpf0" in ruleset())
    nft("insert rule inet fw f counter jump every")
    assert await soon(lambda: ruleset().partition("chain f ")[2].find("sampan_smpf0") < ruleset().partition(
        "chain f ")[2].find("jump every")), "it is laid anew where packets come to it"  # fmt: skip
    assert (await aask(server, "tcp", "10.201.7.2", 80)).startswith("out")
    assert ruleset().count("jump sampan_smpf0") == 1
    nft("delete table inet fw")


@pytest.mark.skipif(shutil.which("iptables") is None, reason="iptables is not installed")
@in_lab()
async def test_beside_ufw_that_rejects(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "out")
    _web, server = await lab.run(ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    subprocess.run(["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "8080", "-j", "REJECT"], check=True)
    assert await soon(lambda: not lab.networks.ground.firewall.short_cut)
    assert "refused" in await aask(outside, "tcp", "10.201.7.1", 8080)
    subprocess.run(["iptables", "-F", "INPUT"], check=True)
    assert await soon(lambda: lab.networks.ground.firewall.short_cut)
    for words in (
        "-N ufw-before-forward", "-N ufw-reject-forward", "-N ufw-track-forward",
        "-A FORWARD -j ufw-before-forward", "-A FORWARD -j ufw-reject-forward", "-A FORWARD -j ufw-track-forward",
        "-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A ufw-before-forward -p tcp --dport 81 -j DROP", "-A ufw-reject-forward -j REJECT",
    ):  # fmt: skip
        subprocess.run(["iptables", *words.split()], check=True)
    assert await soon(lambda: "-j sampan_smpf0" in iptables())
    assert (await aask(server, "tcp", "10.201.7.2", 80)).startswith("out")
    forward = [line for line in iptables().splitlines() if line.startswith("-A FORWARD")]
    assert ["sampan" in line for line in forward] == [False, True, False, False], forward
    outside.app(ECHO, "tcp", "0.0.0.0", "81", "shut")
    assert (await aask(server, "tcp", "10.201.7.2", 81, seconds=0.5)).startswith("ERROR"), (
        "their own rule holds"
    )
    subprocess.run(["nft", "delete", "table", "ip", "filter"], check=True)


@pytest.mark.skipif(shutil.which("iptables") is None, reason="iptables is not installed")
@in_lab()
async def test_beside_iptables_which_can_still_read_its_tables(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "out")
    _web, server = await lab.run(ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    subprocess.run(["iptables", "-P", "FORWARD", "DROP"], check=True)
    assert await soon(lambda: "ctstate" in iptables())
    assert (await aask(server, "tcp", "10.201.7.2", 80)).startswith("out")
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("ERROR"), "their policy holds"
    assert '-A FORWARD -m comment --comment "sampan: sampan_smpf0" -j sampan_smpf0' in iptables()
    lab.networks.guard.lift_jumps()
    assert "sampan" not in iptables()
    subprocess.run(["nft", "delete", "table", "ip", "filter"], check=True)


legacy_only = pytest.mark.skipif(
    shutil.which("iptables-legacy") is None
    # In a namespace that ends: the look alone makes the table.
    or bool(subprocess.run(["unshare", "-n", "iptables-legacy", "-S"], capture_output=True).returncode),
    reason="no iptables-legacy here, or not in the kernel",
)


def legacy(*args: str, program: str = "iptables-legacy") -> str:
    done = subprocess.run([program, *args], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


@legacy_only
@in_lab()
async def test_legacy_input_rules_decide_on_published_ports(lab: Lab) -> None:
    outside = lab.neighbour()
    _web, server = await lab.run(ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    firewall = lab.networks.ground.firewall
    legacy("-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    await asyncio.sleep(0.2)
    assert firewall.short_cut, "that rule closes nothing"
    legacy("-A", "INPUT", "-i", "smpfw1", "-p", "tcp", "-j", "REJECT")
    assert await soon(lambda: not firewall.short_cut), "a change of legacy rules is noticed"
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("ERROR")
    (warning,) = lab.networks.check(*_checked(lab))
    command = warning.partition("To open one: ")[2].partition(" (or")[0].replace("PORT", "8080")
    assert command.startswith("iptables-legacy ")
    legacy(*command.split()[1:])
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("web"), "opened as the warning says"
    legacy("-F", "INPUT")
    assert await soon(lambda: firewall.short_cut)
    legacy("-A", "INPUT", "-j", "DROP", program="ip6tables-legacy")
    assert await soon(lambda: not firewall.short_cut)


@legacy_only
@in_lab()
async def test_legacy_rules_changed_under_another_lock(lab: Lab) -> None:
    outside = lab.neighbour()
    _web, server = await lab.run(ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    firewall = lab.networks.ground.firewall
    legacy("-A", "INPUT", "-p", "tcp", "--dport", "9999", "-j", "ACCEPT")
    await asyncio.sleep(0.1)
    before = fingerprint()
    assert any(before)
    await aask(outside, "tcp", "10.201.7.1", 9999)
    assert "tcp dpt:9999" in legacy("-nvxL", "INPUT") and " 1 " in legacy("-nvxL", "INPUT"), "it has counted"
    assert fingerprint() == before, "what rules have counted is no change"
    own_lock = {
        **os.environ,
        "XTABLES_LOCKFILE": str(lab.dir / "lock"),
    }  # as in a container with its own /run
    subprocess.run(["iptables-legacy", "-P", "INPUT", "DROP"], env=own_lock, check=True)
    assert fingerprint() != before
    for _ in range(2):
        await soon(lambda: not firewall.short_cut)
    assert not firewall.short_cut, "seen within seconds"
    assert (await aask(outside, "tcp", "10.201.7.1", 8080, seconds=0.5)).startswith("ERROR")
    legacy("-P", "INPUT", "ACCEPT")
    assert await soon(lambda: firewall.short_cut)


@legacy_only
@in_lab()
async def test_legacy_forward_drop_keeps_ports_closed_but_lets_containers_out(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "out")
    container, server = await lab.run(ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    legacy("-P", "FORWARD", "DROP")
    assert await soon(lambda: "RELATED,ESTABLISHED" in legacy("-S"))
    assert (await aask(server, "tcp", "10.201.7.2", 80)).startswith("out")
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("ERROR"), "their policy holds"
    (warning,) = lab.networks.check(*_checked(lab))
    command = warning.partition("To open one: ")[2].replace("PORT", "8080").split()
    assert command[0] == "iptables-legacy"
    legacy(*command[1:])
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("web"), "opened as the warning says"
    legacy("-P", "FORWARD", "ACCEPT")
    legacy("-A", "FORWARD", "-j", "REJECT")
    jump = '-A FORWARD -m comment --comment "sampan: sampan_smpf0" -j sampan_smpf0'
    assert await soon(lambda: f"{jump}\n-A FORWARD -j REJECT" in legacy("-S")), "before the last word"
    network = await lab.networks.create(CreateNetwork(name="more"))
    shown = legacy("-S")
    assert f"-A sampan_smpf0 -i {network.device} -j ACCEPT" in shown and shown.count(jump) == 1
    lab.crash()
    lab.begin()
    await lab.open()
    await lab.networks.restore({container.id: server.pid})
    assert legacy("-S") == shown, "the next engine finds what is laid, and lays nothing twice"
    assert (await aask(server, "tcp", "10.201.7.2", 80)).startswith("out")
    lab.networks.guard.lift_jumps()
    assert "sampan" not in legacy("-S")
    legacy("-F", "FORWARD")


@legacy_only
def test_legacy_forward_drop_without_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    program = str(shutil.which("iptables-legacy"))

    @in_lab()
    async def check(lab: Lab) -> None:
        lab.neighbour()
        legacy("-P", "FORWARD", "DROP", program=program)
        places = [one for one in os.environ["PATH"].split(":") if not os.path.exists(f"{one}/iptables")]
        monkeypatch.setenv("PATH", ":".join(places))
        container = lab.container()
        assert await soon(lambda: lab.networks.check(container.config, container.host, None))
        (warning,) = lab.networks.check(container.config, container.host, None)
        assert "iptables -A FORWARD -i BRIDGE -j ACCEPT" in warning
        alone = lab.container("none")
        assert lab.networks.check(alone.config, alone.host, None) == []
        monkeypatch.undo()
        legacy("-P", "FORWARD", "ACCEPT")
        assert await soon(lambda: not lab.networks.check(container.config, container.host, None))

    check()


def iptables() -> str:
    return subprocess.run(["iptables", "-S"], capture_output=True, text=True).stdout


@in_lab()
async def test_flushed_ruleset_is_mended(lab: Lab) -> None:
    outside = lab.neighbour()
    _web, server = await lab.run(ports={"80/tcp": "8080"})
    server.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert await soon(lambda: "sampan_smpf0" in ruleset())
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)) == "web 10.201.7.2 hello"
    assert "mend bridge" in lab.events.names()


@in_lab()
async def test_egress_control(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "open")
    outside.app(ECHO, "tcp", "0.0.0.0", "81", "shut")
    outside.app(DNS, "10.201.7.2")
    label = {"sampan.egress": "allow=10.201.7.2:80,good.example:81"}
    container, box = await lab.run(config={"labels": label}, dns=["10.201.7.2"])
    _other, free = await lab.run()
    assert (await aask(free, "tcp", "10.201.7.2", 81)).startswith("shut")
    assert (await aask(box, "tcp", "10.201.7.2", 80)).startswith("open")
    assert "ConnectionRefused" in await aask(box, "tcp", "10.201.7.2", 81, seconds=0.5), "at once"
    assert (await aask(box, "tcp", "10.201.6.1", 22)).startswith("ERROR"), "the host is outside, too"
    assert await lookup(box, "bad.example") == "REFUSED"
    assert await lookup(box, "good.example") == "NOERROR 10.201.7.2"
    assert (await aask(box, "tcp", "10.201.7.2", 81)).startswith("shut"), "pinned by the answer"
    shown = await lab.networks.egress(container.name)
    assert shown["Allowed"] == ["10.201.7.2/32:80", "good.example:81"]
    assert {(item["Address"], item["Port"]) for item in shown["Refused"]} >= {("10.201.7.2", 81)}
    assert shown["RefusedNames"] == {"bad.example": 1}
    assert (await aask(free, "tcp", "10.201.6.2", 9)).endswith("refused"), "who asks it is answered"


@in_lab()
async def test_refused_connections_are_logged(lab: Lab) -> None:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("sampan.engine.networks.refusals").addHandler(handler)
    lab.neighbour()
    container, box = await lab.run(config={"labels": {"sampan.egress": "none"}}, name="shut")
    seen: list[dict[str, str]] = []

    def told(**wanted: str) -> bool:
        seen[:] = [one for kind, what, _id, one in lab.events.seen if (kind, what) == ("container", "refuse")]
        return any(wanted.items() <= one.items() for one in seen)

    for port in (81, 81, 82):
        assert (await aask(box, "tcp", "10.201.7.2", port)).startswith("ERROR")
    assert await soon(lambda: told(destination="10.201.7.2", port="82", protocol="tcp", name="shut"))
    assert [one["port"] for one in seen] == ["81", "82"], "a destination is told once a minute"
    assert f"container shut ({container.id[:12]}): egress to 10.201.7.2:81/tcp refused" in lines
    assert await lookup(box, "bad.example") == await lookup(box, "bad.example") == "REFUSED"
    assert await soon(lambda: told(destination="bad.example", name="shut"))
    box.python(SCAN)
    assert await soon(lambda: told() and len(seen) > 15)
    await asyncio.sleep(0.2)
    assert not told(port="0") and len(seen) < 3 + 20 + 15, "a scan doesn't flood the log"
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert await soon(lambda: "mend bridge" in lab.events.names())
    assert (await aask(box, "tcp", "10.201.7.2", 83)).startswith("ERROR")
    assert await soon(lambda: told(port="83")), "the rules made anew tell, too"


SCAN = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1000, 1500):
    try:
        s.sendto(b"x", ("10.201.7.2", port))
    except OSError:
        pass
"""


DNS = """
import dnslib, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(2000)
    q = dnslib.DNSRecord.parse(data)
    r = q.reply()
    if q.q.qtype == 1:
        r.add_answer(dnslib.RR(q.q.qname, rdata=dnslib.A("10.201.7.2"), ttl=5))
    s.sendto(r.pack(), peer)
"""


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
    assert float(done.stdout.split()[1]) < 3, "the slowest answer, on a busy machine"


FIVE = """
import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
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
end = time.time() + 4
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
    assert not await ping(outside, place["GlobalIPv6Address"])


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
        from sampan.engine.networks.create import IPAM, IPAMConfig

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


def test_judge_of_rulesets() -> None:
    def chain(hook: str, policy: str = "accept", **more: Any) -> dict[str, Any]:
        base = {
            "family": "inet",
            "table": "t",
            "name": hook,
            "type": "filter",
            "hook": hook,
            "policy": policy,
        }
        return {"chain": {**base, **more}}

    def rule(where: str, *expr: dict[str, Any]) -> dict[str, Any]:
        return {"rule": {"family": "inet", "table": "t", "chain": where, "handle": 7, "expr": list(expr)}}

    invalid = {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}
    assert not judge([]).input_blocks
    assert judge([chain("input", "drop")]).input_blocks
    assert not judge([chain("input", "drop", table="sampan_x")]).input_blocks, "another engine's own table"
    assert judge([chain("input"), rule("input", {"reject": None})]).input_blocks
    assert not judge([chain("input"), rule("input", invalid, {"drop": None})]).input_blocks
    assert not judge([chain("input"), rule("input", {"accept": None})]).input_blocks
    jumping = [chain("forward"), rule("forward", {"jump": {"target": "x"}}), rule("x", {"drop": None})]
    assert judge(jumping).forward_blocks and not judge(jumping).input_blocks
    assert judge(jumping).forward_shut and judge([chain("forward", "drop")]).forward_shut
    some = [*jumping[:-1], rule("x", invalid, {"drop": None}), rule("x", {"match": {}}, {"drop": None})]
    assert judge(some).forward_blocks and not judge(some).forward_shut, "only what these rules are about"
    back = [*jumping[:-1], rule("x", {"counter": {}}, {"return": None}), rule("x", {"drop": None})]
    assert not judge(back).forward_shut
    target = {"xt": {"type": "target", "name": "REJECT"}}
    assert judge([chain("input"), rule("input", {"match": {}}, target)]).input_blocks, "iptables -j REJECT"
    assert judge([chain("input"), rule("input", {"xt": None})]).input_blocks, "perhaps, says an older nft"
    assert not judge([chain("input"), rule("input", {"xt": None}, {"accept": None})]).input_blocks
    drop = rule("prerouting", {"match": {}}, {"drop": None})
    assert judge([chain("prerouting", prio=0), drop]).input_blocks, "it would see what we have translated"
    assert not judge([chain("prerouting", prio=-300), drop]).input_blocks
    looping = [chain("input"), rule("input", {"goto": {"target": "input"}})]
    assert not judge(looping).input_blocks
    assert not judge([chain("input", type="nat"), rule("input", {"drop": None})]).input_blocks


def test_boxes_end() -> None:
    box = Box()
    box.end()
    assert box.process.returncode is not None
