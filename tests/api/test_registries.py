"""Push, pull and builds from a registry (Debian's docker-registry on loopback), by the stock client."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry of its own."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/data}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", int(address.split(":")[1]))).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


def test_push_all_tags_pull_and_build_from_it(sampand: Daemon, busybox: str, registry: str) -> None:
    names = [f"{registry}/team/bb:{tag}" for tag in ("1", "2")]
    for name in names:
        sampand.docker("tag", busybox, name)
    pushed = sampand.docker("push", "-a", f"{registry}/team/bb").stdout
    assert "1: digest: sha256:" in pushed and "2: digest: sha256:" in pushed
    sampand.docker("rmi", *names)
    try:
        platform = sampand.docker("version", "--format", "{{.Server.Os}}/{{.Server.Arch}}").stdout.strip()
        assert "Status: Downloaded" in sampand.docker("pull", "--platform", platform, names[0]).stdout
        assert sampand.docker("run", "--rm", names[1], "echo", "pulled").stdout == "pulled\n"
        sampand.docker("rmi", *names)
        built = sampand.docker(
            "build", "-t", "from-registry", "-", input=f"FROM {names[1]}\nRUN echo hello\n"
        )
        assert "hello" in built.stdout
        missing = sampand.docker("pull", f"{registry}/team/bb:nosuch", check=False)
        assert missing.returncode == 1 and "not found" in missing.stderr
        every = sampand.docker("pull", "-a", f"{registry}/team/bb", check=False)
        assert every.returncode == 1 and "all tags is not supported" in every.stderr
    finally:
        sampand.docker("rmi", "-f", "from-registry", *names, check=False)


def test_push_of_nothing_is_refused(sampand: Daemon, registry: str) -> None:
    done = sampand.docker("push", "-a", f"{registry}/no/such", check=False)
    assert done.returncode == 1 and "does not exist locally" in done.stderr
