"""An engine under test: started in a network namespace of its own, driven by the stock client."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
DOCKER = shutil.which("docker") or str(BIN / "sampan")
PYTHON_IMAGE = "python:3.6-slim"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


def processes() -> dict[int, tuple[int, str]]:
    """All processes: pid → (parent, command line)."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, IndexError):
                stat = Path(f"/proc/{entry}/stat").read_text()
                command = (
                    Path(f"/proc/{entry}/cmdline")
                    .read_bytes()
                    .replace(b"\0", b" ")
                    .decode("utf-8", "replace")
                )
                found[int(entry)] = (int(stat.rsplit(")", 1)[1].split()[1]), command)
    return found


def pss(pid: int) -> int:
    """Proportional set size of a process, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


class Engine:
    """An engine under test, in its own directories and network namespace."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.dir = Path(tempfile.mkdtemp(prefix=f"bench-{name}-", dir="/var/tmp"))
        self.socket = str(self.dir / "s")
        self.netns = f"bench-{name}-{os.getpid()}"
        self.bridge = f"bn{os.getpid() % 100000}x{number}"
        self.address = f"10.197.{number}.1"
        self.log = open(self.dir / "log", "wb")

    def command(self) -> list[str]:
        common = ["-H", f"unix://{self.socket}", "--data-root", str(self.dir / "data")]
        common += [
            "--exec-root",
            str(self.dir / "run"),
            "--pidfile",
            str(self.dir / "pid"),
            "--bridge",
            self.bridge,
        ]
        if self.name == "sampan":
            return [str(BIN / "sampand"), *common, "--bip", f"{self.address}/24"]
        return ["dockerd", *common]

    def start(self) -> None:
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        self.inside("ip", "link", "set", "lo", "up")
        if self.name == "dockerd":
            self.inside("ip", "link", "add", self.bridge, "type", "bridge")
            self.inside("ip", "addr", "add", f"{self.address}/24", "dev", self.bridge)
            self.inside("ip", "link", "set", self.bridge, "up")
        self.launch()

    def launch(self) -> None:
        """Start the process and wait until it answers."""
        self.process = subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{self.netns}", *self.command()], stdout=self.log, stderr=self.log
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self.api("GET", "/_ping")[0] == 200:
                    return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise SystemExit(f"{self.name} did not start; see {self.dir}/log")

    def inside(self, *command: str) -> str:
        """Run a command in the engine's network namespace."""
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{self.netns}", *command],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def restart(self) -> None:
        """A fresh process on the same data."""
        self.process.terminate()
        self.process.wait(30)
        self.launch()

    def stop(self) -> None:
        with contextlib.suppress(Exception):
            self.remove_all()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        subprocess.run(["ip", "netns", "del", self.netns], check=False)
        self.log.close()
        for mount in Path("/proc/mounts").read_text().splitlines():
            if str(self.dir) in mount:
                subprocess.run(["umount", "-l", mount.split()[1]], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            "DOCKER_HOST": f"unix://{self.socket}",
            "DOCKER_BUILDKIT": "0",
            "DOCKER_CONFIG": str(self.dir),
        }

    def docker(self, *args: str, input: bytes | None = None) -> bytes:
        done = subprocess.run([DOCKER, *args], env=self.env, input=input, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{self.name}: docker {' '.join(args)}: {done.stderr.decode()[-800:]}")
        return done.stdout

    def api(
        self, method: str, path: str, body: Any = None, connection: UnixConnection | None = None
    ) -> tuple[int, bytes]:
        c = connection or UnixConnection(self.socket)
        headers = {}
        if body is not None:
            body, headers = json.dumps(body), {"Content-Type": "application/json"}
        c.request(method, "/v1.41" + path if path != "/_ping" else path, body=body, headers=headers)
        response = c.getresponse()
        data = response.read()
        if connection is None:
            c.close()
        return response.status, data

    def remove_all(self) -> None:
        ids = self.docker("ps", "-aq").decode().split()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: self.api("DELETE", f"/containers/{i}?force=1&v=1"), ids))

    def helpers(self) -> list[int]:
        """Every process of the engine that is not the engine itself nor inside a container."""
        root = os.readlink("/proc/self/ns/pid")
        mine = []
        table = processes()
        for pid, (_, command) in table.items():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/ns/pid") != root:
                    continue
                if str(self.dir) in command or self.descends(pid, table):
                    mine.append(pid)
        return mine

    def descends(self, pid: int, table: dict[int, tuple[int, str]]) -> bool:
        while pid > 1 and pid in table:
            if pid == self.process.pid:
                return True
            pid = table[pid][0]
        return False

    def memory(self) -> int:
        return sum(pss(pid) for pid in self.helpers())
