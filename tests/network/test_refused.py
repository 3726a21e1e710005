"""What is read from the headers of a refused packet, and from the kernel's set of them."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.network.egress import refused_entries, refused_packet


def ipv4(protocol: int, rest: bytes, options: bytes = b"") -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 0, 0, 0, 64, protocol, 0)
    return head + bytes([10, 0, 0, 2, 192, 0, 2, 7]) + options + rest


def ipv6(protocol: int, rest: bytes) -> bytes:
    addresses = ipaddress.ip_address("fd00::2").packed + ipaddress.ip_address("2001:db8::7").packed
    return struct.pack("!IHBB", 6 << 28, len(rest), protocol, 64) + addresses + rest


@pytest.mark.parametrize(
    ("packet", "shown"),
    [
        (ipv4(6, struct.pack("!HH", 4000, 443)), "192.0.2.7:443/tcp"),
        (ipv4(17, struct.pack("!HH", 4000, 53), b"\1" * 8), "192.0.2.7:53/udp"),
        (ipv4(1, b"\x08\0ab"), "192.0.2.7 (icmp)"),
        (ipv4(6, b"\0"), "192.0.2.7 (tcp)"),
        (ipv4(47, b"abcd"), "192.0.2.7 (protocol 47)"),
        (ipv6(6, struct.pack("!HH", 4000, 443)), "[2001:db8::7]:443/tcp"),
        (ipv6(58, b"\x80\0ab"), "2001:db8::7 (icmpv6)"),
    ],
)
def test_packets(packet: bytes, shown: str) -> None:
    refused = refused_packet(packet)
    assert refused is not None and str(refused) == shown
    assert refused.source in ("10.0.0.2", "fd00::2")


@given(st.binary(max_size=80))
def test_any_bytes(packet: bytes) -> None:
    refused = refused_packet(packet)
    assert refused is None or 0 <= refused.port <= 65535


def test_icmp_has_no_port() -> None:
    element = {"val": {"concat": ["10.0.0.2", "192.0.2.7", "icmp", 2048]}, "counter": {"packets": 3}}
    (entry,) = refused_entries({"set": {"elem": [{"elem": element}]}})
    assert (entry["protocol"], entry["port"], entry["packets"]) == ("icmp", 0, 3)
