"""``serve-registry`` under hostile clients, broken connections, kill -9, and crowds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.registry.serving import MANIFEST, Served, code_of, digest_of

OUTSIDE = "../../../../outside"


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "a/..",
        "../a",
        "a//b",
        "a/",
        "/a",
        "A",
        "a b",
        "a%00b",
        "a\\b",
        "_a",
        "a_",
        "a" * 256,
        "a/" * 200 + "a",
        "%2e%2e",
        "%2e%2e%2f%2e%2e%2fetc",
        "a/./b",
        "ü",
        "a%0d%0aX-Evil:1",
        "-",
        "a..b",
        "a.__b",
    ],
)
def test_names_that_are_none(shared: Served, name: str) -> None:
    before = everything(shared.data.parent)
    nothing = digest_of(b"x")
    for method, rest in (
        ("POST", "blobs/uploads/"),
        ("PUT", "manifests/x"),
        ("GET", f"blobs/{nothing}"),
        ("POST", f"blobs/uploads/?mount={nothing}&from={OUTSIDE}"),
    ):
        with shared.connect() as sock:
            line = f"{method} /v2/{name}/{rest} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            sock.sendall(line.encode("latin-1"))
            status = int(sock.makefile("rb").read().split(b" ", 2)[1])
            assert status in (400, 404, 405), (method, rest, status)
    assert everything(shared.data.parent) == before


@pytest.mark.parametrize(
    "reference",
    [
        "sha256:" + "../" * 21 + "a",
        "sha256:",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 65,
        "md5:" + "a" * 32,
        "sha256:..%2f..%2f..%2fregistry.db",
        "sha1:" + "0" * 40,
        "sha256:" + "0" * 63 + "g",
        ":",
        "sha512:" + "0" * 64,
    ],
)
def test_digests_that_are_none(shared: Served, reference: str) -> None:
    shared.image("a", "x")
    for method in ("GET", "HEAD", "DELETE"):
        for kind in ("blobs", "manifests"):
            assert shared.ask(method, f"/v2/a/{kind}/{reference}").status in (400, 404)
    assert shared.ask("PUT", f"{shared.begin('a')}?digest={reference}", b"x").status == 400
    assert shared.ask("POST", f"/v2/a/blobs/uploads/?mount={reference}&from=a").status in (400, 404)
    assert shared.ask("GET", f"/v2/a/referrers/{reference}").status in (400, 404)


def test_uploads_that_are_none(served: Served) -> None:
    identity = served.begin("a").rpartition("/")[2]
    for bad in (
        "x",
        "..%2f..%2fregistry.db",
        identity[:-1],
        identity.upper(),
        identity + ".x",
        "%00",
        "a" * 5000,
    ):
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            query = f"?digest={digest_of(b'')}" if method == "PUT" else ""
            answer = served.ask(method, f"/v2/a/blobs/uploads/{bad}{query}")
            assert answer.status in (400, 404), (method, bad)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v2/a/blobs/uploads/?digest=sha256:" + b"0" * 64 + b" HTTP/1.1\r\nHost: x\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v2/" + b"a" * 40_000 + b"/tags/list HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"GET /v2/?" + b"%zz" * 10 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 1000,
    ],
    ids=range(13),
)
def test_bytes_that_are_no_http(shared: Served, data: bytes) -> None:
    with shared.connect() as sock, contextlib.suppress(ConnectionError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = sock.makefile("rb").read()
        assert not answer or int(answer.split(b" ", 2)[1]) >= 400, answer[:200]
    assert shared.ask("GET", "/v2/").status == 200
    assert "Traceback" not in shared.errors()


def test_who_speaks_tls_hears_at_once_that_nobody_does(served: Served) -> None:
    """Docker's client and skopeo try https first, and would wait ten seconds."""
    begun = time.monotonic()
    with served.connect() as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert sock.recv(100).startswith(b"HTTP/1.1 400")
    assert time.monotonic() - begun < 8


def test_pipelined_requests(served: Served) -> None:
    served.image("a", "x")
    one = b"GET /v2/a/tags/list HTTP/1.1\r\nHost: x\r\n\r\n"
    put = b"POST /v2/a/blobs/uploads/?digest=%b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunked = put % digest_of(b"hello").encode() + b"5\r\nhello\r\n0\r\n\r\n"
    last = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with served.connect() as sock:
        sock.sendall(one + chunked + one + last)
        answer = sock.makefile("rb").read()
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"201", b"200", b"200"]


def test_a_bomb_of_json(served: Served) -> None:
    for body in (b'{"a":' * 200_000, b"[" * 1_000_000, b'{"schemaVersion":2,"layers":[' + b"{}," * 10_000):
        assert served.put("a", "x", body).status == 400
    assert served.ask("GET", "/v2/").status == 200


def test_uploads_cut_anywhere_go_on(served: Served) -> None:
    data = os.urandom(2_000_000)
    for tenth in range(1, 10):
        place = served.begin("a")
        cut = len(data) * tenth // 10
        with served.connect() as sock:
            head = f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
            sock.sendall(head.encode() + data[:cut])
        deadline = time.monotonic() + 60
        offset = 0
        while offset < cut and time.monotonic() < deadline:
            offset = int(served.ask("GET", place).headers["Range"].partition("-")[2]) + 1
        assert offset == cut
        answer = served.ask("PATCH", place, data[cut:], Content_Range=f"{cut}-{len(data) - 1}")
        assert answer.status == 202
        assert served.ask("PUT", f"{place}?digest={digest_of(data)}").status == 201
    assert served.ask("GET", f"/v2/a/blobs/{digest_of(data)}").data == data


def test_who_comes_back_need_not_wait_for_the_old_connection(served: Served) -> None:
    data = os.urandom(300_000)
    place = served.begin("a")
    with served.connect() as hanging:
        head = f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        hanging.sendall(head.encode() + data[:100_000])
        while int(served.ask("GET", place).headers["Range"].partition("-")[2]) != 99_999:
            time.sleep(0.01)
        begun = time.monotonic()
        answer = served.ask("PATCH", place, data[100_000:], Content_Range="100000-299999")
        assert answer.status == 202 and time.monotonic() - begun < 40
    assert served.ask("PUT", f"{place}?digest={digest_of(data)}").status == 201


def test_kill_in_mid_upload(served: Served) -> None:
    data = os.urandom(3_000_000)
    place = served.begin("a")
    served.ask("PATCH", place, data[:1_000_000], Content_Range="0-999999")
    with served.connect() as sock:
        head = f"PATCH {place} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\nContent-Range: 1000000-2999999\r\n\r\n"
        sock.sendall(head.encode() + data[1_000_000:1_700_000])
        time.sleep(0.1)
        served.kill()
    served.start()
    offset = int(served.ask("GET", place).headers["Range"].partition("-")[2]) + 1
    assert offset >= 1_000_000
    rest = served.ask("PATCH", place, data[offset:], Content_Range=f"{offset}-{len(data) - 1}")
    assert rest.status == 202
    assert served.ask("PUT", f"{place}?digest={digest_of(data)}").status == 201
    assert served.ask("GET", f"/v2/a/blobs/{digest_of(data)}").data == data


def test_killed_again_and_again_what_was_acknowledged_stays(served: Served) -> None:
    kept: dict[str, bytes] = {}
    for turn in range(4):
        ending = threading.Event()

        def push(number: int, turn: int = turn, ending: threading.Event = ending) -> None:
            count = 0
            while not ending.is_set():
                count += 1
                with contextlib.suppress(Exception):
                    _, raw = served.image("a", f"t{turn}-{number}-{count}", layer=os.urandom(20_000))
                    kept[f"t{turn}-{number}-{count}"] = raw

        threads = [threading.Thread(target=push, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(random.uniform(0.2, 0.6))
        served.kill()
        ending.set()
        for thread in threads:
            thread.join()
        served.start()
    assert kept
    for tag, raw in kept.items():
        answer = served.ask("GET", f"/v2/a/manifests/{tag}")
        assert (answer.status, answer.data) == (200, raw)
        for pointer in [json.loads(raw)["config"], *json.loads(raw)["layers"]]:
            content = served.ask("GET", f"/v2/a/blobs/{pointer['digest']}")
            assert digest_of(content.data) == pointer["digest"]
    for path in (served.data / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_two_hundred_clients(served: Served) -> None:
    layer = os.urandom(200_000)
    digest, raw = served.image("a", "x", layer=layer)
    problems: list[object] = []

    def work(number: int) -> None:
        try:
            with served.connect() as sock:
                for turn in range(3):
                    path = f"/v2/a/blobs/{digest_of(layer)}" if turn else f"/v2/a/manifests/{digest}"
                    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    want, found = (layer if turn else raw), b""
                    while b"\r\n\r\n" not in found or len(found.partition(b"\r\n\r\n")[2]) < len(want):
                        piece = sock.recv(1 << 20)
                        assert piece
                        found += piece
                    assert found.partition(b"\r\n\r\n")[2] == want
        except Exception as error:
            problems.append((number, error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert served.memory() < 150 << 20


def test_more_clients_than_are_allowed_wait(serve: Callable[..., Served]) -> None:
    served = serve("--max-connections", "4")
    idle = [served.connect() for _ in range(4)]
    with served.connect() as waiting:
        waiting.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        idle[0].close()
        waiting.settimeout(60)
        assert waiting.recv(100).startswith(b"HTTP/1.1 200")
    for sock in idle[1:]:
        sock.close()


def test_memory_of_sixteen_uploads(served: Served) -> None:
    """16 at once; a server that collected bodies would need 800 MB (scripts/bench does it with 1 GB each)."""
    size, piece = 50 << 20, os.urandom(1 << 20)
    state = hashlib.sha256()
    for _ in range(50):
        state.update(piece)
    digest, highest, problems = f"sha256:{state.hexdigest()}", 0, []

    def push(number: int) -> None:
        place = served.begin(f"r{number}")
        with served.connect() as sock:
            head = f"PUT {place}?digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
            sock.sendall(head.encode())
            for _ in range(50):
                sock.sendall(piece)
            if not sock.recv(100).startswith(b"HTTP/1.1 201"):
                problems.append(number)

    threads = [threading.Thread(target=push, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        highest = max(highest, served.memory())
        time.sleep(0.05)
    assert problems == []
    assert highest < 150 << 20
    assert len(list((served.data / "blobs" / "sha256").iterdir())) == 1


def test_a_full_disk(tmp_path: Path, serve: Callable[..., Served]) -> None:
    import subprocess

    if os.geteuid() != 0:
        pytest.skip("needs root for a small file system")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", small], check=True)
    try:
        served = serve(data="small/data")
        served.image("a", "x")
        with contextlib.closing(sqlite3.connect(served.data / "registry.db")) as register, register:
            register.execute("UPDATE links SET seen = 0")  # so that reading would write
        place = served.begin("a")
        big = os.urandom(20 << 20)
        answer = served.ask("PUT", f"{place}?digest={digest_of(big)}", big)
        assert (answer.status, code_of(answer)) == (507, "UNKNOWN")
        assert "No space left" in answer.data.decode()
        filler = small / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        assert served.ask("GET", f"/v2/a/blobs/{digest_of(b'layer')}").data == b"layer"
        filler.unlink()
        assert served.ask("DELETE", place).status == 204
        assert served.ask("GET", "/v2/a/manifests/x", Accept=MANIFEST).status == 200
        served.image("a", "y", layer=b"fits")
        served.stop()
        served.log.close()
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_the_end_waits_for_transfers(served: Served) -> None:
    data = os.urandom(200_000)
    place = served.begin("a")
    with served.connect() as sock:
        head = (
            f"PUT {place}?digest={digest_of(data)} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        sock.sendall(head.encode() + data[:100_000])
        while served.ask("GET", place).headers["Range"] != "0-99999":
            time.sleep(0.01)
        assert served.process is not None
        served.process.terminate()
        time.sleep(0.3)
        sock.sendall(data[100_000:])
        assert sock.recv(100).startswith(b"HTTP/1.1 201")
    assert served.process.wait(60) == 0
    served.process = None
    served.start()
    assert served.ask("GET", f"/v2/a/blobs/{digest_of(data)}").data == data


def test_what_the_disk_lost_is_healed_by_the_next_push(served: Served) -> None:
    """A register that names files which aren't there: nothing is promised, and pushing goes as ever."""
    digest, raw = served.image("a", "x")
    for path in (served.data / "blobs" / "sha256").iterdir():
        path.unlink()
    layer = digest_of(b"layer")
    for place, code in ((f"blobs/{layer}", "BLOB_UNKNOWN"), ("manifests/x", "MANIFEST_UNKNOWN")):
        assert served.ask("HEAD", f"/v2/a/{place}").status == 404
        assert code_of(served.ask("GET", f"/v2/a/{place}")) == code
    assert served.ask("POST", f"/v2/b/blobs/uploads/?mount={layer}&from=a").status == 202
    assert served.image("a", "x") == (digest, raw)
    assert served.ask("GET", f"/v2/a/manifests/{digest}").data == raw
    assert served.ask("GET", f"/v2/a/blobs/{layer}").data == b"layer"
