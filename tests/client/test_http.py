"""The HTTP client on real sockets: framing, keep-alive, refusals, upgrades."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.client import endpoint
from sampan.client.engine import Client, encode_query, path_of
from sampan.client.errors import APIError, ClientError, ConnectFailed, ProtocolError
from sampan.client.frames import Demultiplexer
from sampan.client.http import Connection, Response
from tests.client.conftest import read_head

Serve = Callable[[Callable[[socket.socket], None]], str]


class Canned:
    """A stream whose bytes are known beforehand and come in pieces of one size."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size, self.sent = data, size, b""

    def recv(self, size: int, /) -> bytes:
        piece, self.data = self.data[: self.size], self.data[self.size :]
        return piece

    def sendall(self, data: bytes, /) -> None:
        self.sent += data

    def send_some(self, data: bytes, /) -> int:
        self.sent += data
        return len(data)

    def fileno(self) -> int:
        return -1

    def pending(self) -> int:
        return 0

    def close_write(self) -> None: ...

    def close(self) -> None: ...


def chunked(pieces: list[bytes], trailer: bytes = b"") -> bytes:
    body = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return body + b"0\r\n" + trailer + b"\r\n"


@given(st.lists(st.binary(max_size=50), max_size=6), st.integers(1, 70), st.booleans())
def test_bodies_in_any_pieces(pieces: list[bytes], size: int, trailer: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = head + chunked(pieces, b"X-T: 1\r\n" if trailer else b"")
    again = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(map(len, pieces)) + b"".join(pieces)
    connection = Connection(Canned(data + again, size), "h")
    for _ in range(2):
        response = connection.request("GET", "/")
        assert response.read() == b"".join(pieces)
        assert response.finished and connection.reusable


@given(st.binary(max_size=200), st.integers(1, 50))
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_junk_is_an_error_of_ours(data: bytes, size: int) -> None:
    with contextlib.suppress(ClientError):
        Connection(Canned(data, size), "h").request("GET", "/").read()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/2 200\r\n\r\n",
    ],
)
def test_broken_answers(answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        Connection(Canned(answer, 9), "h").request("GET", "/").read()


def _client(path: str) -> Client:
    return Client(endpoint.parse(f"unix://{path}"))


def test_version_is_negotiated_and_the_connection_kept(serve: Serve) -> None:
    heads: list[bytes] = []
    connections: list[int] = []

    def script(connection: socket.socket) -> None:
        connections.append(1)
        while head := read_head(connection):
            heads.append(head.split(b"\r\n")[0])
            if head.startswith(b"HEAD"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.30\r\nContent-Length: 0\r\n\r\n")
            else:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    client = _client(serve(script))
    assert client.call("GET", "/info") == {}
    assert client.call("GET", "/info", {"a": True, "b": ["x y", "z"], "c": None}) == {}
    assert heads[0].startswith(b"HEAD /_ping ")
    assert heads[1:] == [b"GET /v1.30/info HTTP/1.1", b"GET /v1.30/info?a=1&b=x%20y&b=z HTTP/1.1"]
    assert len(connections) == 1
    client.close()


def test_a_refusal_before_the_body_ends_is_heard(serve: Serve) -> None:
    def script(connection: socket.socket) -> None:
        head = read_head(connection)
        if head.startswith(b"HEAD"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 0\r\n\r\n")
            head = read_head(connection)
        connection.sendall(b'HTTP/1.1 400 Bad Request\r\nContent-Length: 17\r\n\r\n{"message":"no!"}')

    client = _client(serve(script))
    endless = (b"x" * 65536 for _ in range(10_000))
    with pytest.raises(APIError, match="no!") as caught:
        client.call("POST", "/build", body=endless)
    assert caught.value.status == 400


def test_an_idle_connection_that_was_closed_is_replaced(serve: Serve) -> None:
    def script(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 0\r\n\r\n")

    client = _client(serve(script))
    client.negotiate()
    assert client.call("GET", "/info") is None


def test_what_changes_something_is_not_sent_twice(serve: Serve) -> None:
    seen: list[bytes] = []

    def script(connection: socket.socket) -> None:
        seen.append(read_head(connection).split(b" ", 2)[0])
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        seen.append(read_head(connection).split(b" ", 2)[0])  # and the connection ends without an answer

    client = Client(endpoint.parse(f"unix://{serve(script)}"), version="1.41")
    assert client.call("GET", "/info") == {}
    with pytest.raises(ClientError):
        client.call("POST", "/containers/create")
    assert client.call("GET", "/info") == {}
    assert seen[:3] == [b"GET", b"POST", b"GET"]


def test_upgrade_keeps_early_bytes(serve: Serve) -> None:
    def script(connection: socket.socket) -> None:
        head = read_head(connection)
        if head.startswith(b"HEAD"):
            connection.sendall(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nContent-Length: 0\r\n\r\n")
            return
        assert b"Upgrade: tcp" in head
        connection.sendall(b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nearly")
        while data := connection.recv(100):
            connection.sendall(data.upper())

    stream = _client(serve(script)).upgrade("/containers/x/attach")
    assert stream.pending() and stream.recv() == b"early"
    assert stream.send_some(b"late") == 4
    assert stream.recv() == b"LATE"
    stream.close_write()
    assert stream.recv() == b""
    stream.close()


def test_no_engine() -> None:
    with pytest.raises(
        ConnectFailed, match=r"Cannot connect to the Docker daemon at unix:///nonexistent/s\. Is"
    ):
        _client("/nonexistent/s").call("GET", "/info")


@given(
    st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=1, max_size=30)), max_size=6), st.integers(1, 40)
)
def test_frames_in_any_pieces(frames: list[tuple[int, bytes]], size: int) -> None:
    data = b"".join(bytes([stream, 0, 0, 0]) + len(d).to_bytes(4, "big") + d for stream, d in frames)
    demultiplexer = Demultiplexer()
    out: dict[int, bytes] = {0: b"", 1: b"", 2: b""}
    for at in range(0, len(data), size):
        for stream, piece in demultiplexer.feed(data[at : at + size]):
            out[stream] += piece
    for stream in out:
        assert out[stream] == b"".join(d for s, d in frames if s == stream)


@given(st.text())
def test_paths_and_queries_read_back(text: str) -> None:
    from urllib.parse import parse_qs, unquote

    assert unquote(path_of(text)) == f"/{text}"
    if text:
        assert parse_qs(encode_query({"k": text}), errors="surrogateescape") == {"k": [text]}


def test_head_has_no_body() -> None:
    response = Response(Connection(Canned(b"", 1), "h"), "HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9")
    assert response.finished and response.read() == b""
