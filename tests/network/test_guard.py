"""Beside the host's own firewall: who decides, what is mended."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest

from sampan.engine.networks import CreateNetwork
from sampan.network.foreign import judge
from tests.network.lab import ECHO, SHUT, Lab, aask, checked, in_lab, nft, ruleset, soon

pytestmark = pytest.mark.usefixtures("machine")


@in_lab()
async def test_foreign_input_rules_decide_on_published_ports(lab: Lab) -> None:
    outside = lab.neighbour()
    await lab.web()
    firewall = lab.networks.ground.firewall
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("web")
    nft("table inet admin {\n chain in {\n type filter hook input priority 0; policy drop;\n iif lo accept\n"
        " ct state established,related accept\n}\n}\n")  # fmt: skip
    assert await soon(lambda: not firewall.short_cut), "a change of the host's rules is noticed"
    assert (await aask(outside, "tcp", "10.201.7.1", 8080, seconds=SHUT)).startswith("ERROR")
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")
    warnings = lab.networks.check(*checked(lab))
    assert "nft insert rule inet admin in tcp dport PORT accept" in warnings[0]
    nft("insert rule inet admin in tcp dport 8080 accept")
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)).startswith("web")
    nft("delete table inet admin")
    assert await soon(lambda: firewall.short_cut)
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)) == "web 10.201.7.2 hello"


@in_lab()
async def test_foreign_forward_drop_keeps_published_ports_closed_but_lets_containers_out(lab: Lab) -> None:
    outside = lab.neighbour()
    outside.app(ECHO, "tcp", "0.0.0.0", "80", "out")
    server = await lab.web()
    nft("table ip filter {\n chain FORWARD {\n type filter hook forward priority 0; policy drop;\n}\n}\n")
    assert await soon(lambda: "sampan: sampan_smpf0" in ruleset())
    assert (await aask(server, "tcp", "10.201.7.2", 80)).startswith("out")
    assert (await aask(outside, "tcp", "10.201.7.1", 8080, seconds=SHUT)).startswith("ERROR"), (
        "their policy holds"
    )
    (warning,) = lab.networks.check(*checked(lab))
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
    server = await lab.web()
    for _ in range(2):  # it begins, and is told to load its rules anew
        nft(FIREWALLD)
        assert await soon(lambda: "sampan: sampan_smpf0" in ruleset())
        assert (await aask(server, "tcp", "10.201.7.2", 80)).startswith("out")
        assert await soon(lambda: not lab.networks.ground.firewall.short_cut)
        assert "ERROR" in await aask(outside, "tcp", "10.201.7.1", 8080, seconds=SHUT)
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
    server = await lab.web()
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
    server = await lab.web()
    subprocess.run(["iptables", "-P", "FORWARD", "DROP"], check=True)
    assert await soon(lambda: "ctstate" in iptables())
    assert (await aask(server, "tcp", "10.201.7.2", 80)).startswith("out")
    assert (await aask(outside, "tcp", "10.201.7.1", 8080, seconds=SHUT)).startswith("ERROR"), (
        "their policy holds"
    )
    assert '-A FORWARD -m comment --comment "sampan: sampan_smpf0" -j sampan_smpf0' in iptables()
    lab.networks.guard.lift_jumps()
    assert "sampan" not in iptables()
    subprocess.run(["nft", "delete", "table", "ip", "filter"], check=True)


def iptables() -> str:
    return subprocess.run(["iptables", "-S"], capture_output=True, text=True).stdout


@in_lab()
async def test_flushed_ruleset_is_mended(lab: Lab) -> None:
    outside = lab.neighbour()
    await lab.web()
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert await soon(lambda: "sampan_smpf0" in ruleset())
    assert (await aask(outside, "tcp", "10.201.7.1", 8080)) == "web 10.201.7.2 hello"
    assert await soon(lambda: "mend bridge" in lab.events.names())


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
