"""One client, several machines: the stock command line over TCP with mutual TLS and over ssh."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import BIN, Daemon, current_cli
from tests.daemon import test_sockets
from tests.sshd import running_sshd, script

Run = Callable[..., subprocess.CompletedProcess[bytes]]
guarded = test_sockets.guarded


@pytest.fixture(params=["tls", "ssh"])
def remote(
    request: pytest.FixtureRequest, guarded: tuple[Daemon, str, Path], tmp_path: Path
) -> Iterator[Run]:
    """Runs the stock command line against a daemon by way of the network."""
    daemon, address, certificates = guarded
    if request.param == "tls":
        yield lambda *args, input=b"": test_sockets.run_cli(
            address, certificates, "--tlsverify", *args, input=input
        )
        return
    with running_sshd(tmp_path, "docker") as (host, environment):
        where = ["-H", f"{host}{daemon.socket}"]
        if not current_cli():  # Debian's takes no path: the far side knows its engine by itself
            where = ["-H", host]
            there = f'DOCKER_HOST={daemon.host} exec {BIN}/python3 -m sampan.cli.main "$@"'
            script(tmp_path / "bin" / "docker", there)

        def run(*args: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
            env = {**os.environ, **environment, "DOCKER_CONFIG": str(tmp_path / "config")}
            return subprocess.run(
                [test_sockets.CLI, *where, *args], input=input, capture_output=True, env=env, timeout=60
            )

        yield run


def test_streams_and_archives(remote: Run, tmp_path: Path) -> None:
    data = os.urandom(2 << 20)
    told = hashlib.sha256(data).hexdigest().encode()
    waits = "echo up; until [ -e /go ]; do sleep .1; done; echo end; exit 4"
    made = remote("run", "-d", "--name", "far", "busybox", "sh", "-c", waits)
    assert made.returncode == 0, made
    try:
        back = "cat > /x; cat /x; echo err >&2; exit 7"
        done = remote("run", "--rm", "-i", "busybox", "sh", "-c", back, input=data)
        assert (done.returncode, done.stdout == data, done.stderr) == (7, True, b"err\n")
        done = remote("exec", "-i", "far", "sh", "-c", "sha256sum; exit 3", input=data)
        assert (done.returncode, done.stdout.split()[0]) == (3, told)
        (tmp_path / "file").write_bytes(data)
        assert remote("cp", f"{tmp_path}/file", "far:/data").returncode == 0
        assert remote("exec", "far", "sha256sum", "/data").stdout.split()[0] == told
        assert remote("cp", "far:/data", f"{tmp_path}/back").returncode == 0
        assert (tmp_path / "back").read_bytes() == data
        assert remote("exec", "-d", "far", "sh", "-c", "sleep 1; touch /go").returncode == 0
        # It ends with the container, not before and not later.
        assert remote("logs", "-f", "far").stdout == b"up\nend\n"
    finally:
        remote("rm", "-f", "far")


def test_dial_stdio_brings_everything_that_came_before_its_stdin_ended(tmp_path: Path) -> None:
    """The engine reads slowly, and the pipe from the client hangs up while much is in it."""
    data = os.urandom(3 << 20)
    (tmp_path / "data").write_bytes(data)
    got = bytearray()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        relay = subprocess.Popen(
            [BIN / "python3", "-m", "sampan.cli.main", "-H", f"unix://{tmp_path}/s", "system", "dial-stdio"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert relay.stdin is not None and relay.stdout is not None
        connection, _ = listener.accept()
        with connection:
            feeder = subprocess.Popen(["cat", tmp_path / "data"], stdout=relay.stdin)
            relay.stdin.close()
            while piece := connection.recv(1 << 16):
                got += piece
                time.sleep(0.005)
            connection.sendall(b"answer")
        assert feeder.wait() == 0
        assert relay.stdout.read() == b"answer" and relay.wait() == 0
    assert got == data
