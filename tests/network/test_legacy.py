"""Beside rules of iptables-legacy."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess

import pytest

from sampan.engine.networks import CreateNetwork
from sampan.network.legacy import fingerprint
from tests.network.lab import ECHO, SHUT, Lab, aask, checked, in_lab, soon

pytestmark = pytest.mark.usefixtures("machine")


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
    await lab.web()
    firewall = lab.networks.ground.firewall
    legacy("-A", "INPUT", "-m", "conntrack", "--ctstate", "INVALID", "-j", "DROP")
    await asyncio.sleep(0.2)
    assert firewall.short_cut, "that rule closes nothing"
    legacy("-A", "INPUT", "-i", "smpfw1", "-p", "tcp", "-j", "REJECT")
    assert await soon(lambda: not firewall.short_cut), "a change of legacy rules is noticed"
    assert (await aask(outside, "tcp", "10.201.7.1", 8080, seconds=SHUT)).startswith("ERROR")
    (warning,) = lab.networks.check(*checked(lab))
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
    await lab.web()
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
    assert await soon(lambda: not firewall.short_cut), "seen before long"
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
    assert (await aask(outside, "tcp", "10.201.7.1", 8080, seconds=SHUT)).startswith("ERROR"), (
        "their policy holds"
    )
    (warning,) = lab.networks.check(*checked(lab))
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
