"""Port specifications, and sockets that hold ports."""

from __future__ import annotations

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan import errors
from sampan.network.ports import Published, Reservations, Wanted, parse_host_port, parse_port, plan, port_map


@given(st.integers(0, 65535), st.sampled_from(["tcp", "udp", "sctp"]))
def test_port_keys(number: int, protocol: str) -> None:
    assert parse_port(f"{number}/{protocol}") == (number, protocol)
    assert parse_port(f"{number}/{protocol.upper()}") == (number, protocol)
    assert parse_port(str(number)) == (number, "tcp")


@given(st.text(max_size=12))
def test_any_text_is_a_port_or_a_clear_error(text: str) -> None:
    for parse in (parse_port, parse_host_port):
        try:
            parsed = parse(text)
        except errors.InvalidParameter as refused:
            assert "port" in refused.message
        else:
            assert all(0 <= item <= 65535 for item in parsed if isinstance(item, int))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", (0, 0)), ("0", (0, 0)), ("80", (80, 80)), ("8000-8010", (8000, 8010))],
)
def test_host_ports(text: str, expected: tuple[int, int]) -> None:
    assert parse_host_port(text) == expected


@pytest.mark.parametrize("text", ["x", "80-", "10-5", "70000", "-1", "1-2-3", " 80"])
def test_bad_host_ports(text: str) -> None:
    with pytest.raises(errors.InvalidParameter, match=r"^invalid port specification: "):
        parse_host_port(text)


def test_plan() -> None:
    bindings = {
        "80/tcp": [{"HostIp": "", "HostPort": "8080"}, {"HostIp": "127.0.0.1", "HostPort": "8081"}],
        "81/udp": None,
    }
    wanted = plan(bindings, ["80/tcp", "90/tcp"], publish_all=True)
    assert wanted == [
        Wanted(80, "tcp", "", 8080, 8080),
        Wanted(80, "tcp", "127.0.0.1", 8081, 8081),
        Wanted(81, "udp"),
        Wanted(90, "tcp"),
    ]
    assert plan({"80": [{}]}, default_ip="192.0.2.1") == [Wanted(80, "tcp", "192.0.2.1")]
    with pytest.raises(errors.InvalidParameter, match="invalid IP address in port mapping: nowhere"):
        plan({"80/tcp": [{"HostIp": "nowhere"}]})


def test_port_map() -> None:
    shown = port_map([Published(80, "tcp", "0.0.0.0", 8080), Published(80, "tcp", "::", 8080)])
    assert shown == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}]
    }


@pytest.mark.usefixtures("machine")
class TestReservations:
    def test_all_or_nothing(self) -> None:
        ports = Reservations()
        holder = socket.create_server(("127.0.0.1", 5001))
        with (
            holder,
            pytest.raises(errors.SystemFailure, match=r"127\.0\.0\.1:5001/tcp: address already in use"),
        ):
            ports.reserve([Wanted(1, "tcp", "", 5000, 5000), Wanted(2, "tcp", "127.0.0.1", 5001, 5001)], "a")
        socket.create_server(("127.0.0.1", 5000)).close()

    def test_a_range_takes_the_first_free_one(self) -> None:
        ports = Reservations()
        with socket.create_server(("0.0.0.0", 6000)):
            held = ports.reserve([Wanted(80, "tcp", "0.0.0.0", 6000, 6002)], "a")
            assert [item.published.host_port for item in held] == [6001]
            again = ports.reserve([Wanted(80, "tcp", "0.0.0.0", 6000, 6002)], "b")
            assert [item.published.host_port for item in again] == [6002]
            with pytest.raises(errors.SystemFailure):
                ports.reserve([Wanted(80, "tcp", "0.0.0.0", 6000, 6002)], "c")
            ports.release(held + again)
            ports.release(ports.reserve([Wanted(80, "tcp", "0.0.0.0", 6001, 6001)], "d"))

    def test_random_ports_are_the_same_for_both_families_and_go_on(self) -> None:
        ports = Reservations((40000, 40003))
        numbers = []
        for owner in "abcd":
            held = ports.reserve([Wanted(80, "tcp")], owner)
            assert [item.published.host_ip for item in held] == ["0.0.0.0", "::"]
            assert len({item.published.host_port for item in held}) == 1
            numbers.append(held[0].published.host_port)
            ports.release(held)
        assert numbers == [40000, 40001, 40002, 40003]

    def test_an_address_of_another_machine_is_told_so(self) -> None:
        with pytest.raises(errors.SystemFailure, match=r"192\.0\.2\.1:5000/tcp: cannot assign") as told:
            Reservations().reserve([Wanted(1, "tcp", "192.0.2.1", 5000, 5000)], "a")
        assert told.value.hint.startswith("192.0.2.1 is no address of this machine")

    def test_own_conflicts_are_worded_as_dockerd_does(self) -> None:
        ports = Reservations()
        held = ports.reserve([Wanted(80, "tcp", "", 7000, 7000)], "first")
        for host in ("", "127.0.0.1"):
            shown = host or "0.0.0.0"
            with pytest.raises(errors.SystemFailure, match=f"^Bind for {shown}:7000 failed: port is already"):
                ports.reserve([Wanted(80, "tcp", host, 7000, 7000)], "second")
        udp = ports.reserve([Wanted(80, "udp", "", 7000, 7000)], "second")
        ports.release(held + udp)
