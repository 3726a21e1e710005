"""Networks when something is killed or ends: the engine, the switchboard, a container."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from sampan import errors
from sampan.engine.networks import CreateNetwork
from sampan.engine.networks.records import LEAVING
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from sampan.runtime.config import EndpointSettings
from tests.network.lab import ECHO, PATIENCE, SHUT, Lab, aask, in_lab, lookup, ping, soon

pytestmark = pytest.mark.usefixtures("machine")


def links() -> list[str]:
    with Netlink() as route:
        return [link.name for link in rt.list_links(route)]


async def web_answers() -> bool:
    """Whether the web server is reached on the published port, once the new switchboard has it."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if (await aask(None, "tcp", "127.0.0.1", 8080, seconds=1)).startswith("web"):
            return True
        await asyncio.sleep(0.05)
    return False


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
    process.wait()
    lab.networks.ground.firewall.set_short_cut(False)
    assert await web_answers()
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
        assert (await aask(None, "tcp", "127.0.0.1", 8080, seconds=SHUT)).startswith("ERROR")
        assert await web_answers(), "tried again"
        assert (await lookup(server, "web")).startswith("NOERROR 172.")

    check()


@in_lab()
async def test_same_namespace_used_by_another_process_loses_its_links(lab: Lab) -> None:
    container, box = await lab.run()
    stays = subprocess.Popen(box.command("sleep", "30"))
    try:
        await lab.stop(container)
        assert await soon(lambda: links() == ["lo", "smpf0"])
    finally:
        stays.kill()
        stays.wait()


@in_lab()
async def test_links_that_leave_while_the_engine_ends_or_is_killed(lab: Lab) -> None:
    for ends in (False, True):
        container, box = await lab.run()
        # It says when it is inside: a container that ended before has no namespace to enter.
        inside = box.command("sh", "-c", "echo inside; exec sleep 60")
        stays = subprocess.Popen(inside, stdout=subprocess.PIPE)
        try:
            assert stays.stdout is not None and stays.stdout.readline()
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
            assert links() == ["lo", "smpf0"] or (not ends and await soon(lambda: links() == ["lo", "smpf0"]))
        finally:
            stays.kill()
            stays.communicate()


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
async def test_killed_while_a_container_leaves_a_network(lab: Lab) -> None:
    lab.neighbour().app(ECHO, "tcp", "0.0.0.0", "80", "out")
    await lab.networks.create(CreateNetwork(name="inner", internal=True))
    await lab.networks.create(CreateNetwork(name="n1", labels={"sampan.egress": "none"}))
    both = {name: EndpointSettings() for name in ("inner", "n1")}
    web, box = await lab.run("inner", networks=both, ports={"80/tcp": "8080"})
    egress = ["nft", "list", "set", "inet", "sampan_smpf0", "egress4"]
    listening = ["ss", "-Hltn"]
    await lab.networks.switchboard.ask({"op": "state"})
    for command, there in ((egress, "elements"), (listening, ":8080 ")):
        assert there in subprocess.run(command, capture_output=True, text=True).stdout
    item = lab.networks.sandboxes.get(web.id)
    assert item is not None
    endpoint = next(one for one in item.endpoints if one.network == "n1")
    endpoint.phase = LEAVING
    lab.networks.store.save_sandbox(item)
    lab.crash()
    lab.begin()
    await lab.open()
    await lab.networks.restore({web.id: box.pid})
    assert list(lab.networks.settings(web.id)["Networks"]) == ["inner"]
    assert lab.networks.settings(web.id)["Ports"] == {}
    assert "8080" not in subprocess.run(listening, capture_output=True, text=True).stdout
    assert "elements" not in subprocess.run(egress, capture_output=True, text=True).stdout
    assert (await lookup(box, "nosuch.example")) == "SERVFAIL", "the resolver goes on"
    await lab.networks.connect("bridge", web.name)
    assert (await aask(box, "tcp", "10.201.7.2", 80)).startswith("out"), "its rules have gone with it"
