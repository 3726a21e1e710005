"""A ``sampan serve-registry`` of a test's own, and a client that says what it sends."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import urllib3

from tests.conftest import BIN

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class Client:
    """Asks a registry at an address, ours or another one."""

    def __init__(self, address: str = "", scheme: str = "http") -> None:
        self.address, self.scheme = address, scheme
        self.pool = urllib3.PoolManager(retries=False, maxsize=40, cert_reqs="CERT_NONE")
        self.auth: dict[str, str] = {}
        urllib3.disable_warnings()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> urllib3.BaseHTTPResponse:
        """One request; underscores in names of header fields stand for hyphens."""
        fields = {**self.auth, **{name.replace("_", "-"): value for name, value in headers.items()}}
        url = f"{self.scheme}://{self.address}{path}"
        return self.pool.request(method, url, body=body, headers=fields, redirect=False)

    def json(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status == 200, (answer.status, answer.data)
        return json.loads(answer.data)

    def blob(self, repository: str, data: bytes) -> str:
        digest = digest_of(data)
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", data)
        if answer.status == 202:  # as a registry may say that doesn't take all at once
            place = answer.headers["Location"].partition("://")[2].partition("/")[2]
            answer = self.ask("PUT", f"/{place}&digest={digest}", data)
        assert answer.status == 201, answer.data
        return digest

    def begin(self, repository: str) -> str:
        answer = self.ask("POST", f"/v2/{repository}/blobs/uploads/")
        assert answer.status == 202
        return answer.headers["Location"]

    def image(self, repository: str, *tags: str, layer: bytes = b"layer", **more: Any) -> tuple[str, bytes]:
        """Push an image of one layer; its digest and manifest."""
        config = json.dumps({"architecture": "amd64", "os": "linux"}).encode()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": self.blob(repository, config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": self.blob(repository, layer), "size": len(layer)}],
            **more,
        }
        raw = json.dumps(document).encode()
        for reference in tags or (digest_of(raw),):
            answer = self.put(repository, reference, raw)
            assert answer.status == 201, answer.data
        return digest_of(raw), raw

    def put(
        self, repository: str, reference: str, raw: bytes, kind: str = MANIFEST
    ) -> urllib3.BaseHTTPResponse:
        return self.ask("PUT", f"/v2/{repository}/manifests/{reference}", raw, Content_Type=kind)


class Served(Client):
    """The server's process; ``start`` again after ``kill``."""

    def __init__(self, data: Path, *flags: str, listen: str = "127.0.0.1:0") -> None:
        super().__init__()
        self.data, self.flags, self.listen = data, flags, listen
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Served:
        command = [str(BIN / "sampan"), "serve-registry", "--data", str(self.data), "--listen", self.listen]
        self.log = open(self.data.parent / f"{self.data.name}.log", "a+")
        self.process = subprocess.Popen(
            [*command, *self.flags], stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"ready on (https?)://(\S+):(\d+)", line)
        assert match, (line, self.errors())
        self.scheme, self.host, self.port = match[1], match[2], int(match[3])
        self.listen = f"127.0.0.1:{self.port}"
        self.address = f"{self.host}:{self.port}"
        return self

    def errors(self) -> str:
        self.log.flush()
        self.log.seek(0)
        return self.log.read()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self) -> int:
        if self.process is None:
            return 0
        self.process.terminate()
        code = self.process.wait(60)
        self.process = None
        return code

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=100)

    def usage(self) -> dict[str, Any]:
        found = self.json("/v2/_sampan/registry/usage")["repositories"]
        return {entry["name"]: entry for entry in found}

    def memory(self) -> int:
        """Bytes of resident memory."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGESIZE")


def code_of(answer: urllib3.BaseHTTPResponse) -> str:
    """The code in an error's body."""
    found: str = json.loads(answer.data)["errors"][0]["code"]
    return found
