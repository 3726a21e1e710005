"""OCI bundles to try the runtime command line with: a busybox root file system and a configuration to change."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.runtime.oci.specfile import document

RUNTIME = (sys.executable, "-m", "sampan.runtime.oci")
BUSYBOX = shutil.which("busybox")
ALL_CAPABILITIES = [
    "CAP_SYS_ADMIN",
    "CAP_CHOWN",
    "CAP_SETUID",
    "CAP_SETGID",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
]

needs_root = pytest.mark.skipif(os.geteuid() != 0 or not BUSYBOX, reason="needs root and busybox-static")


def make_rootfs(path: Path) -> Path:
    """A root file system with busybox and an account file."""
    (path / "bin").mkdir(parents=True)
    assert BUSYBOX
    shutil.copy(BUSYBOX, path / "bin/busybox")
    names = (
        "sh",
        "cat",
        "sleep",
        "id",
        "true",
        "ls",
        "mount",
        "kill",
        "stat",
        "touch",
        "grep",
        "head",
        "env",
    )
    for name in (
        *names,
        "hostname",
        "mkdir",
        "pwd",
        "tty",
        "stty",
        "ps",
        "chmod",
        "readlink",
        "awk",
        "dd",
        "wc",
    ):
        (path / "bin" / name).symlink_to("busybox")
    for name in ("proc", "sys", "dev", "etc", "tmp", "root", "full"):
        (path / name).mkdir()
    (path / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\njoe:x:1000:1000::/home/joe:/bin/sh\n")
    (path / "full/file").write_text("content\n")
    return path


class Bundle:
    """A bundle of its own with its own state directory; ids are unique by process."""

    counter = 0

    def __init__(self, path: Path, rootfs: Path) -> None:
        self.path = path
        self.root = path / "state"
        self.config = document(rootless=False)
        self.config["root"] = {"path": str(rootfs), "readonly": False}
        self.process["terminal"] = False
        self.process["rlimits"] = []
        self.process["args"] = ["true"]
        Bundle.counter += 1
        self.id = f"smpc{os.getpid()}x{Bundle.counter}"

    @property
    def process(self) -> dict[str, Any]:
        """``process`` of the configuration."""
        found: dict[str, Any] = self.config["process"]
        return found

    @property
    def linux(self) -> dict[str, Any]:
        """``linux`` of the configuration."""
        found: dict[str, Any] = self.config["linux"]
        return found

    def shell(self, script: str) -> Bundle:
        """Let the program be a shell with a script."""
        self.process["args"] = ["sh", "-c", script]
        return self

    def allow(self, *names: str) -> Bundle:
        """Give the process capabilities."""
        sets = ("bounding", "effective", "permitted")
        self.process["capabilities"] = {kind: list(names) for kind in sets}
        return self

    def write(self) -> Bundle:
        """Write config.json."""
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self

    def call(self, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run the command line; the output as text."""
        done = subprocess.run(
            [*RUNTIME, "--root", str(self.root), *words],
            cwd=self.path,
            text=True,
            timeout=100,
            **{"stdin": subprocess.DEVNULL, "capture_output": True, **options},
        )
        if check and done.returncode:
            raise AssertionError(f"{words} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done

    def run(self, **options: Any) -> subprocess.CompletedProcess[str]:
        """Write the configuration and run it in the foreground."""
        return self.write().call("run", self.id, **options)

    def output(self) -> str:
        """What a run of it prints."""
        return self.run().stdout

    def fails(self, *words: str) -> str:
        """The message of a command that fails (by default: run)."""
        done = self.write().call(*(words or ("run", self.id)), check=False)
        assert done.returncode, done.stdout
        return done.stderr

    def create(self, *flags: str) -> Bundle:
        """Write the configuration and create the container, its output in files."""
        self.write()
        with open(self.path / "out", "wb") as out:
            self.call("create", *flags, self.id, capture_output=False, stdout=out, stderr=out)
        return self

    def started(self) -> Bundle:
        """Create and start."""
        self.create()
        self.call("start", self.id)
        return self

    def state(self) -> dict[str, Any]:
        """What ``state`` prints."""
        found: dict[str, Any] = json.loads(self.call("state", self.id).stdout)
        return found

    def await_status(self, status: str) -> None:
        """Wait until the container has this status."""
        deadline = time.monotonic() + 60
        while self.state()["status"] != status:
            assert time.monotonic() < deadline, self.state()
            time.sleep(0.02)

    def said(self, wanted: str = "") -> str:
        """What a created container wrote; with ``wanted`` waits until that is in it."""
        deadline = time.monotonic() + 60
        while wanted not in (text := (self.path / "out").read_text()):
            assert time.monotonic() < deadline, text
            time.sleep(0.02)
        return text

    def groups(self) -> list[str]:
        """Directories of control groups named like the container."""
        return [
            path
            for path, _, _ in os.walk("/sys/fs/cgroup")
            if os.path.basename(path) == self.id or f"/{self.id}/" in path
        ]

    def left(self) -> list[str]:
        """What is still there of the container."""
        found = self.groups()
        found += [str(path) for path in self.root.glob("*")]
        mine = str(self.path)
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if mine in line]
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if self.id.encode() in words or str(self.root).encode() in words:
                    found.append(f"{process.name} {words}")
        return found

    def close(self) -> None:
        """Remove the container, if it is there."""
        self.call("delete", "--force", self.id)


@contextlib.contextmanager
def bundle_in(path: Path, rootfs: Path) -> Iterator[Bundle]:
    """A bundle whose container is gone afterwards."""
    path.mkdir(parents=True, exist_ok=True)
    bundle = Bundle(path, rootfs)
    try:
        yield bundle
    finally:
        bundle.close()
        assert bundle.left() == []
