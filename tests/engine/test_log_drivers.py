"""Log drivers that send lines elsewhere: what arrives at real receivers, and what docker logs reads back."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.engine.steps import made, output

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("busybox")]
SCRIPT = "echo out; echo err >&2; printf unfinished"
JOURNAL = "/run/systemd/journal/socket"


def log_to(kind: str, script: str = SCRIPT, **options: str) -> dict[str, Any]:
    """A create body whose container logs elsewhere; underscores stand for the options' dashes."""
    config = {name.replace("_", "-"): value for name, value in options.items()}
    return {
        "Cmd": ["sh", "-c", script],
        "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": kind, "Config": config}},
    }


def finish(daemon: Daemon, body: dict[str, Any]) -> tuple[str, str]:
    """Run to the end: the id and what docker logs gives."""
    body = dict(body)
    with made(daemon, *body.pop("Cmd"), **body) as container:
        daemon.json("POST", f"/containers/{container}/wait")
        return container, output(daemon, container)


class Receiver(threading.Thread):
    """A syslog receiver that keeps what it gets: ``udp``, ``tcp``, ``unix``, ``unixgram`` or ``tcp+tls``."""

    def __init__(self, kind: str, folder: Path, context: ssl.SSLContext | None = None) -> None:
        super().__init__(daemon=True)
        self.kind, self.got, self.context = kind, b"", context
        family = socket.AF_UNIX if kind.startswith("unix") else socket.AF_INET
        self.datagrams = kind in ("udp", "unixgram")
        self.socket = socket.socket(family, socket.SOCK_DGRAM if self.datagrams else socket.SOCK_STREAM)
        path = str(folder / "s")
        self.socket.bind(path if family == socket.AF_UNIX else ("127.0.0.1", 0))
        self.socket.settimeout(100)
        if not self.datagrams:
            self.socket.listen()
        self.address = (
            f"{kind}://{path}"
            if family == socket.AF_UNIX
            else f"{kind}://127.0.0.1:{self.socket.getsockname()[1]}"
        )
        self.whole = threading.Event()
        self.start()

    def run(self) -> None:
        while b"unfinished" not in self.got:
            if self.datagrams:
                self.got += self.socket.recv(1 << 16)
            else:
                self.take(self.socket.accept()[0])
        self.whole.set()

    def take(self, client: socket.socket) -> None:
        """All that one connection brings; the engine's probe says nothing."""
        client.settimeout(100)
        try:
            plain = client if self.context is None else self.context.wrap_socket(client, server_side=True)
            while data := plain.recv(1 << 16):
                self.got += data
        except OSError:
            return

    def messages(self) -> list[str]:
        assert self.whole.wait(100), self.got
        return self.got.decode().rstrip("\n").split("\n")


@pytest.mark.parametrize("kind", ["udp", "tcp", "unix", "unixgram"])
def test_syslog(sampand: Daemon, tmp_path: Path, kind: str) -> None:
    receiver = Receiver(kind, tmp_path)
    container, logs = finish(sampand, log_to("syslog", syslog_address=receiver.address))
    first, second, third = receiver.messages()
    stamp = r"[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"<30>{stamp} {container[:12]}\[\d+\]: out", first)
    assert re.fullmatch(rf"<27>{stamp} {container[:12]}\[\d+\]: err", second)
    assert third.endswith(": unfinished")
    assert logs == "out\nerr\nunfinished"


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("rfc3164", r"<134>[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d \S+ busybox/box\[\d+\]: out"),
        (
            "rfc5424",
            r"<134>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d) \S+ busybox/box \d+ busybox/box - out",
        ),
        (
            "rfc5424micro",
            r"<134>1 [\d-]+T[\d:]+\.\d{6}(Z|[+-]\d\d:\d\d) \S+ busybox/box \d+ busybox/box - out",
        ),
    ],
)
def test_syslog_formats_tag_and_facility(sampand: Daemon, tmp_path: Path, form: str, pattern: str) -> None:
    receiver = Receiver("tcp", tmp_path)
    body = log_to(
        "syslog",
        syslog_address=receiver.address,
        syslog_format=form,
        syslog_facility="local0",
        tag="{{.ImageName}}/{{ .Hostname }}",
    )
    finish(sampand, {**body, "Hostname": "box"})
    assert re.fullmatch(pattern, receiver.messages()[0])


@pytest.fixture
def certificate(tmp_path: Path) -> Iterator[Path]:
    """A certificate for 127.0.0.1 with its key beside it."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    path = tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(tmp_path / "key.pem"), "-out", str(path)],
        check=True, capture_output=True,
    )  # fmt: skip
    yield path


def test_syslog_over_tls(sampand: Daemon, tmp_path: Path, certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, tmp_path / "key.pem")
    receiver = Receiver("tcp+tls", tmp_path, context)
    options = {"syslog_address": receiver.address, "syslog_format": "rfc5424"}
    with made(sampand, start=False, **log_to("syslog", **options)) as container:
        status, _, data = sampand.api("POST", f"/containers/{container}/start")
        assert (status, b"certificate verify failed" in data) == (500, True)
    finish(sampand, log_to("syslog", **options, syslog_tls_ca_cert=str(certificate)))
    counted = re.match(r"(\d+) (<30>1 .* - out\n)", receiver.messages()[0] + "\n")
    assert counted and int(counted[1]) == len(counted[2])


def test_a_receiver_that_is_not_there(sampand: Daemon) -> None:
    with made(sampand, start=False, **log_to("syslog", syslog_address="tcp://127.0.0.1:1")) as container:
        status, _, data = sampand.api("POST", f"/containers/{container}/start")
        said = b"failed to initialize logging driver: dial tcp 127.0.0.1:1: connect: connection refused"
        assert (status, said in data) == (500, True)


def test_a_receiver_that_stops_reading_holds_nobody_for_long(sampand: Daemon, tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    script = "yes 0123456789012345678901234567890123456789 | head -n 200000; echo end"
    body = log_to(
        "syslog",
        script,
        syslog_address=address,
        mode="non-blocking",
        max_buffer_size="64k",
        cache_max_size="50m",
    )
    _, logs = finish(sampand, body)
    assert logs.count("\n") == 200_001 and logs.endswith("\nend\n")  # the file has all of it
    # The helper goes too, though nobody has taken its lines.
    deadline = time.monotonic() + 90
    port = address.rpartition(":")[2]
    while re.search(
        rf"logship.*{port}", subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    ):
        assert time.monotonic() < deadline, "the helper stays"
        time.sleep(0.2)
    listener.close()


def test_without_the_file_logs_cannot_be_read(sampand: Daemon, tmp_path: Path) -> None:
    receiver = Receiver("udp", tmp_path)
    with made(
        sampand, **log_to("syslog", syslog_address=receiver.address, cache_disabled="true")
    ) as container:
        sampand.json("POST", f"/containers/{container}/wait")
        assert sampand.api("GET", f"/containers/{container}/logs?stdout=1")[0] == 501


def test_lines_go_on_after_the_engine_was_killed(new_sampand: Any, tmp_path: Path) -> None:
    from tests.conftest import import_busybox

    daemon = new_sampand()
    import_busybox(daemon)
    receiver = Receiver("tcp", tmp_path)
    script = "echo first; while [ ! -e /go ]; do sleep .05; done; echo unfinished"
    with made(daemon, **log_to("syslog", script, syslog_address=receiver.address)) as container:
        pid = daemon.json("GET", f"/containers/{container}/json")["State"]["Pid"]
        daemon.kill()
        Path(f"/proc/{pid}/root/go").touch()
        assert [line.rpartition(": ")[2] for line in receiver.messages()] == ["first", "unfinished"]
        daemon.start()
        assert output(daemon, container) == "first\nunfinished\n"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket where journald's would be."""
    if os.path.exists(JOURNAL):
        pytest.skip("this machine has a journald of its own")
    os.makedirs(os.path.dirname(JOURNAL), exist_ok=True)
    made_ = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made_.bind(JOURNAL)
    made_.settimeout(60)
    yield made_
    made_.close()
    os.unlink(JOURNAL)


def test_journald(sampand: Daemon, journal: socket.socket) -> None:
    body = log_to("journald", labels="a.b", env="E", tag="my-{{.Name}}")
    container, logs = finish(sampand, {**body, "Labels": {"a.b": "label"}, "Env": ["E=variable"]})
    entries = [
        dict(line.split("=", 1) for line in journal.recv(1 << 16).decode().splitlines()) for _ in range(3)
    ]
    assert [(entry["MESSAGE"], entry["PRIORITY"]) for entry in entries] == [
        ("out", "6"),
        ("err", "3"),
        ("unfinished", "6"),
    ]
    first = entries[0]
    assert (first["CONTAINER_ID"], first["CONTAINER_ID_FULL"]) == (container[:12], container)
    assert first["SYSLOG_IDENTIFIER"] == first["CONTAINER_TAG"] == f"my-{first['CONTAINER_NAME']}"
    assert (first["A_B"], first["E"], first["IMAGE_NAME"]) == ("label", "variable", "busybox")
    assert logs == "out\nerr\nunfinished"


def test_journald_that_is_not_there(sampand: Daemon) -> None:
    if os.path.exists(JOURNAL):
        pytest.skip("this machine has a journald")
    with made(sampand, start=False, **log_to("journald")) as container:
        status, _, data = sampand.api("POST", f"/containers/{container}/start")
        assert (status, b"journald is not enabled on this host" in data) == (500, True)


JOURNALD = "/lib/systemd/systemd-journald"


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[int]:
    """A real journald whose files are in a mount namespace of its own; its pid."""
    if os.path.exists(JOURNAL):
        pytest.skip("this machine has a journald of its own")
    if not os.path.exists(JOURNALD) or not shutil.which("journalctl"):
        pytest.skip("systemd-journald is not installed")
    folder = Path(JOURNAL).parent
    folder.mkdir(parents=True, exist_ok=True)
    before = set(folder.iterdir())
    hide = "for d in /run/log /var/log/journal; do mkdir -p $d && mount -t tmpfs none $d; done"
    process = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", f"{hide}; exec {JOURNALD}"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not os.path.exists(JOURNAL):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.skip("systemd-journald does not start here")
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)
        for path in set(folder.iterdir()) - before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def entries(journald: int, container: str, count: int) -> list[dict[str, Any]]:
    """What the journal has of a container, once there are so many; ours and journald's own fields."""
    inside = ["nsenter", "-t", str(journald), "-m", "journalctl"]
    deadline = time.monotonic() + 60
    while True:
        query = [*inside, "-o", "json", "--all", "--no-pager", f"CONTAINER_ID_FULL={container}"]
        lines = subprocess.run(query, capture_output=True, check=True).stdout.splitlines()
        if len(lines) >= count:
            return [json.loads(line) for line in lines]
        assert time.monotonic() < deadline, lines
        time.sleep(0.1)


def test_a_real_journald(sampand: Daemon, journald: int) -> None:
    script = r"printf 'two\n\nlines\377\n'; head -c 40000 /dev/zero | tr '\0' y; echo; printf unfinished; sleep .1; echo err >&2"
    body = log_to("journald", script, labels="a.b", env="E,_F", tag="{{.Name}}-x")
    asked = {**body, "Labels": {"a.b": "label"}, "Env": ["E=vari\nable", "_F=x"]}
    container, logs = finish(sampand, asked)
    assert (
        logs.encode("utf-8", "surrogateescape")
        == b"two\n\nlines\xff\n" + b"y" * 40_000 + b"\nerr\nunfinished"
    )
    found = entries(journald, container, 8)
    messages = [entry["MESSAGE"] for entry in found]
    assert messages[:2] == ["two", ""] and bytes(messages[2]) == b"lines\xff"
    assert [len(part) for part in messages[3:6]] == [16384, 16384, 7232]
    assert sorted(messages[6:]) == ["err", "unfinished"]
    common = {
        "CONTAINER_ID": container[:12],
        "CONTAINER_ID_FULL": container,
        "IMAGE_NAME": "busybox",
        "A_B": "label",
        "E": "vari\nable",
        "F": "x",
        "_TRANSPORT": "journal",
    }
    for number, entry in enumerate(found, 1):
        assert {key: entry[key] for key in common} == common
        assert entry["CONTAINER_TAG"] == entry["SYSLOG_IDENTIFIER"] == f"{entry['CONTAINER_NAME']}-x"
        assert entry["PRIORITY"] == ("3" if entry["MESSAGE"] == "err" else "6")
        assert entry["CONTAINER_LOG_ORDINAL"] == str(number)
        assert re.fullmatch(r"[\d-]{10}T[\d:]{8}(\.\d+)?Z", entry["SYSLOG_TIMESTAMP"])
    assert len({entry["CONTAINER_LOG_EPOCH"] for entry in found}) == 1
    parts = [
        tuple(entry.get(f"CONTAINER_PARTIAL_{name}") for name in ("ORDINAL", "LAST", "MESSAGE"))
        for entry in found
    ]
    assert parts[:3] == [(None, None, None)] * 3
    assert parts[3:6] == [("1", "false", "true"), ("2", "false", "true"), ("3", "true", None)]
    unfinished = parts[messages.index("unfinished")]
    assert unfinished == ("1", "false", "true")
    assert len({entry["CONTAINER_PARTIAL_ID"] for entry in found[3:6]}) == 1
