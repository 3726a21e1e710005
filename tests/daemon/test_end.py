"""The engine's end by SIGTERM: prompt, whoever is connected and whatever a thread does; containers go on, or end first."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import STOCK_CLI, Daemon, import_busybox

pytestmark = pytest.mark.root
CHATTER = "while :; do seq 1 2000; sleep 0.05; done"


def until(true: Callable[[], object], what: str) -> None:
    """Wait for something that comes."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.02)


def run(daemon: Daemon, name: str, *command: str) -> None:
    """Start a container without network."""
    body = {"Image": "busybox", "Cmd": command, "OpenStdin": True, "HostConfig": {"NetworkMode": "none"}}
    daemon.json("POST", f"/containers/create?name={name}", body)
    daemon.json("POST", f"/containers/{name}/start")


def hang(daemon: Daemon, method: str, path: str, *fields: str, body: str = "", reads: bool = False) -> Any:
    """Ask, and never read more than the answer's begin, if that."""
    client = socket.socket(socket.AF_UNIX)
    client.connect(daemon.socket)
    lines = [f"{method} /v1.44{path} HTTP/1.1", "Host: x", *fields, "", body]
    client.sendall("\r\n".join(lines).encode())
    if reads:
        client.settimeout(60)
        assert client.recv(12).startswith((b"HTTP/1.1 200", b"HTTP/1.1 101"))
    return client


def test_hanging_clients_keep_no_engine(new_sampand: Any) -> None:
    """Streams that never end, clients that don't read, bodies that don't come."""
    daemon = new_sampand()
    import_busybox(daemon)
    run(daemon, "box", "sh", "-c", CHATTER)
    before = daemon.json("GET", "/containers/box/json")["State"]
    took = []
    while not took or (took[-1] > 4.5 and len(took) < 4):  # about one second, on a machine that isn't busy
        took.append(seconds_to_end(daemon))
        daemon.start()
        assert daemon.json("GET", "/containers/box/json")["State"] == before
    assert took[-1] < 4.5, took


def seconds_to_end(daemon: Daemon) -> float:
    """How long the engine takes from SIGTERM on, with clients of all kinds."""
    made = daemon.json("POST", "/containers/box/exec", {"Cmd": ["sh", "-c", CHATTER], "AttachStdout": True})
    upgrade = ("Connection: Upgrade", "Upgrade: tcp")
    large = ("Content-Type: application/x-tar", "Content-Length: 100000")
    json = ("Content-Type: application/json", "Content-Length: 21")
    clients = [
        hang(daemon, "GET", "/containers/box/logs?follow=1&stdout=1", reads=True),
        hang(daemon, "GET", "/events", reads=True),
        hang(daemon, "GET", "/containers/box/stats", reads=True),
        hang(daemon, "POST", "/containers/box/wait", reads=True),
        hang(daemon, "POST", "/containers/box/attach?stream=1&stdin=1&stdout=1", *upgrade, reads=True),
        hang(
            daemon,
            "POST",
            f"/exec/{made['Id']}/start",
            *upgrade,
            *json,
            body='{"Detach":false}     ',
            reads=True,
        ),
        hang(daemon, "POST", "/images/load", *large, body="x"),
        hang(daemon, "PUT", "/containers/box/archive?path=/tmp", *large, body="x"),
        hang(daemon, "GET", "/containers/js"),
    ]
    begun = time.monotonic()
    assert daemon.stop() == 0
    seconds = time.monotonic() - begun
    for client in clients:
        client.close()
    return seconds


def test_a_thread_that_the_kernel_holds_keeps_no_engine(new_sampand: Any) -> None:
    """As one does that reads from a server that is down; here it is a log that is a pipe."""
    daemon = new_sampand()
    import_busybox(daemon)
    run(daemon, "box", "true")
    daemon.json("POST", "/containers/box/wait")
    log = Path(daemon.json("GET", "/containers/box/json")["LogPath"])
    log.unlink(missing_ok=True)
    os.mkfifo(log)
    client = hang(daemon, "GET", "/containers/box/logs?stdout=1")
    writers: list[int] = []

    def is_read() -> bool:
        try:
            writers.append(os.open(log, os.O_WRONLY | os.O_NONBLOCK))  # fails unless somebody reads
        except OSError:
            return False
        return True

    try:
        until(is_read, "the log to be read")
        assert daemon.stop() == 0
    finally:
        client.close()
        for writer in writers:
            os.close(writer)
    daemon.start()


@pytest.mark.skipif(STOCK_CLI is None, reason="needs docker's command line")
def test_who_is_attached_learns_how_his_container_ended_with_the_engine(new_sampand: Any) -> None:
    daemon = new_sampand("--live-restore=false")
    import_busybox(daemon)
    script = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    words = ["run", "--name", "box", "--network", "none", "busybox", "sh", "-c", script]
    client = subprocess.Popen(
        [str(STOCK_CLI), *words], env=daemon.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert client.stdout is not None and client.stdout.readline() == b"up\n"
    assert daemon.stop() == 0
    assert (client.wait(60), client.stdout.read()) == (7, b"bye\n")
    daemon.start()
    assert daemon.json("GET", "/containers/box/json")["State"]["ExitCode"] == 7
