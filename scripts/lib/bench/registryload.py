"""Load for registries: what scripts/bench measures of ``serve-registry`` beside Debian's docker-registry.

The clients cost next to nothing (sendfile up, MSG_TRUNC down), so that the server is what is measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

BIN = Path(sys.executable).parent
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class Registry:
    """A registry under test on a port of loopback: "sampan" or Debian's ("dockerd"'s side)."""

    def __init__(self, name: str) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="bench-registry-", dir="/var/tmp"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        if name == "sampan":
            command = [str(BIN / "sampan"), "serve-registry", "--data", str(self.dir / "data")]
            command += ["--listen", f"127.0.0.1:{self.port}"]
        else:
            settings = self.dir / "registry.yml"
            settings.write_text(
                "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
                f"storage: {{filesystem: {{rootdirectory: {self.dir / 'data'}}}}}\n"
                f"http: {{addr: '127.0.0.1:{self.port}'}}\n"
            )
            command = ["docker-registry", "serve", str(settings)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.025)
        raise SystemExit(f"the registry of {name} did not start")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=300)

    def memory(self) -> int:
        """Bytes of proportional set size."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return 0


@contextlib.contextmanager
def serving(name: str) -> Iterator[Registry]:
    registry = Registry(name)
    try:
        yield registry
    finally:
        registry.close()


def request(
    sock: socket.socket, method: str, path: str, body: bytes = b"", kind: str = ""
) -> tuple[int, dict[str, str], int]:
    """One request; status, fields, and how many bytes of the body are still to come."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    head += f"Content-Type: {kind}\r\n\r\n" if kind else "\r\n"
    sock.sendall(head.encode() + body)
    return answer(sock)


def answer(sock: socket.socket) -> tuple[int, dict[str, str], int]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            raise ConnectionError("the registry hung up")
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    fields = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines[1:]}
    return int(lines[0].split()[1]), fields, int(fields.get("content-length", "0")) - len(rest)


def discard(sock: socket.socket, left: int) -> None:
    """Take bytes off the socket without copying them (MSG_TRUNC of tcp(7))."""
    buffer = bytearray(1 << 20)
    while left > 0:
        size = sock.recv_into(buffer, min(left, len(buffer)), socket.MSG_TRUNC)
        if not size:
            raise ConnectionError("the registry hung up")
        left -= size


def upload(registry: Registry, repository: str, file: Path, digest: str) -> None:
    """POST and PUT of a file."""
    with registry.connect() as sock, open(file, "rb") as source:
        _, fields, left = request(sock, "POST", f"/v2/{repository}/blobs/uploads/")
        discard(sock, left)
        place = fields["location"].partition("/v2/")[2]
        size = file.stat().st_size
        mark = "&" if "?" in place else "?"
        head = f"PUT /v2/{place}{mark}digest={digest} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
        sock.sendall(head.encode())
        sock.sendfile(source)
        status = answer(sock)[0]
        if status != 201:
            raise RuntimeError(f"upload: status {status}")


def download(registry: Registry, repository: str, digest: str) -> None:
    with registry.connect() as sock:
        status, _, left = request(sock, "GET", f"/v2/{repository}/blobs/{digest}")
        if status != 200:
            raise RuntimeError(f"download: status {status}")
        discard(sock, left)


def together(count: int, work: Callable[[int], None]) -> float:
    """Seconds that ``count`` threads need for ``work(number)`` each."""
    problems: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return time.perf_counter() - begun


def content(folder: Path, size: int) -> tuple[Path, str]:
    """A file of random bytes and its digest."""
    path, state = folder / f"blob-{size}", hashlib.sha256()
    with open(path, "wb") as file:
        for _ in range(size >> 20):
            piece = os.urandom(1 << 20)
            state.update(piece)
            file.write(piece)
    return path, f"sha256:{state.hexdigest()}"


def uploads(name: str, clients: int, size: int) -> float:
    """MB/s of ``clients`` uploads of ``size`` bytes each."""
    with serving(name) as registry:
        file, digest = content(registry.dir, size)
        taken = together(clients, lambda number: upload(registry, f"r{number}", file, digest))
        return clients * size / taken / 1e6


def downloads(name: str, clients: int, size: int, times: int) -> float:
    """MB/s of ``clients`` that each download ``size`` bytes so many ``times``."""
    with serving(name) as registry:
        file, digest = content(registry.dir, size)
        upload(registry, "r", file, digest)

        def work(number: int) -> None:
            for _ in range(times):
                download(registry, "r", digest)

        return clients * times * size / together(clients, work) / 1e6


def manifest_rate(name: str, clients: int, count: int) -> float:
    """GETs of a manifest by tag per second, ``count`` on each of ``clients`` connections."""
    with serving(name) as registry:
        (registry.dir / "config").write_bytes(b"{}")
        digest = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"
        upload(registry, "r", registry.dir / "config", digest)
        pointer = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": 2}
        layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 2}
        raw = {"schemaVersion": 2, "mediaType": MANIFEST, "config": pointer, "layers": [layer] * 5}
        with registry.connect() as sock:
            status = request(sock, "PUT", "/v2/r/manifests/latest", json.dumps(raw).encode(), MANIFEST)[0]
            if status != 201:
                raise RuntimeError(f"manifest: status {status}")
        head = f"GET /v2/r/manifests/latest HTTP/1.1\r\nHost: x\r\nAccept: {MANIFEST}\r\n\r\n".encode()

        def work(number: int) -> None:
            with registry.connect() as sock:
                for _ in range(count):
                    sock.sendall(head)
                    discard(sock, answer(sock)[2])

        return clients * count / together(clients, work)


def upload_memory(name: str, clients: int, size: int) -> float:
    """MB of the server's memory at its highest during ``clients`` uploads of ``size`` bytes."""
    with serving(name) as registry:
        file, digest = content(registry.dir, size)
        highest, done = 0, threading.Event()

        def watch() -> None:
            nonlocal highest
            while not done.wait(0.1):
                highest = max(highest, registry.memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        together(clients, lambda number: upload(registry, f"r{number}", file, digest))
        done.set()
        watcher.join()
        return highest / 1e6
