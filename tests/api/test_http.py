"""The HTTP core on raw requests, against a real daemon; h11 judges what comes back."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan import errors
from sampan.api import jsonsyntax
from sampan.api.body import BadBody, ChunkedDecoder
from sampan.api.query import parse_filters, parse_query


def talk(daemon: Any, request: bytes) -> bytes:
    """Everything that the daemon sends back until it closes."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(daemon.socket)
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        parts = []
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("request_line", "status", "message"),
    [
        ("GET /v1.50/nowhere", 404, "page not found"),
        ("GET /v1.50/containers/json/", 404, "page not found"),
        ("GET /1.50/containers/json", 404, "page not found"),
        ("PUT /v1.50/version", 404, "page not found"),
        ("GET /v1.99/version", 400, "client version 1.99 is too new. Maximum supported API version is 1.55"),
        ("GET /v1.50/swarm", 503, "This node is not a swarm manager."),
        ("POST /v1.50/swarm/leave", 503, "This node is not part of a swarm"),
        ("POST /v1.50/session", 400, "no upgrade proto in request"),
        ("GET /v1.50/events?since=x", 400, "invalid value for 'since': invalid timestamp \"x\""),
        ("GET /v1.50/events?until=1&since=2", 400, "`since` time (2) cannot be after `until` time (1)"),
        ("GET /v1.50/images/json?filters=nonsense", 400, "invalid filter"),
        ("GET /v1.50/images/nosuch/json", 404, "No such image: nosuch:latest"),
        ("GET /v1.50/images/search?term=x&limit=200", 400, "limit 200 is outside the range of [1, 100]"),
    ],
)
def test_errors(sampand: Any, request_line: str, status: int, message: str) -> None:
    data = talk(sampand, f"{request_line} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    judge = h11.Connection(h11.CLIENT)
    judge.send(h11.Request(method=request_line.split()[0], target="/", headers=[("Host", "x")]))
    judge.send(h11.EndOfMessage())
    judge.receive_data(data)
    head = judge.next_event()
    assert isinstance(head, h11.Response)
    assert head.status_code == status
    body = judge.next_event()
    assert isinstance(body, h11.Data)
    assert message in json.loads(bytes(body.data))["message"]
    assert bytes(body.data).endswith(b"\n")


def test_too_old_is_plain_text(sampand: Any) -> None:
    data = talk(sampand, b"GET /v1.23/info HTTP/1.1\r\nHost: x\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Type: text/plain; charset=utf-8\r\n" in data
    assert b"client version 1.23 is too old. Minimum supported API version is 1.24" in data


def test_doubled_slashes_move(sampand: Any) -> None:
    data = talk(sampand, b"GET /v1.50//version?a=b HTTP/1.1\r\nHost: x\r\n\r\n")
    assert data.startswith(b"HTTP/1.1 301 ")
    assert b"Location: /v1.50/version?a=b\r\n" in data


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /_ping HTTP/1.1\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /_ping HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70000 + b"\r\n\r\n", b"431"),
        (
            b"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"400",
        ),
        (b"POST /auth HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
    ],
)
def test_bad_heads(sampand: Any, head: bytes, status: bytes) -> None:
    assert talk(sampand, head).split(b" ")[1] == status
    assert sampand.api("GET", "/_ping")[0] == 200


@settings(max_examples=30, deadline=None)
@given(junk=st.binary(min_size=1, max_size=300))
def test_junk_never_hangs_the_daemon(sampand: Any, junk: bytes) -> None:
    talk(sampand, junk)
    assert sampand.api("GET", "/_ping")[0] == 200


@given(pieces=st.lists(st.binary(min_size=1, max_size=50), max_size=8), cut=st.integers(1, 20))
def test_chunks_arrive_however_they_are_cut(pieces: list[bytes], cut: int) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\nrest"
    decoder, out, rest = ChunkedDecoder(), b"", b""
    for start in range(0, len(wire), cut):
        part = wire[start : start + cut]
        if decoder.done:
            rest += part
            continue
        found, left = decoder.feed(part)
        out += found
        rest += left
    assert (out, rest, decoder.done) == (b"".join(pieces), b"rest", True)


def test_bad_chunk_sizes() -> None:
    for bad in (b"x\r\n", b"-1\r\n", b"1\r\nab", b"\r\n"):
        with pytest.raises(BadBody):
            ChunkedDecoder().feed(bad + b"\r\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"this", "invalid character 'h' in literal true (expecting 'r')"),
        (b'{"Image":', "unexpected EOF"),
        (b"", "EOF"),
        (b"x", "invalid character 'x' looking for beginning of value"),
        (b"{} x", jsonsyntax.TRAILING),
        (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        (b'{"a" 1}', "invalid character '1' after object key"),
        (b"[1 2]", "invalid character '2' after array element"),
    ],
)
def test_go_words_for_json_errors(text: bytes, message: str) -> None:
    assert jsonsyntax.explain(text) == message


@given(st.binary(max_size=60))
def test_explain_agrees_with_a_parser(data: bytes) -> None:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return
    if data.isascii() and not any(word in data for word in (b"NaN", b"Infinity")):
        assert jsonsyntax.explain(data) == ""


def test_filters_in_both_forms() -> None:
    assert parse_filters('{"status":{"running":true}}') == {"status": ["running"]}
    assert parse_filters('{"status":["running"]}') == {"status": ["running"]}
    with pytest.raises(errors.InvalidParameter, match="invalid filter"):
        parse_filters('{"status":5}')


def test_query_escapes() -> None:
    assert parse_query("a=b+c&a=%41&x") == {"a": ["b c", "A"], "x": [""]}
    with pytest.raises(errors.InvalidParameter, match="invalid URL escape"):
        parse_query("a=%zz")


def test_a_stream_waits_until_its_head_was_read(sampand: Any, busybox: str) -> None:
    """What docker-py gets with the head it loses."""
    body = {"Image": busybox, "Cmd": ["sleep", "60"], "HostConfig": {"NetworkMode": "none"}}
    container = sampand.json("POST", "/containers/create", body)["Id"]
    try:
        sampand.json("POST", f"/containers/{container}/start")
        for pause in (0.05, 0.5, 2.5):
            create = {"Cmd": ["echo", "hi"], "AttachStdout": True}
            started = sampand.json("POST", f"/containers/{container}/exec", create)["Id"]
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(60)
                client.connect(sampand.socket)
                head = f"POST /v1.50/exec/{started}/start HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                head += "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}"
                client.sendall(head.encode())
                time.sleep(pause)  # the client has no processor; the program has ended meanwhile
                first = client.recv(65536)
                assert first.startswith(b"HTTP/1.1 101")
                rest = b"".join(iter(lambda: client.recv(65536), b""))
                assert (first + rest).endswith(b"\1\0\0\0\0\0\0\3hi\n")
                if pause < 1:
                    assert first.endswith(b"\r\n\r\n")
    finally:
        sampand.json("DELETE", f"/containers/{container}?force=1")
