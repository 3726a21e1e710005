"""Every refusal of dockerd 29 that concerns what sampand serves: ``errors.tsv`` run against a sampand.

A line of the table: status, method, target, body, message, difference. The target is below ``/v1.50`` unless
it begins with ``!``. ``RUN`` creates a container of the body and starts it, ``EXEC`` the same for an exec in
``web``; the answer is the start's. A body ``TAR`` is a small archive. In the message ``*`` stands for
anything, ``\\n`` for a new line; a hint of ours may follow on a line of its own. For status 200 the message
is the error at the end of the stream. ``difference`` says what dockerd answers instead, and why we don't.
"""

from __future__ import annotations

import http.client
import io
import json
import re
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.conftest import Daemon, UnixConnection, import_busybox

pytestmark = pytest.mark.root
TABLE = Path(__file__).with_name("errors.tsv")
ONE, OTHER = "10.215.81.0/24", "10.215.82.0/24"


class Row(NamedTuple):
    """One line of the table."""

    status: int
    method: str
    target: str
    body: str
    message: str
    difference: str


def rows() -> list[Row]:
    """The table without its head."""
    found = []
    for line in TABLE.read_text().splitlines()[1:]:
        status, *rest = line.split("\t")
        found.append(Row(int(status), *rest))
    return found


def create(daemon: Daemon, name: str, *cmd: str, host: dict[str, Any] | None = None, **config: Any) -> str:
    """A container of busybox, without network unless asked."""
    body = {"Image": "busybox", "Cmd": list(cmd) or ["true"], **config}
    body["HostConfig"] = {"NetworkMode": "none", **(host or {})}
    return str(daemon.json("POST", f"/containers/create?name={name}", body)["Id"])


@pytest.fixture(scope="module")
def world() -> Iterator[Daemon]:
    """A sampand with containers in every state, two networks, volumes in use and images with two names."""
    daemon = Daemon(35).start()
    try:
        import_busybox(daemon)
        fill(daemon)
        with socket.create_server(("127.0.0.1", 29218)):
            yield daemon
    finally:
        daemon.close()


def fill(daemon: Daemon) -> None:
    """Make what the table's lines speak of."""
    import_busybox(daemon, "box:2")
    for name, subnet in (("n1", ONE), ("un", OTHER)):
        config = [{"Subnet": subnet}]
        daemon.json("POST", "/networks/create", {"Name": name, "IPAM": {"Config": config}})
    bridge = {"com.docker.network.bridge.name": "smpe215b"}
    daemon.json("POST", "/networks/create", {"Name": "named", "Options": bridge})
    endpoint = {"EndpointsConfig": {"un": {"IPAMConfig": {"IPv4Address": "10.215.82.10"}}}}
    create(daemon, "web", "sleep", "600", host={"NetworkMode": "n1"})
    create(daemon, "taken", "sleep", "600", host={"NetworkMode": "un"}, NetworkingConfig=endpoint)
    create(daemon, "pau", "sleep", "600")
    create(daemon, "tt", "sleep", "600", Tty=True)
    create(daemon, "priv", "sleep", "600", host={"IpcMode": "private"})
    create(daemon, "hostc", "sleep", "600", host={"NetworkMode": "host"})
    create(daemon, "lim", "sleep", "600", host={"Memory": 64 << 20, "MemorySwap": 128 << 20})
    create(daemon, "nolog", "sleep", "600", host={"LogConfig": {"Type": "none"}})
    ports = {"80/tcp": [{"HostPort": "29217"}]}
    create(daemon, "p1", "sleep", "600", host={"NetworkMode": "n1", "PortBindings": ports})
    create(daemon, "done", "sh", "-c", "ln -s /loop /loop")
    for name in ("web", "taken", "pau", "tt", "priv", "hostc", "lim", "nolog", "p1", "done"):
        daemon.json("POST", f"/containers/{name}/start")
    daemon.json("POST", "/containers/done/wait")
    daemon.json("POST", "/containers/pau/pause")
    create(daemon, "made")
    create(daemon, "noprogram", "nosuch")
    create(daemon, "halfcpu", host={"NanoCpus": 500_000_000})
    create(daemon, "quota", host={"CpuQuota": 20_000, "CpuPeriod": 50_000})
    create(daemon, "ro", host={"ReadonlyRootfs": True})
    create(daemon, "vol", host={"Binds": ["data:/d", "sub:/s"]})
    create(daemon, "boxed", Image="box:2")
    while not any(shared_digit(daemon)):
        create(daemon, f"more{len(ids(daemon))}")


def ids(daemon: Daemon) -> list[str]:
    """All containers."""
    return [found["Id"] for found in daemon.json("GET", "/containers/json?all=1")]


def shared_digit(daemon: Daemon) -> list[str]:
    """First digits that two containers' ids share."""
    first = [identity[0] for identity in ids(daemon)]
    return [digit for digit in sorted(set(first)) if first.count(digit) > 1]


def archive() -> bytes:
    """A tar of one file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("f")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    return buffer.getvalue()


def ask(daemon: Daemon, method: str, target: str, body: str) -> tuple[int, str]:
    """Status and message of one request."""
    data = archive() if body == "TAR" else body.replace("\\n", "\n").encode()
    path = target[1:] if target.startswith("!") else f"/v1.50{target}"
    path = path.replace("{digit}", (shared_digit(daemon) or ["0"])[0])
    kind = "application/json" if method == "POST" and "/images/" not in target else "application/x-tar"
    connection = UnixConnection(daemon.socket, 30)
    try:
        head = {"Content-Type": kind} if data or target.startswith("/containers/create") else {}
        connection.request(method, quote(path, safe="/?&=:%+,@<>*[]"), data or None, head)
        answer = connection.getresponse()
        return answer.status, message_of(answer, answer.read())
    finally:
        connection.close()


def message_of(answer: http.client.HTTPResponse, data: bytes) -> str:
    """The message in an answer: JSON's member, the last line's error of a stream, or bare text."""
    text = data.decode("utf-8", "replace")
    try:
        found = json.loads(text.strip().splitlines()[-1]) if text.strip() else {}
    except ValueError:
        return text
    if isinstance(found, dict):
        return str(found.get("message") or found.get("error") or "")
    return text


def answer_of(daemon: Daemon, row: Row) -> tuple[int, str]:
    """Carry one line out."""
    if row.method == "RUN":
        made = daemon.json("POST", row.target, json.loads(row.body))["Id"]
        try:
            return ask(daemon, "POST", f"/containers/{made}/start", "")
        finally:
            daemon.api("DELETE", f"/containers/{made}?force=1&v=1")
    if row.method == "EXEC":
        made = daemon.json("POST", "/containers/web/exec", json.loads(row.body))["Id"]
        return ask(daemon, "POST", f"/exec/{made}{row.target}", '{"Detach":true}')
    return ask(daemon, row.method, row.target, row.body)


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row.method} {row.target} {row.body}"[:90])
def test_refusal(world: Daemon, row: Row) -> None:
    before = ids(world)
    status, message = answer_of(world, row)
    pattern = ".*".join(re.escape(part) for part in row.message.replace("\\n", "\n").split("*"))
    right = re.fullmatch(f"{pattern}(\n.*)?", message, re.DOTALL)
    assert (status, bool(right)) == (row.status, True), f"{status} {message!r}"
    assert ids(world) == before


def test_nesting_without_end(world: Daemon) -> None:
    body = '{"Image":"busybox","HostConfig":' + '{"a":' * 20_000 + "1" + "}" * 20_000 + "}"
    assert ask(world, "POST", "/containers/create", body) == (400, "invalid JSON: exceeded max depth")


def test_a_body_larger_than_any_configuration(world: Daemon) -> None:
    body = '{"Image":"busybox","Labels":{"a":"' + "x" * (17 << 20) + '"}}'
    status, message = ask(world, "POST", "/containers/create", body)
    assert (status, message.splitlines()[0]) == (400, "http: request body too large")
