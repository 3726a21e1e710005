"""The daemon's doors as stock clients and systemd use them: TLS, fd://, sd_notify, several sockets at once."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, STOCK_CLI, Daemon, import_busybox

CLI = STOCK_CLI or str(BIN / "sampan")


def openssl(directory: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True)


def make_certificates(directory: Path) -> None:
    """A CA, and what it signed for the server and for a client; the names are those of ~/.docker."""
    openssl(
        directory,
        *[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=ca",
            "-keyout",
            "ca-key.pem",
        ],
        *("-out", "ca.pem"),
    )
    for name, extension in (("server", "subjectAltName=IP:127.0.0.1"), ("", "extendedKeyUsage=clientAuth")):
        prefix = f"{name}-" if name else ""
        (directory / "ext").write_text(extension)
        openssl(
            directory,
            *["req", "-newkey", "rsa:2048", "-nodes", "-out", "csr", "-keyout"],
            f"{prefix}key.pem",
            "-subj",
            f"/CN={name or 'client'}",
        )
        openssl(
            directory,
            *[
                "x509",
                "-req",
                "-in",
                "csr",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca-key.pem",
                "-CAcreateserial",
                "-days",
                "2",
            ],
            *("-extfile", "ext", "-out", f"{prefix}cert.pem"),
        )


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[Daemon, str, Path]]:
    """A daemon that also serves TCP behind client certificates; its address and the certificates' directory."""
    with tempfile.TemporaryDirectory() as directory, socket.socket() as free:
        certificates = Path(directory)
        make_certificates(certificates)
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        free.close()
        daemon = Daemon(
            7000, "-H", address, "--tlsverify", "--tlscacert", f"{directory}/ca.pem",
            "--tlscert", f"{directory}/server-cert.pem", "--tlskey", f"{directory}/server-key.pem",
            "--default-ulimit", "nofile=777:888",
        ).start()  # fmt: skip
        import_busybox(daemon)
        yield daemon, address, certificates
        daemon.close()


def run_cli(
    address: str, certificates: Path, *args: str, input: bytes = b"", cli: str = CLI
) -> subprocess.CompletedProcess[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")}
    environment |= {"DOCKER_CONFIG": "/nonexistent", "DOCKER_CERT_PATH": str(certificates)}
    return subprocess.run(
        [cli, "-H", address, *args], input=input, capture_output=True, env=environment, timeout=60
    )


@pytest.mark.parametrize("cli", sorted({CLI, str(BIN / "sampan")}))
def test_tls_keeps_output_after_the_end_of_stdin(guarded: tuple[Daemon, str, Path], cli: str) -> None:
    _, address, certificates = guarded
    data = os.urandom(3 << 20)
    script = "cat > /x; sleep 0.3; cat /x; exit 7"  # all output comes after stdin's end
    done = run_cli(
        address,
        certificates,
        "--tlsverify",
        "run",
        "--rm",
        "-i",
        "busybox",
        "sh",
        "-c",
        script,
        input=data,
        cli=cli,
    )
    assert (done.returncode, done.stdout == data, done.stderr) == (7, True, b"")


def test_tls_wants_a_certificate_of_its_ca(guarded: tuple[Daemon, str, Path], tmp_path: Path) -> None:
    daemon, address, certificates = guarded
    make_certificates(tmp_path)
    shutil.copy(certificates / "ca.pem", tmp_path / "ca.pem")  # trusts the server, but is a stranger to it
    assert b"tls" in run_cli(address, tmp_path, "--tlsverify", "version").stderr
    host, port = address.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as plain:
        plain.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            answer = plain.recv(100)
        assert not answer.startswith(b"HTTP/")
    assert daemon.api("GET", "/_ping")[0] == 200  # the unix socket beside it is open as before


def test_default_ulimit_reaches_containers_unless_they_say_otherwise(
    guarded: tuple[Daemon, str, Path],
) -> None:
    daemon, _, _ = guarded
    script = "ulimit -Sn; ulimit -Hn"
    assert daemon.docker("run", "--rm", "busybox", "sh", "-c", script).stdout.split() == ["777", "888"]
    own = daemon.docker("run", "--rm", "--ulimit", "nofile=99:100", "busybox", "sh", "-c", script)
    assert own.stdout.split() == ["99", "100"]


class Activated:
    """A daemon under a stand-in for systemd: sockets handed over, a socket for notifications."""

    def __init__(self, directory: Path, *hosts: str) -> None:
        self.directory = directory
        self.paths = [directory / "a.sock", directory / "b.sock"]
        self.notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notes.bind(str(directory / "notify"))
        self.notes.settimeout(60)
        listening = []
        for path in self.paths:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(path))
            sock.listen()
            listening.append(sock)
        (directory / "daemon.json").write_text("{}")
        flags = [
            "--config-file", f"{directory}/daemon.json", "--data-root", f"{directory}/data",
            "--exec-root", f"{directory}/run", "--bridge", "none", *(f for h in hosts for f in ("-H", h)),
        ]  # fmt: skip
        # LISTEN_PID must be the daemon's own pid: a shell learns it and becomes the daemon
        shell = 'LISTEN_PID=$$ exec "$@"'

        def hand_over() -> None:
            high = [os.dup2(s.fileno(), 50 + i) for i, s in enumerate(listening)]
            for index, fd in enumerate(high):
                os.dup2(fd, 3 + index)

        self.process = subprocess.Popen(
            ["sh", "-c", shell, "sh", sys.executable, "-m", "sampan.daemon", *flags],
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "first:second", "NOTIFY_SOCKET": f"{directory}/notify"},
            preexec_fn=hand_over, close_fds=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        for sock in listening:
            sock.close()

    def note(self) -> str:
        return self.notes.recv(4096).decode()

    def ping(self, path: Path) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return client.recv(4096)


@pytest.fixture
def activate(tmp_path: Path) -> Iterator[Any]:
    started: list[Activated] = []

    def start(*hosts: str) -> Activated:
        started.append(Activated(tmp_path, *hosts))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()
        one.notes.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_systemd_hands_sockets_over_and_is_told(activate: Any) -> None:
    daemon = activate("fd://")
    assert daemon.note() == f"READY=1\nMAINPID={daemon.process.pid}"
    for path in daemon.paths:
        assert daemon.ping(path).startswith(b"HTTP/1.1 200 OK")
    (daemon.directory / "daemon.json").write_text(json.dumps({"labels": ["after=reload"]}))
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.note().startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert daemon.note() == "READY=1"
    daemon.process.terminate()
    assert daemon.note() == "STOPPING=1"
    assert daemon.process.wait(60) == 0
    assert all(path.exists() for path in daemon.paths)  # they are systemd's to remove


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_one_socket_of_several_by_name(activate: Any, tmp_path: Path) -> None:
    daemon = activate("fd://second", f"unix://{tmp_path}/own.sock")
    assert daemon.note().startswith("READY=1")
    for path in (daemon.paths[1], tmp_path / "own.sock"):
        assert daemon.ping(path).startswith(b"HTTP/1.1 200 OK")
    daemon.process.terminate()
    assert daemon.process.wait(60) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_socket_that_was_not_handed_over(activate: Any) -> None:
    daemon = activate("fd://third")
    out, _ = daemon.process.communicate(timeout=60)
    assert daemon.process.returncode == 1
    assert b"failed to find the socket fd://third among the 2 inherited" in out
