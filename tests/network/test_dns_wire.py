"""DNS messages, with dnslib as the judge."""

from __future__ import annotations

import ipaddress

import dnslib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.network.switchboard import wire
from sampan.network.switchboard.resolver import Names

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=20)
NAME = st.lists(LABEL, min_size=1, max_size=5).map(".".join)


@given(NAME, st.sampled_from(["A", "AAAA", "PTR", "MX"]), st.booleans())
def test_queries_are_read_as_the_judge_wrote_them(name: str, kind: str, edns: bool) -> None:
    record = dnslib.DNSRecord.question(name.upper(), kind)
    if edns:
        record.add_ar(dnslib.EDNS0(udp_len=1232))
    question = wire.parse_query(record.pack())
    assert question.name == name.lower()
    assert question.kind == getattr(dnslib.QTYPE, kind)
    assert question.size == (1232 if edns else 512)


@given(NAME, st.lists(st.ip_addresses(), max_size=60))
def test_answers_are_read_by_the_judge(name: str, found: list[object]) -> None:
    query = dnslib.DNSRecord.question(name, "A").pack()
    texts = [str(address) for address in found]
    raw = wire.answer(wire.parse_query(query), map(wire.address_record, texts), limit=512)
    assert len(raw) <= 512
    parsed = dnslib.DNSRecord.parse(raw)
    assert (
        parsed.header.qr and parsed.header.ra and parsed.header.id == dnslib.DNSRecord.parse(query).header.id
    )
    assert str(parsed.q.qname).rstrip(".") == name
    got = [str(item.rdata) for item in parsed.rr]
    assert parsed.header.tc == (len(got) < len(texts))
    read = [(ipaddress.ip_address(text), ttl) for text, ttl in wire.addresses(raw)]
    assert read == [(address, 600) for address in found[: len(got)]]


def test_addresses_behind_compressed_names_and_aliases() -> None:
    record = dnslib.DNSRecord.question("www.example.org")
    reply = record.reply()
    reply.add_answer(dnslib.RR("www.example.org", 5, rdata=dnslib.CNAME("host.example.org"), ttl=9))
    reply.add_answer(dnslib.RR("host.example.org", 1, rdata=dnslib.A("192.0.2.9"), ttl=7))
    assert list(wire.addresses(reply.pack())) == [("192.0.2.9", 7)]


@given(st.binary(max_size=120))
def test_any_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    for read in (wire.parse_query, lambda raw: list(wire.addresses(raw))):
        try:
            read(data)
        except ValueError:
            continue
    refusal = wire.failure(data, wire.FORMERR)
    assert refusal == b"" or refusal[:2] == data[:2]


def test_pointer_loops_end() -> None:
    head = dnslib.DNSRecord.question("x").pack()[:12]
    for loop in (b"\xc0\x0c\0\1\0\1", b"\1a\xc0\x0c\0\1\0\1", b"\xc0\x0e\xc0\x0c\0\1\0\1"):
        with pytest.raises(ValueError):
            wire.parse_query(head + loop)


@pytest.mark.parametrize("address", ["192.0.2.7", "fd00::1:2"])
def test_reverse_names(address: str) -> None:
    assert wire.reverse_address(ipaddress.ip_address(address).reverse_pointer) == address
    assert wire.reverse_address("x." + ipaddress.ip_address(address).reverse_pointer) == ""


def test_names_of_networks() -> None:
    names = Names()
    names.put("id1", "net", "e1", ["web", "svc"], ["10.0.0.2"])
    names.put("id1", "net", "e2", ["db", "svc"], ["10.0.0.3", "fd00::3"])
    assert names.find("id1", "web") == ["10.0.0.2"]
    assert names.find("id1", "web.net") == ["10.0.0.2"]
    assert names.find("id1", "svc") == ["10.0.0.2", "10.0.0.3", "fd00::3"]
    assert names.find("id2", "web") is None and names.find("id1", "nobody") is None
    assert names.owner("id1", "fd00::3") == "db.net"
    names.put("id1", "net", "e1", ["renamed"], ["10.0.0.2"])
    assert names.find("id1", "web") is None and names.find("id1", "renamed") == ["10.0.0.2"]
    names.drop("id1", "e2")
    assert names.find("id1", "svc") is None and names.owner("id1", "10.0.0.3") == ""
