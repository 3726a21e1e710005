"""The texts of /etc/hosts and /etc/resolv.conf."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan import errors
from sampan.network import files
from sampan.network.files import Names, Resolv

HEAD = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


def test_hosts_as_docker_writes_them() -> None:
    text = files.hosts(
        own=["172.29.0.3"],
        hostname="9329548a232f",
        extra=[("db.example", "10.0.0.7")],
        links=[("172.29.0.2", ["database", "5d711daadc96", "db"])],
    )
    assert text == HEAD + (
        "10.0.0.7\tdb.example\n172.29.0.2\tdatabase 5d711daadc96 db\n172.29.0.3\t9329548a232f\n"
    )
    assert files.hosts(own=["1.2.3.4"], hostname="h", domainname="d.e").endswith("1.2.3.4\th.d.e h\n")
    assert files.hosts() == HEAD


def test_host_network_keeps_the_hosts_own_file(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n10.0.0.1 me")
    text = files.host_hosts([("a", "1.1.1.1")], tmp_path / "hosts")
    assert text == "127.0.0.1 localhost\n10.0.0.1 me\n1.1.1.1\ta\n"


def body(text: str) -> str:
    return "".join(line + "\n" for line in text.splitlines() if line and not line.startswith("#"))


def test_default_bridge_copies_the_hosts_servers_without_loopback() -> None:
    host = Resolv(("127.0.0.53", "192.0.2.53"), ("a.example",), ("ndots:2",))
    text = files.resolv_conf(host, Names())
    assert body(text) == "nameserver 192.0.2.53\nsearch a.example\noptions ndots:2\n"
    assert "# Overrides: []\n# Option ndots from: host\n" in text
    assert (
        body(files.resolv_conf(Resolv(("127.0.0.1",)), Names())) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    )
    chosen = files.resolv_conf(host, Names(["9.9.9.9"], ["x.example"], ["ndots:2"]))
    assert body(chosen) == "nameserver 9.9.9.9\nsearch x.example\noptions ndots:2\n"
    assert "# Overrides: [nameservers search options]\n# Option ndots from: override\n" in chosen
    assert "search" not in body(files.resolv_conf(host, Names(search=["."])))


def test_user_network_as_docker_writes_it() -> None:
    text = files.resolv_conf_internal(Resolv(("192.0.2.53",)), Names())
    assert text.partition("\n\n")[2] == (
        "nameserver 127.0.0.11\noptions ndots:0\n\n"
        "# Based on host file: '/etc/resolv.conf' (internal resolver)\n"
        "# ExtServers: [host(192.0.2.53)]\n# Overrides: []\n# Option ndots from: internal\n"
    )


@given(st.text(max_size=200))
def test_any_resolv_conf_can_be_read(text: str) -> None:
    found = files.parse_resolv(text)
    assert all(" " not in word for word in (*found.servers, *found.search, *found.options))


def test_resolv_conf_is_read_as_the_library_reads_it() -> None:
    text = (
        "# c\nnameserver 1.1.1.1 # x\ndomain old.example\nsearch a b\n"
        "options ndots:1 rotate\noptions timeout:1\n"
    )
    assert files.parse_resolv(text) == Resolv(("1.1.1.1",), ("a", "b"), ("ndots:1", "rotate", "timeout:1"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:1.2.3.4", ("a", "1.2.3.4")),
        ("a=1.2.3.4", ("a", "1.2.3.4")),
        ("six:[::1]", ("six", "::1")),
        ("six=fd00::1", ("six", "fd00::1")),
        ("six:fd00::1", ("six", "fd00::1")),
        ("host.docker.internal:host-gateway", ("host.docker.internal", "172.17.0.1")),
    ],
)
def test_extra_hosts(text: str, expected: tuple[str, str]) -> None:
    assert files.parse_extra_host(text, ["172.17.0.1"]) == [expected]


def test_host_gateway_of_both_ip_versions() -> None:
    both = files.parse_extra_host("here:host-gateway", ["172.17.0.1", "fd00::1"])
    assert both == [("here", "172.17.0.1"), ("here", "fd00::1")]


def test_bad_extra_hosts() -> None:
    with pytest.raises(errors.InvalidParameter, match='bad format for add-host: "nonsense"'):
        files.parse_extra_host("nonsense")
    with pytest.raises(errors.InvalidParameter, match='invalid IP address in add-host: "x"'):
        files.parse_extra_host("a:x")
    with pytest.raises(errors.InvalidParameter, match="unable to derive the IP value for host-gateway"):
        files.parse_extra_host("a:host-gateway")
