"""Networks as users meet them: the stock CLI, an engine on a machine of its own, and that machine's neighbour."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.conftest import current_cli
from tests.network.lab import ECHO, PATIENCE, SHUT, Box
from tests.network.town import HOST, HOST6, NEIGHBOUR, NEIGHBOUR6, Town, ask, links, nft, soon, town

BRIDGE = "com.docker.network.bridge."


@pytest.fixture(scope="module")
def machine() -> Iterator[Town]:
    import os

    if os.geteuid() != 0:
        pytest.skip("needs root")
    with town(9016) as place:
        yield place


@pytest.fixture
def here(machine: Town) -> Iterator[Town]:
    yield machine
    machine.clean()


def test_addresses_names_and_hosts_file(here: Town) -> None:
    here.docker("network", "create", "--ipv6", "--subnet", "10.216.10.0/24", "--subnet", "fd16:10::/64",
                "--ip-range", "10.216.10.128/25", "--gateway", "10.216.10.1",
                "--aux-address", "printer=10.216.10.129", "n1")  # fmt: skip
    here.docker("network", "create", "--subnet", "10.216.11.0/24", "n2")
    first = here.run("first", "--network", "n1", "--network-alias", "shared")
    here.run("second", "--network", "n1", "--ip", "10.216.10.50", "--ip6", "fd16:10::50",
             "--mac-address", "02:42:aa:bb:cc:dd", "--network-alias", "shared", "--link", "first:one")  # fmt: skip
    assert here.address("first", "n1") == "10.216.10.128", "the range's first"
    third = here.run("third", "--network", "n1")
    assert here.address("third", "n1") == "10.216.10.130", "the reserved one is left out"
    shown = here.docker("exec", "second", "ip", "addr", "show", "eth0").stdout
    assert all(part in shown for part in ("10.216.10.50/24", "fd16:10::50/64", "02:42:aa:bb:cc:dd"))
    for name in ("first", first[:12], "one", "first.n1"):
        assert "10.216.10.128" in here.resolve("second", name), name
    assert "fd16:10::50" in here.resolve("first", "second")
    assert {"10.216.10.50", "10.216.10.128"} < set(here.resolve("third", "shared"))
    assert here.resolve("first", "10.216.10.50") == ["second.n1"]
    assert here.resolve("first", "one") == [], "a link is the container's own"
    taken = here.docker("run", "--network", "n1", "--ip", "10.216.10.50", "busybox", check=False).stderr
    assert "failed to set up container networking: Address already in use" in taken

    own = here.hosts("third")
    assert own[0] == ["10.216.10.130", third[:12]] and len(own) == 2, "IPv4 and IPv6"
    here.docker("exec", "third", "sh", "-c", "echo 1.2.3.4 mine >>/etc/hosts")
    here.docker("network", "connect", "--ip", "10.216.11.9", "--alias", "extra", "n2", "third")
    assert here.hosts("third") == [*own, ["1.2.3.4", "mine"], ["10.216.11.9", third[:12]]]
    here.run("fourth", "--network", "n2")
    assert here.resolve("fourth", "extra") == ["10.216.11.9"]
    here.docker("network", "disconnect", "n1", "third")
    assert here.hosts("third") == [["1.2.3.4", "mine"], ["10.216.11.9", third[:12]]]
    assert "default via 10.216.11.1" in here.docker("exec", "third", "ip", "route").stdout
    assert here.resolve("first", "third") == []


@pytest.mark.skipif(not current_cli(), reason="Debian's docker CLI doesn't know gw-priority")
def test_several_networks_on_one_container(here: Town) -> None:
    for name, flags in (("n1", ()), ("n2", ("--ipv6",)), ("inner", ("--internal",))):
        here.docker("network", "create", *flags, name)
    here.run("many", "--network", "name=n1", "--network", "name=inner,alias=deep", "--network",
             "name=n2,gw-priority=5,mac-address=02:11:22:33:44:55,"
             "driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1")  # fmt: skip
    networks = here.inspect("many")["NetworkSettings"]["Networks"]
    assert set(networks) == {"n1", "n2", "inner"} and networks["n2"]["MacAddress"] == "02:11:22:33:44:55"
    route = here.docker("exec", "many", "ip", "route").stdout
    assert f"default via {networks['n2']['Gateway']} dev" in route and route.count("default") == 1
    device = route.partition("default")[2].split()[3]
    sysctl = f"/proc/sys/net/ipv4/conf/{device}/log_martians"
    assert here.docker("exec", "many", "cat", sysctl).stdout.strip() == "1"
    here.docker("network", "connect", "--link-local-ip", "169.254.5.5", "bridge", "many")
    assert "169.254.5.5/16" in here.docker("exec", "many", "ip", "addr").stdout
    here.docker("network", "create", "--config-only", "--subnet", "10.216.60.0/24", "template")
    here.docker("network", "create", "--config-from", "template", "made")
    shown = json.loads(here.docker("network", "inspect", "made").stdout)[0]
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.216.60.0/24", "Gateway": "10.216.60.1"}]
    assert shown["ConfigFrom"] == {"Network": "template"}
    assert "is in use" in here.docker("network", "rm", "template", check=False).stderr
    here.docker("create", "--name", "later", "busybox", "sleep", "600")
    here.docker("network", "connect", "n1", "later")
    here.docker("network", "disconnect", "bridge", "later")
    here.docker("start", "later")
    assert set(here.inspect("later")["NetworkSettings"]["Networks"]) == {"n1"}
    here.docker("network", "disconnect", "-f", "n1", "later")
    assert "eth0" not in here.docker("exec", "later", "ip", "link").stdout
    busy = here.docker("network", "rm", "n1", check=False)
    assert busy.returncode == 1 and 'has active endpoints (name:"many"' in busy.stderr


def test_shared_namespace(here: Town) -> None:
    here.web("first")
    here.run("second", "--network", "container:first")
    address = here.address("first")
    assert soon(lambda: here.get("second", "127.0.0.1") == "first")
    assert here.hosts("second") == here.hosts("first")
    here.docker("restart", "-t", "0", "first")
    assert here.address("first") == address
    assert soon(lambda: here.get(None, address) == "first"), "nobody else has its address"
    assert soon(lambda: "eth0" not in here.docker("exec", "second", "ip", "link").stdout), (
        "the old namespace's link is gone"
    )


def test_published_ports_from_everywhere(here: Town) -> None:
    here.web("web", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", f"{HOST}:8082:80", "-p", "9000-9001:80")
    here.run("other")
    here.docker("network", "create", "n1")
    here.run("abroad", "--network", "n1")
    assert soon(lambda: here.get(None, "127.0.0.1", 8080) == "web")
    for where in (None, here.neighbour, "web", "other", "abroad"):
        assert here.get(where, HOST, 8080) == "web", where
        assert here.shut(where, HOST, 8081), where
        assert here.get(where, HOST, 8082) == "web", where
    assert here.get(None, "127.0.0.1", 8081) == "web" and here.shut(None, "127.0.0.1", 8082)
    assert here.get(None, "::1", 8080) == "web" and here.get(here.neighbour, HOST6, 8080) == "web"
    assert here.get(here.neighbour, HOST, 9000) == "web"
    assert here.shut(here.neighbour, here.address("web"), 80), "only what is published"
    assert here.shut("abroad", here.address("web"), 80)
    assert here.asker(here.neighbour, HOST, 8080) == NEIGHBOUR, "the asker's address"
    told = here.docker("port", "web", "80/tcp").stdout.splitlines()
    assert [line for line in told if line.startswith("0.")] == ["0.0.0.0:8080", "0.0.0.0:9000"]
    for wanted, words in (
        ("8080:80", "Bind for 0.0.0.0:8080 failed: port is already allocated"),
        ("10.9.9.9:80:80", "failed to bind host port 10.9.9.9:80/tcp: cannot assign requested address"),
    ):
        done = here.docker("run", "--name", "no", "-p", wanted, "busybox", check=False)
        assert done.returncode == 125 and words in done.stderr
        here.docker("rm", "no")
    here.run("next", "-p", "9000-9003:80", "-P", "--expose", "8", "--expose", "9/udp")
    shown = here.inspect("next")["NetworkSettings"]["Ports"]
    assert shown["80/tcp"][0]["HostPort"] == "9001", "the range's first free one"
    assert int(shown["8/tcp"][0]["HostPort"]) > 1024 and shown["9/udp"][0]["HostIp"] == "0.0.0.0"


def test_udp_keeps_source_addresses_and_follows_restarts(here: Town) -> None:
    here.run("udp", "-p", "5300:53/udp")
    first = here.inside("udp")
    first.app(ECHO, "udp", "0.0.0.0", "53", "one")
    assert ask(here.neighbour, "udp", HOST, 5300) == f"one {NEIGHBOUR} hello"
    assert ask(None, "udp", "127.0.0.1", 5300).startswith("one")
    first.end()
    here.docker("restart", "-t", "0", "udp")
    here.inside("udp").app(ECHO, "udp", "127.0.0.1", "53", "two")
    assert soon(lambda: ask(here.neighbour, "udp", HOST, 5300).startswith("two")), "from its loopback, too"


@pytest.mark.parametrize("listen", ["127.0.0.1:80", "[::1]:80", "0.0.0.0:80", "[::]:80"])
def test_apps_are_reached_wherever_they_listen(here: Town, listen: str) -> None:
    here.docker("network", "create", "--ipv6", "six")
    here.web("plain", "-p", "8080:80", listen=listen)
    here.web("six", "--network", "six", "-p", "8086:80", listen=listen)
    for name, port in (("plain", 8080), ("six", 8086)):
        assert soon(lambda port=port, name=name: here.get(None, "127.0.0.1", port) == name)
        assert [here.get(None, "::1", port), here.get(None, HOST, port)] == [name, name]
        assert [here.get(here.neighbour, HOST, port), here.get(here.neighbour, HOST6, port)] == [name, name]
    here.docker("network", "create", "n1")
    here.docker("network", "connect", "n1", "plain")
    here.docker("network", "disconnect", "bridge", "plain")
    assert soon(lambda: here.get(here.neighbour, HOST, 8080) == "plain"), "by its other network"


def test_loopback_stays_the_containers_own(here: Town) -> None:
    """With route_localnet the kernel would take packets for 127.0.0.1 from the wire (CVE-2020-8558)."""
    here.web("victim", "-p", "8080:80", listen="127.0.0.1:80")
    here.inside("victim").app(ECHO, "tcp", "127.0.0.1", "99", "private")
    here.run("attacker", "--privileged")
    target = here.address("victim")
    for line in (
        "sysctl -qw net.ipv4.conf.all.route_localnet=1",
        "ip route del local 127.0.0.0/8 dev lo table local",
        "ip route del local 127.0.0.1 dev lo table local",
        f"ip route add 127.0.0.1 via {target}",
    ):
        subprocess.run(here.inside("attacker").command(*line.split()), check=True)
    assert soon(lambda: here.get(None, "127.0.0.1", 8080) == "victim")
    assert ask(here.inside("attacker"), "tcp", "127.0.0.1", 99, seconds=0.5).startswith("ERROR")
    assert ask(here.inside("attacker"), "tcp", target, 99, seconds=SHUT).startswith("ERROR"), (
        "it wasn't published"
    )


def test_isolation(here: Town) -> None:
    here.docker("network", "create", "n1")
    here.docker("network", "create", "--internal", "inner")
    here.docker("network", "create", "-o", f"{BRIDGE}enable_icc=false", "apart")
    here.docker("network", "create", "-o", f"{BRIDGE}host_binding_ipv4=127.0.0.1", "bound")
    for name in ("n1", "inner", "apart"):
        here.web(f"{name}-web", "--network", name)
        here.run(f"{name}-two", "--network", name)
    here.web("bound-web", "--network", "bound", "-p", "8083:80")
    address = {name: here.address(f"{name}-web", name) for name in ("n1", "inner", "apart")}
    assert soon(lambda: here.get("n1-two", address["n1"]) == "n1-web")
    assert soon(lambda: here.get("inner-two", address["inner"]) == "inner-web")
    assert here.shut("apart-two", address["apart"])
    assert here.shut("inner-two", address["n1"]) and here.shut("n1-two", address["inner"])
    here.neighbour.app(ECHO, "tcp", NEIGHBOUR, "80", "out")
    for name, reaches in (("n1-two", True), ("apart-two", True), ("inner-two", False)):
        assert (ask(here.inside(name), "tcp", NEIGHBOUR, 80) == f"out {HOST} hello") is reaches, name
    assert soon(lambda: here.get(None, "127.0.0.1", 8083) == "bound-web")
    assert here.shut(here.neighbour, HOST, 8083)


def test_gateway_modes(here: Town) -> None:
    modes = {"nat": "10.216.20.0/24", "routed": "10.216.21.0/24", "nat-unprotected": "10.216.22.0/24"}
    for mode, subnet in modes.items():
        here.docker("network", "create", "--subnet", subnet, "-o", f"{BRIDGE}gateway_mode_ipv4={mode}", mode)
        here.web(f"w-{mode}", "--network", mode, "-p", "80", listen="80")
        here.inside(f"w-{mode}").app(ECHO, "tcp", "0.0.0.0", "81", "closed")
    address = {mode: here.address(f"w-{mode}", mode) for mode in modes}
    assert soon(lambda: all(here.get(None, one) for one in address.values()))
    seen = {
        mode: here.get(here.neighbour, address[mode], seconds=0.6 if mode == "nat" else PATIENCE)
        for mode in modes
    }
    assert seen == {"nat": "", "routed": "w-routed", "nat-unprotected": "w-nat-unprotected"}
    patience = {"nat": 0.4, "routed": 0.4, "nat-unprotected": PATIENCE}
    other = {
        mode: ask(here.neighbour, "tcp", address[mode], 81, seconds=patience[mode]).startswith("closed")
        for mode in modes
    }
    assert other == {"nat": False, "routed": False, "nat-unprotected": True}
    shown = here.inspect("w-routed")["NetworkSettings"]["Ports"]["80/tcp"]
    assert shown == [{"HostIp": "0.0.0.0", "HostPort": ""}]
    here.neighbour.app(ECHO, "tcp", NEIGHBOUR, "82", "out")
    assert ask(here.inside("w-routed"), "tcp", NEIGHBOUR, 82) == f"out {address['routed']} hello"
    assert ask(here.inside("w-nat-unprotected"), "tcp", NEIGHBOUR, 82) == f"out {HOST} hello"


def test_macvlan(here: Town) -> None:
    here.docker("network", "create", "-d", "macvlan", "--subnet", "10.216.7.0/24", "--gateway", HOST,
                "--ip-range", "10.216.7.64/27", "-o", "parent=smpfwire", "lan")  # fmt: skip
    here.web("lan-web", "--network", "lan")
    here.run("lan-two", "--network", "lan", "--ip", "10.216.7.90")
    assert here.address("lan-web", "lan") == "10.216.7.64"
    assert soon(lambda: here.get("lan-two", "10.216.7.64") == "lan-web")
    assert here.get(here.neighbour, "10.216.7.64") == "lan-web", "a machine on the wire like any other"
    assert here.resolve("lan-two", "lan-web") == ["10.216.7.64"]
    refused = here.docker("run", "--network", "lan", "--label", "sampan.egress=none", "busybox", check=False)
    assert refused.returncode == 125 and "egress control" in refused.stderr


def test_egress_by_name_address_and_label(here: Town) -> None:
    here.neighbour.app(ECHO, "tcp", NEIGHBOUR, "80", "open")
    here.neighbour.app(ECHO, "tcp", NEIGHBOUR, "81", "shut")
    here.docker("network", "create", "-o", f"sampan.egress=allow={NEIGHBOUR}:80", "guarded")
    here.run("by-network", "--network", "guarded")
    here.run("by-label", "--label", "sampan.egress=none")
    assert ask(here.inside("by-network"), "tcp", NEIGHBOUR, 80).startswith("open")
    assert ask(here.inside("by-network"), "tcp", NEIGHBOUR, 81, seconds=SHUT).startswith("ERROR")
    assert ask(here.inside("by-label"), "tcp", NEIGHBOUR, 80, seconds=SHUT).startswith("ERROR")
    here.run("later")
    assert ask(here.inside("later"), "tcp", NEIGHBOUR, 81).startswith("shut")
    here.docker("network", "connect", "guarded", "later")
    assert ask(here.inside("later"), "tcp", NEIGHBOUR, 81, seconds=0.5).startswith("ERROR"), "it joined"
    assert ask(here.inside("later"), "tcp", NEIGHBOUR, 80).startswith("open")
    here.docker("network", "disconnect", "guarded", "later")
    assert ask(here.inside("later"), "tcp", NEIGHBOUR, 81).startswith("shut")
    lent = here.address("by-network", "guarded").rpartition(".")[0] + ".77"
    box = here.inside("by-network")
    subprocess.run(box.command("ip", "addr", "add", f"{lent}/16", "dev", "eth0"), check=True)
    subprocess.run(box.command("ip", "route", "add", NEIGHBOUR, "via", here.docker(
        "network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "guarded").stdout.strip(),
        "src", lent), check=True)  # fmt: skip
    assert ask(box, "tcp", NEIGHBOUR, 81, seconds=0.5).startswith("ERROR"), "with an address nobody has"
    here.daemon.kill()
    here.daemon.start()
    assert ask(here.inside("by-label"), "tcp", NEIGHBOUR, 80, seconds=SHUT).startswith("ERROR")
    assert here.resolve("by-label", "some.example") == []
    from tests.conftest import BIN

    def sampan(*words: str) -> str:
        return here.docker(*words, cli=str(BIN / "sampan")).stdout

    shown = [line.split() for line in sampan("network", "egress", "by-network").splitlines()]
    assert shown[:2] == [["STATE", "TARGET", "TIMES"], ["allowed", f"{NEIGHBOUR}/32:80"]]
    assert shown[2][:2] == ["refused", f"{NEIGHBOUR}:81/tcp"] and int(shown[2][2]) >= 1
    assert ["refused", "some.example"] in [
        line.split()[:2] for line in sampan("network", "egress", "by-label").splitlines()
    ]
    sampan("run", "-d", "--name", "by-flag", "--egress", f"allow={NEIGHBOUR}:81", "busybox", "sleep", "600")
    assert ask(here.inside("by-flag"), "tcp", NEIGHBOUR, 81).startswith("shut")
    assert json.loads(sampan("network", "egress", "--format", "json", "by-flag"))["Controlled"] is True


def test_flushed_rules_are_mended_and_told(here: Town) -> None:
    here.web("web", "-p", "8080:80")
    assert soon(lambda: here.get(here.neighbour, HOST, 8080) == "web")
    since = str(int(time.time()) - 1)
    nft("flush", "ruleset")
    assert soon(lambda: "sampan_smpf0" in nft("list", "tables"))
    assert here.asker(here.neighbour, HOST, 8080) == NEIGHBOUR
    asked = ("events", "--since", since, "--until", "0s", "--format", "{{.Type}} {{.Action}}")
    assert soon(lambda: "network mend" in here.docker(*asked).stdout)


def test_pools_avoid_the_hosts_routes_and_run_out(here: Town) -> None:
    made = []
    subprocess.run(["ip", "route", "add", "172.17.0.0/16", "dev", "lo"], check=True)
    try:
        for number in range(40):
            done = here.docker("network", "create", f"pool{number}", check=False)
            if done.returncode:
                break
            shown = here.docker(
                "network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", f"pool{number}"
            )
            made.append(shown.stdout.strip())
    finally:
        subprocess.run(["ip", "route", "del", "172.17.0.0/16", "dev", "lo"], check=True)
    assert "172.17.0.0/16" not in made and len(made) == len(set(made)) > 20
    assert "could not find an available, non-overlapping IPv4 address pool among the defaults" in done.stderr
    here.docker("network", "create", "--subnet", "10.216.30.0/30", "tiny")
    here.run("only", "--network", "tiny")
    full = here.docker("run", "--network", "tiny", "busybox", check=False).stderr
    assert "no available IPv4 addresses on this network's address pools" in full
    here.clean()
    assert not {name for name in links() if name.startswith("br-")}, "nothing is left of networks"


def test_links_where_containers_are_kept_apart() -> None:
    with town(9017, "--icc=false") as place:
        place.web("srv", "--expose", "80")
        place.inside("srv").app(ECHO, "tcp", "0.0.0.0", "81", "closed")
        place.run("linked", "--link", "srv:web")
        place.run("stranger")
        address = place.address("srv")
        assert place.hosts("linked")[0][:2] == [address, "web"]
        assert soon(lambda: place.get("linked", address) == "srv")
        assert place.shut("stranger", address)
        assert ask(place.inside("linked"), "tcp", address, 81, seconds=0.5).startswith("ERROR"), (
            "what is exposed, no more"
        )
        place.docker("stop", "-t", "0", "srv")
        place.run("thief")  # takes its address
        place.docker("start", "srv")
        moved = place.address("srv")
        assert moved != address and place.hosts("linked")[0][:2] == [moved, "web"]
        assert soon(lambda: place.get("linked", moved) == "srv") and place.shut("stranger", moved)
        place.clean()


def test_boxes_are_other_machines(here: Town) -> None:
    assert isinstance(here.neighbour, Box)
    assert ask(here.neighbour, "tcp", HOST6, 9).endswith("refused")
    assert (
        NEIGHBOUR6
        in subprocess.run(here.neighbour.command("ip", "-6", "addr"), capture_output=True, text=True).stdout
    )


def test_engine_without_rules_or_default_network() -> None:
    with town(9020, "--iptables=false") as place:
        place.web("web", "-p", "8080:80")
        assert nft("list", "tables") == "", "no rule on the host"
        assert soon(lambda: place.get(place.neighbour, HOST, 8080) == "web"), "the listener answers"
        refused = place.docker("run", "--label", "sampan.egress=none", "busybox", check=False)
        assert refused.returncode == 125 and "--iptables=false" in refused.stderr
        place.clean()
        assert place.daemon.stop() == 0
        place.daemon.bridge = "none"
        place.daemon.flags = ("--iptables=false",)
        place.daemon.bip = ""
        place.daemon.start()
        assert place.docker("network", "ls", "-q", "--format", "{{.Name}}").stdout.split() == ["host", "none"]
        assert not links() & {"none", "smpf0"}
        missing = place.docker("run", "busybox", "true", check=False).stderr
        assert "network bridge not found" in missing
        place.docker("network", "create", "own")
        assert place.docker("run", "--rm", "--network", "own", "busybox", "echo", "hi").stdout == "hi\n"
        place.clean()
