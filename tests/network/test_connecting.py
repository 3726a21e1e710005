"""Connecting and disconnecting containers, and what is refused."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any

import pytest

from sampan import errors
from sampan.engine.networks import CreateNetwork
from sampan.engine.networks.create import IPAM, IPAMConfig
from sampan.runtime.config import EndpointIPAMConfig, EndpointSettings
from tests.network.lab import ECHO, Lab, aask, in_lab, lookup, ping

pytestmark = pytest.mark.usefixtures("machine")


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
async def test_who_was_taken_off_his_last_network_stays_so(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    web, _box = await lab.run("n1", name="web", ports={"80/tcp": "8080"})
    await lab.networks.disconnect("n1", "web")
    await lab.stop(web)
    box, _prepared = await lab.start(web)
    assert lab.networks.settings(web.id)["Networks"] == {}
    shown = subprocess.run(box.command("ip", "-o", "link"), capture_output=True, text=True).stdout
    assert shown.count("\n") == 1 and ": lo:" in shown
    await lab.networks.connect("n1", "web")
    box.app(ECHO, "tcp", "0.0.0.0", "80", "web")
    assert (await aask(None, "tcp", "127.0.0.1", 8080)).startswith("web")
    await lab.stop(web)
    await lab.networks.disconnect("n1", "web")
    await lab.networks.connect("bridge", "web")
    await lab.start(web)
    assert list(lab.networks.settings(web.id)["Networks"]) == ["bridge"]


@in_lab()
async def test_from_none_to_a_network(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="n1"))
    none, box = await lab.run("none", name="alone")
    with pytest.raises(errors.InvalidParameter, match="in private \\(none\\) mode"):
        await lab.networks.connect("n1", "alone")
    await lab.networks.disconnect("none", "alone")
    await lab.networks.connect("n1", "alone")
    assert (await lookup(box, "alone")).startswith("NOERROR 172.")
    await lab.stop(none)
    await lab.start(none)
    assert list(lab.networks.settings(none.id)["Networks"]) == ["n1"]


@in_lab()
async def test_connecting_again_before_the_start(lab: Lab) -> None:
    subnet = IPAM(config=[IPAMConfig(subnet="172.29.60.0/24")])
    await lab.networks.create(CreateNetwork(name="n2", ipam=subnet))
    web = lab.container(name="web")
    fixed = EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="172.29.60.77"), aliases=["al"])
    await lab.networks.connect("n2", "web", fixed)
    await lab.networks.connect("n2", "web", EndpointSettings(ipam_config=EndpointIPAMConfig()))
    box, _prepared = await lab.start(web)
    assert await lookup(box, "al") == "NOERROR 172.29.60.77"


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


@in_lab()
async def test_a_connect_that_fails_as_its_container_ends_leaves_no_rules(lab: Lab) -> None:
    """Whoever gets the address next would be held by rules that nobody gave it."""
    await lab.networks.create(CreateNetwork(name="shut", labels={"sampan.egress": "none"}))
    missing = {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.nosuch=1"}

    async def end(container: str, after: float) -> None:
        await asyncio.sleep(after)
        await lab.networks.release(container)

    for number in range(12):
        container, _box = await lab.run()
        joining = lab.networks.connect("shut", container.name, EndpointSettings(driver_opts=missing))
        await asyncio.gather(joining, end(container.id, 0.002 * number), return_exceptions=True)
    left = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    assert "elements" not in left.partition("set egress4 ")[2].partition("}")[0]


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
async def test_gateway_priority(lab: Lab) -> None:
    await lab.networks.create(CreateNetwork(name="a"))
    await lab.networks.create(CreateNetwork(name="b"))
    both = {"a": EndpointSettings(), "b": EndpointSettings(gw_priority=10)}
    container, box = await lab.run("a", networks=both)
    gateway = lab.networks.settings(container.id)["Networks"]["b"]["Gateway"]
    routes = subprocess.run(box.command("ip", "route"), capture_output=True, text=True).stdout
    assert f"default via {gateway} dev eth1" in routes


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


@in_lab(bip="10.201.6.1/29")
async def test_exhausted_pool(lab: Lab) -> None:
    started = [(await lab.run())[0] for _ in range(5)]
    with pytest.raises(
        errors.SystemFailure, match="no available IPv4 addresses on this network's address pools"
    ):
        await lab.run()
    await lab.stop(started[2])
    await lab.run()
