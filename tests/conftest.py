"""Shared fixtures: real daemons with their own roots, sockets and bridges, and small images to run."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes is the machine's affair, not the test's, and a run tries the same examples as the
# one before. HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile(
    "sampan", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "sampan"))

PROJECT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
STOCK_CLI = shutil.which("docker")


def current_cli() -> bool:
    """Whether ``docker`` is a current one (28 or later), or there is none and sampan's own stands in."""
    if STOCK_CLI is None:
        return True
    words = subprocess.run([STOCK_CLI, "--version"], capture_output=True, text=True).stdout.split()
    return len(words) > 2 and int(words[2].partition(".")[0]) >= 28


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine can't do, saying so."""
    for item in items:
        if item.get_closest_marker("dockerd") and not shutil.which("dockerd"):
            item.add_marker(pytest.mark.skip(reason="dockerd is not installed"))
        if os.geteuid() != 0 and "sampand" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.skip(reason="needs root"))


class UnixConnection(http.client.HTTPConnection):
    """http.client over a unix socket."""

    def __init__(self, path: str, timeout: float = 60) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Daemon:
    """A sampand of its own, that tests may kill and start again."""

    def __init__(self, number: int, *flags: str) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="sampan-test-"))
        self.root = self.dir / "data"
        self.run = self.dir / "run"
        self.socket = str(self.dir / "s")
        self.host = f"unix://{self.socket}"
        self.bridge = f"smt{os.getpid() % 10000}x{number}"
        # Not where tests put networks of their own; the session's daemon, the first, shares with no later one.
        self.bip = f"10.{121 + number % 39 if number else 120}.{os.getpid() % 250}.1/24"
        self.flags = flags
        self.patience = 60.0  # seconds for its start, and for its end
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def env(self) -> dict[str, str]:
        """The environment in which a stock client finds this daemon."""
        return {
            **os.environ,
            "DOCKER_HOST": self.host,
            "DOCKER_BUILDKIT": "0",
            "DOCKER_CONFIG": str(self.dir / "config"),
        }

    def start(self) -> Daemon:
        """Start and wait until it answers."""
        log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sampan.daemon", "-H", self.host, "--data-root", str(self.root)),
                *("--exec-root", str(self.run), "--pidfile", str(self.dir / "pid")),
                *("--bridge", self.bridge, "--bip", self.bip, "--log-level", "debug", *self.flags),
            ],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
        log.close()
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"sampand ended with {self.process.returncode}:\n{self.log()}")
            with contextlib.suppress(OSError):
                if self.api("GET", "/_ping")[0] == 200:
                    return self
            time.sleep(0.02)
        raise RuntimeError(f"sampand did not answer in {self.patience} s:\n{self.log()}")

    def log(self) -> str:
        """What it has written so far (the last part)."""
        return (self.dir / "log").read_text(errors="replace")[-8000:]

    def kill(self) -> None:
        """kill -9 the engine alone; zygote, monitors and containers are left as they are."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self) -> int:
        """SIGTERM and wait; the exit code."""
        assert self.process is not None
        self.process.terminate()
        try:
            code = self.process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError(
                f"sampand did not end on SIGTERM in {self.patience} s:\n{self.log()}"
            ) from None
        self.process = None
        return code

    def close(self) -> None:
        """Remove every container, stop, and remove the daemon's files."""
        if self.process is not None and self.process.poll() is None:
            for container in self.json("GET", "/containers/json?all=1"):
                self.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
            self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def docker(
        self, *args: str, input: str | bytes | None = None, check: bool = True, cli: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the stock CLI (or sampan's where there is none) against this daemon; output as text."""
        if isinstance(input, str):
            input = input.encode()
        done = subprocess.run(
            [cli or STOCK_CLI or str(BIN / "sampan"), *args],
            **({"input": input} if input is not None else {"stdin": subprocess.DEVNULL}),
            capture_output=True,
            env=self.env,
            timeout=100,
        )
        result = subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode(errors="surrogateescape"),
            done.stderr.decode(errors="surrogateescape"),
        )
        if check and done.returncode:
            raise AssertionError(f"{args} exited {done.returncode}:\n{result.stdout}\n{result.stderr}")
        return result

    def api(
        self,
        method: str,
        path: str,
        json_body: Any = None,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """One request; status, headers (lower-cased names) and body."""
        connection = UnixConnection(self.socket)
        heads = dict(headers or {})
        if json_body is not None:
            body = json.dumps(json_body).encode()
            heads.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, path, body=body, headers=heads)
            response = connection.getresponse()
            data = response.read()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, data
        finally:
            connection.close()

    def json(self, method: str, path: str, json_body: Any = None) -> Any:
        """One request that must succeed; its JSON answer (None without a body)."""
        status, _, data = self.api(method, path, json_body)
        assert status < 400, (method, path, status, data)
        return json.loads(data) if data.strip() else None


_numbers = iter(range(10_000))


@pytest.fixture(scope="session")
def sampand() -> Iterator[Daemon]:
    """One daemon for the whole session; tests use names of their own and remove what they make."""
    daemon = Daemon(next(_numbers)).start()
    yield daemon
    daemon.close()


@pytest.fixture
def new_sampand() -> Iterator[Any]:
    """Makes daemons that a test may kill: ``new_sampand(*flags)`` is started, and closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(*flags: str) -> Daemon:
            daemon = Daemon(next(_numbers), *flags)
            stack.callback(daemon.close)
            return daemon.start()

        yield make


def busybox_tar() -> bytes:
    """A root file system of /bin/busybox (static) with its applets as hard links, and the usual files."""
    applets = subprocess.run(
        ["/bin/busybox", "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:

        def add(name: str, data: bytes | None = None, mode: int = 0o755, link: str = "") -> None:
            info = tarfile.TarInfo(name)
            info.mode = mode
            if link:
                info.type, info.linkname = tarfile.LNKTYPE, link
            elif data is None:
                info.type = tarfile.DIRTYPE
            else:
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if data is not None else None)

        for directory in ("bin", "etc", "root", "home", "usr", "usr/bin", "var", "var/tmp"):
            add(directory)
        add("tmp", mode=0o1777)
        add("bin/busybox", Path("/bin/busybox").read_bytes())
        for applet in applets:
            if applet != "busybox":
                add(f"bin/{applet}", link="bin/busybox")
        add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", 0o644)
        add("etc/group", b"root:x:0:\nusers:x:100:\nnogroup:x:65534:\n", 0o644)
    return out.getvalue()


def import_busybox(daemon: Daemon, name: str = "busybox:latest") -> str:
    """Load the busybox image into a daemon under a name."""
    repository, tag = name.rsplit(":", 1)
    status, _, data = daemon.api(
        "POST",
        f"/images/create?fromSrc=-&repo={repository}&tag={tag}&changes=CMD+%5B%22sh%22%5D"
        "&changes=ENV+PATH%3D%2Fusr%2Flocal%2Fsbin%3A%2Fusr%2Flocal%2Fbin%3A%2Fusr%2Fsbin%3A%2Fusr%2Fbin%3A%2Fsbin%3A%2Fbin",
        body=busybox_tar(),
        headers={"Content-Type": "application/x-tar"},
    )
    assert status == 200 and b"errorDetail" not in data, data
    return name


@pytest.fixture(scope="session")
def busybox(sampand: Daemon) -> str:
    """The name of a small image in the session's daemon."""
    return import_busybox(sampand)
