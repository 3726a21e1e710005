"""What may be written in sampan.egress."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan import errors
from sampan.network.egress import Rule, elements, parse


def test_rules() -> None:
    text = "allow=example.org, *.Example.net:443,10.0.0.0/8:443,[2001:db8::]/32,192.0.2.7:53/udp,10.1.2.3/8"
    assert parse(text) == [
        Rule(name="example.org"),
        Rule(name="*.example.net", port=443),
        Rule(network="10.0.0.0/8", port=443),
        Rule(network="2001:db8::/32"),
        Rule(network="192.0.2.7/32", port=53, protocol="udp"),
        Rule(network="10.0.0.0/8"),
    ]
    ranges = "10.0.0.0/8:80-90/udp,a.b:80-81,[fd00::]/8:7-7"
    assert parse(ranges) == [
        Rule(network="10.0.0.0/8", port=80, last=90, protocol="udp"),
        Rule(name="a.b", port=80, last=81),
        Rule(network="fd00::/8", port=7),
    ]
    assert ",".join(map(str, parse(ranges))) == "10.0.0.0/8:80-90/udp,a.b:80-81,[fd00::]/8:7"
    assert parse("") == parse("none") == parse("allow=") == []


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "x:99999",
        "10.0.0.0/33",
        "http://x",
        "x:80/icmp",
        "-bad-",
        "1.2.3",
        "a..b",
        "10.0.0.0/8:90-80",
        "x:0-80",
        "x:1-65536",
        "x:1-17",
        "x:80-",
    ],
)
def test_bad_rules(text: str) -> None:
    with pytest.raises(errors.InvalidParameter, match=r"^invalid egress rule"):
        parse(text)


@given(st.text(max_size=30))
def test_what_is_accepted_can_be_written_and_read_again(text: str) -> None:
    try:
        rules = parse(text)
    except errors.InvalidParameter:
        return
    assert parse(",".join(map(str, rules))) == rules


@pytest.mark.parametrize("text", ["", "none", "NONE", "None.", "allow=", " allow=none "])
def test_nothing_is_allowed(text: str) -> None:
    assert parse(text) == []


def test_elements() -> None:
    rules = parse("example.org:80,10.0.0.0/8:443,192.0.2.0/24,[fd00::]/8")
    assert elements(rules, ["10.201.6.2", "fd01::2"]) == {
        "egress4": ["10.201.6.2"],
        "allowport4": ["10.201.6.2 . 10.0.0.0/8 . 6 . 443"],
        "allow4": ["10.201.6.2 . 192.0.2.0/24"],
        "egress6": ["fd01::2"],
        "allow6": ["fd01::2 . fd00::/8"],
    }


NETWORKS = st.builds(
    lambda number, size: str(ipaddress.ip_network((number, size), strict=False)),
    st.integers(0x0A000000, 0x0A00000F), st.integers(28, 32),
)  # fmt: skip
RULES = st.builds(
    lambda network, first, more, protocol: Rule("", network, first, protocol, first + more if more else 0),
    NETWORKS, st.integers(1, 6), st.integers(0, 3), st.sampled_from(["tcp", "udp"]),
)  # fmt: skip


@given(st.lists(RULES, max_size=6))
def test_elements_never_overlap_and_allow_what_the_rules_do(rules: list[Rule]) -> None:
    opened = []
    for key in elements(rules, ["10.9.9.9"]).get("allowport4", []):
        _source, network, protocol, ports = key.split(" . ")
        first, _, last = ports.partition("-")
        opened += [
            (str(address), protocol, port)
            for address in ipaddress.ip_network(network)
            for port in range(int(first), int(last or first) + 1)
        ]
    assert len(opened) == len(set(opened)), "a set of intervals takes no overlaps"
    assert set(opened) == {
        (str(address), {"tcp": "6", "udp": "17"}[rule.protocol], port)
        for rule in rules
        for address in ipaddress.ip_network(rule.network)
        for port in rule.ports
    }
