"""An engine in a network namespace and a cgroup of its own, so that all it leaves behind can be counted."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sampan.engine.containers.cgroups import hierarchies
from tests.conftest import busybox_tar

_PATIENCE = 60.0


class Gone(Exception):
    """The engine went away before it had answered."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class World:
    """One engine over roots of its own; it may be killed and started again at any time."""

    def __init__(self, *flags: str) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="sampan-soak-", dir="/var/tmp"))
        self.data, self.run = self.dir / "data", self.dir / "run"
        self.socket = str(self.dir / "s")
        self.netns = self.dir.name
        self.cgroup = self.dir.name
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None
        subprocess.run(["ip", "netns", "add", self.netns], check=True)
        self.inside("ip", "link", "set", "lo", "up")

    # --- the engine ---------------------------------------------------------------------------------------

    def inside(self, *command: str) -> str:
        """What a command prints that runs in the engine's network namespace."""
        enter = ["nsenter", f"--net=/run/netns/{self.netns}"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=True).stdout

    def start(self) -> float:
        """Start the engine; returns the seconds until it answered."""
        begun = time.monotonic()
        with open(self.dir / "log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{self.netns}", sys.executable, "-m", "sampan.daemon"),
                    *("-H", f"unix://{self.socket}", "--pidfile", str(self.dir / "pid")),
                    *("--data-root", str(self.data), "--exec-root", str(self.run)),
                    *("--bridge", "soak0", "--bip", "10.219.0.1/16", "--cgroup-parent", f"/{self.cgroup}"),
                    *self.flags,
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() - begun > _PATIENCE:
                raise AssertionError(f"the engine did not start:\n{self.log()}")
            time.sleep(0.01)
        return time.monotonic() - begun

    def answers(self) -> bool:
        """Whether the engine serves."""
        with contextlib.suppress(Gone):
            return self.ask("GET", "/_ping")[0] == 200
        return False

    def kill(self) -> None:
        """kill -9, of the engine alone."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def kill_helper(self, word: str) -> None:
        """kill -9, of the engine's process whose command line has ``word``; the engine makes a new one."""
        for pid in self.inside("ip", "netns", "pids", self.netns).split():
            with contextlib.suppress(OSError):
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)
                    return

    def stop(self) -> None:
        """SIGTERM; returns when it has ended."""
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(_PATIENCE)
        assert code == 0, (code, self.log())

    def log(self) -> str:
        """The end of what the engine has written."""
        return (self.dir / "log").read_text(errors="replace")[-6000:]

    def load_busybox(self) -> None:
        """The image that all containers are made of."""
        command = quote('CMD ["sh"]')
        path = f"/images/create?fromSrc=-&repo=busybox&tag=latest&changes={command}"
        status, said = self.ask("POST", path, raw=busybox_tar())
        assert status == 200 and "errorDetail" not in str(said), said

    # --- requests -----------------------------------------------------------------------------------------

    def ask(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, timeout: float = 60
    ) -> tuple[int, Any]:
        """Status and answer, decoded where it is JSON, else text. Gone when the engine ended meanwhile."""
        connection = _Connection(self.socket, timeout)
        headers = {"Content-Type": "application/x-tar" if raw is not None else "application/json"}
        data = raw if raw is not None or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            said = answer.read()
        except TimeoutError:
            raise AssertionError(f"{method} {path} got no answer in {timeout} s\n{self.log()}") from None
        except (OSError, http.client.HTTPException) as problem:
            raise Gone(f"{method} {path}: {problem!r}") from problem
        finally:
            connection.close()
        if answer.getheader("Content-Type", "").startswith("application/json"):
            with contextlib.suppress(ValueError):
                return answer.status, json.loads(said)
        return answer.status, said.decode("utf-8", "replace")

    def stream(self, path: str, over: threading.Event) -> Iterator[bytes]:
        """What a request answers, as it comes, until ``over``. Gone when the engine ended meanwhile."""
        connection = _Connection(self.socket, 60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            while not over.is_set():
                data = answer.read1(1 << 16)
                if not data:
                    return
                yield data
        except (OSError, http.client.HTTPException) as problem:
            raise Gone(path) from problem
        finally:
            connection.close()

    def must(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a request that has to succeed."""
        status, said = self.ask(method, path, body)
        assert status < 400, (method, path, status, said)
        return said

    # --- what is left -------------------------------------------------------------------------------------

    def traces(self) -> dict[str, list[str]]:
        """All that containers leave on a machine while they run, by kind; for an idle engine all empty."""
        return {
            "processes": sorted(self._processes()),
            "mounts": _lines("/proc/self/mountinfo", str(self.dir)),
            "links": [name for name in self._links() if name not in ("lo", "soak0")],
            "cgroups": [str(path) for path in self._cgroups()],
            "firewall": self._forwarded(),
            "containers": _names(self.data / "containers"),
            "run": _names(self.run / "containers"),
            "volumes": [name for name in _names(self.data / "volumes") if name != "metadata.db"],
        }

    def _processes(self) -> Iterator[str]:
        """Monitors, containers' and orphans: all that is neither the engine nor made for it."""
        assert self.process is not None
        own = self.process.pid
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == own:
                continue
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                groups = (entry / "cgroup").read_text()
                inside = os.stat(entry / "ns/net").st_ino == os.stat(f"/run/netns/{self.netns}").st_ino
                if f"/{self.cgroup}" in groups or (inside and not self._helps(entry, command)):
                    yield f"{entry.name}: {command}"

    def _helps(self, process: Path, command: str) -> bool:
        """The zygote is the engine's child; the switchboard outlives engines, and there is but one."""
        assert self.process is not None
        if "switchboard" in command:
            return len(self._switchboards()) == 1
        return _parent(process) == self.process.pid and "sampan-monitor" not in command

    def _switchboards(self) -> list[int]:
        """The switchboards in our namespace."""
        found = []
        for pid in self.inside("ip", "netns", "pids", self.netns).split():
            with contextlib.suppress(OSError):
                if b"switchboard" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
        return found

    def _links(self) -> list[str]:
        links = json.loads(self.inside("ip", "-j", "link"))
        return [link["ifname"] for link in links]

    def _cgroups(self) -> Iterator[Path]:
        for root in self._cgroup_roots():
            yield from (path for path in root.iterdir() if path.is_dir())

    def _cgroup_roots(self) -> list[Path]:
        return [root for one in set(hierarchies().values()) if (root := Path(one, self.cgroup)).is_dir()]

    def _forwarded(self) -> list[str]:
        """Elements of the sets and maps that lead to containers."""
        rules = json.loads(self.inside("nft", "-j", "list", "ruleset"))["nftables"]
        found = []
        for rule in rules:
            for kind in ("map", "set"):
                body = rule.get(kind, {})
                found += [f"{body['name']}: {element}" for element in body.get("elem", [])]
        return [text for text in found if "10.219." in text and "soak0" not in text and "masq4" not in text]

    def engine_files(self) -> int:
        """Open descriptors of the engine."""
        assert self.process is not None
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def engine_memory(self) -> int:
        """Resident bytes of the engine."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def settle(self, seconds: float = 15) -> dict[str, list[str]]:
        """Wait until nothing is left; what is left of the time that takes."""
        deadline = time.monotonic() + seconds
        while True:
            left = {kind: found for kind, found in self.traces().items() if found}
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.2)

    def close(self) -> None:
        """Remove all containers, end the engine, delete everything."""
        with contextlib.suppress(Gone, AssertionError):
            for container in self.must("GET", "/containers/json?all=1"):
                self.ask("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
        for text in self._processes():
            with contextlib.suppress(OSError):
                os.kill(int(text.split(":")[0]), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", self.netns], check=False)
        for root in self._cgroup_roots():
            with contextlib.suppress(OSError):
                root.rmdir()
        shutil.rmtree(self.dir, ignore_errors=True)


def _lines(path: str, text: str) -> list[str]:
    with open(path) as file:
        return [line.strip() for line in file if text in line]


def _names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.is_dir() else []


def _parent(process: Path) -> int:
    return int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
