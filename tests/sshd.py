"""An sshd of our own on loopback, behind which sampan's command line is found under the names of one's choice."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BIN


@contextlib.contextmanager
def running_sshd(folder: Path, *names: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The address for root, and the environment in which ``ssh`` trusts it; the session skips without sshd."""
    if not os.path.exists("/usr/sbin/sshd"):
        pytest.skip("sshd is not installed")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for name in names:
        script(folder / "bin" / name, f'exec {BIN}/python3 -m sampan.cli.main "$@"')
    os.makedirs("/run/sshd", exist_ok=True)
    server = subprocess.Popen([
        "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-p", str(port), "-h", folder / "host",
        "-o", "ListenAddress=127.0.0.1", "-o", f"AuthorizedKeysFile={folder}/authorized", "-o", "StrictModes=no",
        "-o", f"PidFile={folder}/pid", "-o", f"SetEnv=PATH={folder}/bin:/usr/bin:/bin", "-o", "UsePAM=no",
    ], stderr=subprocess.DEVNULL)  # fmt: skip
    trust = f"-i {folder}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    script(folder / "wrap" / "ssh", f'exec /usr/bin/ssh -F /dev/null {trust} "$@"')
    try:
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"ssh://root@127.0.0.1:{port}", {"PATH": f"{folder}/wrap:{os.environ['PATH']}"}
    finally:
        server.terminate()
        server.wait()


def script(path: Path, line: str) -> None:
    """A shell script of one line."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
