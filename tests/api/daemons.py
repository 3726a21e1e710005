"""A sampand with the busybox image in its store, and requests to it, for tests of the containers' routes."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.engine.boxes import Roots

SAMPAND = Path(sys.executable).with_name("sampand")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


class Daemon:
    """One daemon over roots of its own; it can be killed and started again."""

    def __init__(self, number: int = 2) -> None:
        self.roots = Roots()
        self.socket = str(self.roots.base / "s")
        self.number = number
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it says that it is ready."""
        self.process = subprocess.Popen(
            [
                str(SAMPAND),
                *("--data-root", str(self.roots.data), "--exec-root", str(self.roots.run)),
                *("-H", f"unix://{self.socket}", "--bridge", f"smpe{self.number}"),
                *("--bip", f"10.201.{5 + self.number}.1/24", "--pidfile", str(self.roots.base / "pid")),
            ],
            stdout=subprocess.PIPE,
            stderr=open(self.roots.base / "log", "ab"),
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "ready" in line, (self.roots.base / "log").read_text()

    def kill(self) -> None:
        """kill -9, as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def call(self, method: str, path: str, body: Any = None, version: str = "1.50") -> tuple[int, Any]:
        """Status and decoded body (text when it isn't JSON)."""
        connection = _Connection(self.socket)
        headers = {} if body is None else {"Content-Type": "application/json"}
        data = body if isinstance(body, str | None) else json.dumps(body)
        connection.request(method, f"/v{version}{path}", data, headers)
        answer = connection.getresponse()
        raw = answer.read()
        connection.close()
        with contextlib.suppress(ValueError):
            return answer.status, json.loads(raw)
        return answer.status, raw.decode("utf-8", "replace")

    def create(self, *cmd: str, name: str = "", **body: Any) -> str:
        """Create a container without network; its id."""
        host = {"NetworkMode": "none", **body.pop("HostConfig", {})}
        request = {"Image": "busybox", "Cmd": list(cmd), "HostConfig": host, **body}
        status, found = self.call(
            "POST", f"/containers/create?name={name}" if name else "/containers/create", request
        )
        assert status == 201, found
        return str(found["Id"])

    def close(self) -> None:
        """Remove what is left, stop, delete the roots."""
        for container in self.call("GET", "/containers/json?all=1")[1]:
            self.call("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        assert self.process is not None
        self.process.terminate()
        self.process.wait(60)
        self.roots.remove()
