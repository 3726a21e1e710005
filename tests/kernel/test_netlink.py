"""Our netlink messages, with pyroute2 as the judge of what the kernel made of them."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2 import IPRoute

from sampan.kernel import conntrack
from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink, NetlinkError, attribute, attributes, nest, number, text
from sampan.kernel.nft import Nft
from sampan.kernel.nftevents import Monitor, own_pid
from tests.network.lab import ASK, ECHO, Box, own_namespace


@pytest.fixture
def route() -> Iterator[Netlink]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with own_namespace(), Netlink() as socket:
        yield socket


def test_veth_on_a_bridge_into_a_namespace(route: Netlink) -> None:
    box = Box()
    netns = os.open(f"/proc/{box.pid}/ns/net", os.O_RDONLY)
    try:
        route.send(rt.add_bridge("smpf0", mac="02:00:00:00:00:01", mtu=1400))
        bridge = rt.find_link(route, "smpf0")
        assert bridge is not None and (bridge.kind, bridge.mtu, bridge.mac) == (
            "bridge",
            1400,
            "02:00:00:00:00:01",
        )
        route.send(
            rt.add_veth("smpfv", "eth0", netns=netns, mac="02:11:22:33:44:55", mtu=1400, master=bridge.index),
            rt.bridge_port("smpfv", hairpin=True, isolated=True),
            rt.change_link(bridge.index, up=True, alias="mine"),
            rt.add_address(bridge.index, ipaddress.ip_interface("10.201.6.1/24")),
        )
        with IPRoute() as judge:
            (link,) = judge.link("get", ifname="smpfv")
            assert link.get("state") == "up" and link.get("IFLA_MASTER") == bridge.index
            slave = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA")
            assert slave.get("IFLA_BRPORT_MODE") == 1 and slave.get("IFLA_BRPORT_ISOLATED") == 1
            (seen,) = judge.link("get", ifname="smpf0")
            assert seen.get("IFLA_IFALIAS") == "mine"
            (address,) = judge.get_addr(index=bridge.index, family=2)
            assert (address.get("IFA_LOCAL"), address["prefixlen"]) == ("10.201.6.1", 24)
            assert address.get("IFA_BROADCAST") == "10.201.6.255"
        inside = subprocess.run(
            box.command("ip", "link", "show", "eth0"), capture_output=True, text=True
        ).stdout
        assert "02:11:22:33:44:55" in inside and "mtu 1400" in inside
    finally:
        os.close(netns)
        box.end()


def test_a_quiet_port_and_settings_by_message(route: Netlink) -> None:
    box = Box()
    netns = os.open(f"/proc/{box.pid}/ns/net", os.O_RDONLY)
    try:
        refused = rt.add_bridge("smpf0")._replace(optional=True)
        route.send(
            rt.add_bridge("smpf0"),
            refused,
            rt.add_veth("smpfv", "eth0", netns=netns),
            rt.without_own_ipv6("smpfv"),
        )
        bridge = rt.find_link(route, "smpf0")
        assert bridge is not None
        route.send(rt.set_ipv4(bridge.index, [(rt.ARP_NOTIFY, 1), (rt.ROUTE_LOCALNET, 1)]))
        for name, value in {
            "ipv4/conf/smpf0/arp_notify": "1",
            "ipv4/conf/smpf0/route_localnet": "1",
            "ipv4/conf/smpf0/arp_accept": "0",
            "ipv6/conf/smpfv/addr_gen_mode": "1",
        }.items():
            assert Path("/proc/sys/net", name).read_text().strip() == value, name
        with IPRoute() as judge:
            (link,) = judge.link("get", ifname="smpfv")
            assert (link.get("IFLA_NUM_TX_QUEUES"), link.get("IFLA_NUM_RX_QUEUES")) == (1, 1)
            subprocess.run(box.command("ip", "link", "set", "eth0", "up"), check=True)
            deadline = time.monotonic() + 60
            while link.get("IFLA_OPERSTATE") != "UP" and time.monotonic() < deadline:
                time.sleep(0.01)
                (link,) = judge.link("get", ifname="smpfv")
            assert link.get("IFLA_OPERSTATE") == "UP"
        index = socket.if_nametoindex("smpfv")
        assert not [item for item in rt.list_addresses(route) if item.index == index]
    finally:
        os.close(netns)
        box.end()


def test_lists_agree_with_the_judge(route: Netlink) -> None:
    route.send(rt.add_bridge("smpf0"), rt.change_link(name="smpf0", up=True))
    bridge = rt.find_link(route, "smpf0")
    assert bridge is not None
    route.send(
        rt.add_address(bridge.index, ipaddress.ip_interface("10.201.6.1/24")),
        rt.add_address(bridge.index, ipaddress.ip_interface("fd00:6::1/64")),
        rt.add_route(
            ipaddress.ip_network("192.0.2.0/24"), gateway=ipaddress.ip_address("10.201.6.9"), metric=7
        ),
        rt.add_route(ipaddress.ip_network("0.0.0.0/0"), gateway=ipaddress.ip_address("10.201.6.9")),
        rt.add_route(ipaddress.ip_network("fd99::/64"), gateway=ipaddress.ip_address("fd00:6::9")),
    )
    with IPRoute() as judge:
        assert {(link.index, link.name) for link in rt.list_links(route)} == {
            (link["index"], link.get("IFLA_IFNAME")) for link in judge.get_links()
        }
        seen = {
            (str(item.destination), str(item.gateway), item.metric)
            for item in rt.list_routes(route)
            if item.gateway is not None
        }
        expected = {
            (f"{item.get('RTA_DST')}/{item['dst_len']}" if item["dst_len"] else "0.0.0.0/0",
             item.get("RTA_GATEWAY"), item.get("RTA_PRIORITY") or 0)
            for item in judge.get_routes()
            if item.get("RTA_GATEWAY")
        }  # fmt: skip
        assert seen == expected and len(seen) == 3
    route.send(
        rt.delete_route(ipaddress.ip_network("192.0.2.0/24"), gateway=ipaddress.ip_address("10.201.6.9"))
    )
    assert not any(str(item.destination) == "192.0.2.0/24" for item in rt.list_routes(route))
    route.send(rt.delete_address(bridge.index, ipaddress.ip_interface("10.201.6.1/24")))
    assert all(item.address.version == 6 for item in rt.list_addresses(route) if item.index == bridge.index)


def test_a_refused_message_says_which_and_why_and_the_others_are_done(route: Netlink) -> None:
    with pytest.raises(NetlinkError) as refused:
        route.send(rt.add_bridge("smpf0"), rt.add_bridge("smpf0"), rt.add_bridge("smpf1"))
    assert (refused.value.errno, refused.value.index) == (errno.EEXIST, 1)
    assert rt.find_link(route, "smpf1") is not None
    assert rt.find_link(route, "nosuch") is None


def test_mac_addresses() -> None:
    assert rt.mac_bytes("02:42:ac:11:00:02") == b"\x02\x42\xac\x11\0\x02"
    with pytest.raises(ValueError):
        rt.mac_bytes("02:42")


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=10))
def test_attributes_come_back(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, payload) for kind, payload in pairs)
    assert list(attributes(data)) == pairs
    assert list(attributes(nest(5, data))) == [(5, data)]


@given(st.binary(max_size=100))
def test_any_bytes_can_be_walked(data: bytes) -> None:
    assert sum(len(payload) for _kind, payload in attributes(data)) <= len(data)


def test_texts_and_numbers() -> None:
    assert dict(attributes(text(3, "lo") + number(4, 7, "H"))) == {3: b"lo\0", 4: b"\7\0"}


def test_monitor_tells_of_others_only(route: Netlink) -> None:
    with Monitor() as monitor:
        subprocess.run(["nft", "add table ip smpf_other"], check=True)
        assert monitor.others_changed({own_pid()})
        assert not monitor.others_changed({own_pid()}), "told once"
        Nft().run("delete table ip smpf_other")
        assert not monitor.others_changed({own_pid()})


def test_conntrack_forgets_what_is_asked(route: Netlink) -> None:
    subprocess.run(["nft", "-f", "-"], input="table ip t { chain c { type filter hook input priority 0\n"
                   "ct state new accept\n}\n}", text=True, check=True)  # fmt: skip
    app = subprocess.Popen(
        [sys.executable, "-c", ECHO, "udp", "127.0.0.1", "5300", "x"], stdout=subprocess.PIPE
    )
    try:
        assert app.stdout is not None and app.stdout.readline()
        subprocess.run([sys.executable, "-c", ASK, "udp", "127.0.0.1", "5300", "y", "5"], check=True)
        assert conntrack.forget(lambda flow: flow.port == 5301) == 0
        assert conntrack.forget(lambda flow: flow.protocol == 17 and flow.port == 5300) == 1
        assert conntrack.forget(lambda flow: flow.port == 5300) == 0
    finally:
        app.kill()
        app.wait()
        assert app.stdout is not None
        app.stdout.close()
