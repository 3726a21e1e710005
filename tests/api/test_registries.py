"""Push, pull and builds from a registry (Debian's docker-registry on loopback), by the stock client."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, STOCK_CLI, Daemon
from tests.registry.front import Exchange, Front


@contextlib.contextmanager
def serving(directory: Path, more: str = "") -> Iterator[str]:
    """Debian's registry with its files in ``directory``; its address."""
    if shutil.which("docker-registry") is None:
        pytest.skip("docker-registry is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = directory / "registry.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {directory}/data}}}}\n"
        f"http: {{addr: '{address}'}}\n{more}"
    )
    process = subprocess.Popen(
        ["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(800):
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", int(address.split(":")[1]))).close()
                break
            assert process.poll() is None, "the registry has ended"
            time.sleep(0.05)
        yield address
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry of its own."""
    with serving(tmp_path) as address:
        yield address


def sampand_cli() -> list[str]:
    return [STOCK_CLI or str(BIN / "sampan")]


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
        sampand.docker("rmi", names[1])
        every = sampand.docker("pull", "-a", f"{registry}/team/bb").stdout
        assert "1: Pulling from team/bb" in every and "2: Pulling from team/bb" in every
        assert {
            tuple(line.split())
            for line in sampand.docker(
                "images", "--format", "{{.Repository}} {{.Tag}}", f"{registry}/team/bb"
            ).stdout.splitlines()
        } == {(f"{registry}/team/bb", "1"), (f"{registry}/team/bb", "2")}
    finally:
        sampand.docker("rmi", "-f", "from-registry", *names, check=False)


def test_push_of_nothing_is_refused(sampand: Daemon, registry: str) -> None:
    done = sampand.docker("push", "-a", f"{registry}/no/such", check=False)
    assert done.returncode == 1 and "does not exist locally" in done.stderr


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """A registry that wants the password of ``demo``."""
    # bcrypt of "secret", as htpasswd -B makes it
    line = "$2y$05$mEHfAobm56SiqCX1NPHQlOQ8.gFEUhEadImjw18rMY4h5uwfR6ReC"
    (tmp_path / "htpasswd").write_text(f"demo:{line}\n")
    with serving(tmp_path, f"auth: {{htpasswd: {{realm: here, path: {tmp_path}/htpasswd}}}}\n") as address:
        yield address


def test_login_push_pull_and_logout(sampand: Daemon, busybox: str, guarded: str) -> None:
    wrong = sampand.docker("login", "-u", "demo", "-p", "wrong", guarded, check=False)
    assert wrong.returncode == 1
    assert f"login attempt to http://{guarded}/v2/ failed with status: 401 Unauthorized" in wrong.stderr
    name = f"{guarded}/team/x:1"
    sampand.docker("tag", busybox, name)
    try:
        denied = sampand.docker("push", name, check=False)
        assert denied.returncode == 1 and "denied" in denied.stderr
        done = sampand.docker("login", "-u", "demo", "--password-stdin", guarded, input="secret")
        assert done.stdout == "Login Succeeded\n"
        assert "1: digest: sha256:" in sampand.docker("push", name).stdout
        auth = {
            "X-Registry-Auth": base64.urlsafe_b64encode(b'{"username":"demo","password":"secret"}').decode()
        }
        status, _, body = sampand.api("GET", f"/distribution/{name}/json", headers=auth)
        found = json.loads(body)
        assert status == 200 and found["Descriptor"]["mediaType"].endswith("manifest.v1+json")
        assert [platform["os"] for platform in found["Platforms"]] == ["linux"]
        assert sampand.api("GET", f"/distribution/{name}/json")[0] in (401, 403, 404, 500)
        sampand.docker("logout", guarded)
        sampand.docker("rmi", name)
        assert sampand.docker("pull", name, check=False).returncode == 1
        assert "secret" not in sampand.log()
    finally:
        sampand.docker("rmi", name, check=False)


def test_mirrors_fall_through(new_sampand: Any, sampand: Daemon, busybox: str, registry: str) -> None:
    pushed = f"{registry}/library/tools:1"
    sampand.docker("tag", busybox, pushed)
    sampand.docker("push", pushed)
    sampand.docker("rmi", pushed)
    with socket.create_server(("127.0.0.1", 0)) as free:
        absent = f"http://127.0.0.1:{free.getsockname()[1]}"
    daemon = new_sampand("--registry-mirror", absent, "--registry-mirror", f"http://{registry}")
    assert "Downloaded newer image for tools:1" in daemon.docker("pull", "tools:1").stdout
    assert daemon.docker("image", "inspect", "-f", "{{index .RepoTags 0}}", "tools:1").stdout == "tools:1\n"
    assert daemon.docker("run", "--rm", "--network", "none", "tools:1", "echo", "here").stdout == "here\n"


def test_search(sampand: Daemon) -> None:
    results = [
        {"name": "one", "description": "first", "star_count": 7, "is_official": True},
        {"name": "two", "description": None, "star_count": "x"},
    ]

    def answer(exchange: Exchange) -> bool:
        return exchange.path.startswith("/v1/search?q=word") and exchange.answer(
            200, json.dumps({"results": results}).encode()
        )

    front = Front("127.0.0.1:1", answer, lambda exchange: exchange.answer(404))
    try:
        out = sampand.docker("search", "--format", "{{.Name}} {{.StarCount}}", f"{front.address}/word").stdout
        assert out == "one 7\ntwo 0\n"
        few = sampand.docker(
            "search", "--filter", "stars=3", "--format", "{{.Name}}", f"{front.address}/word"
        )
        assert few.stdout == "one\n"
        none = sampand.docker("search", f"{front.address}/other", check=False)
        assert none.returncode == 1 and "Unexpected status code 404" in none.stderr
    finally:
        front.close()


def test_a_client_that_goes_away_ends_its_pull(sampand: Daemon, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/team/big:1"
    (tmp_path / "noise").write_bytes(os.urandom(8 << 20))
    tar = subprocess.run(["tar", "c", "-C", tmp_path, "noise"], capture_output=True, check=True).stdout
    status, _, _ = sampand.api("POST", f"/images/create?fromSrc=-&repo={registry}/team/big&tag=1", body=tar)
    assert status == 200
    sampand.docker("push", name)
    sampand.docker("rmi", name)
    asked = threading.Event()

    def dribble(exchange: Exchange) -> bool:
        if "/blobs/" not in exchange.path:
            return False
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(8 << 20))
        exchange.end_headers()
        asked.set()
        try:
            for _ in range(1800):
                exchange.wfile.write(b"x" * 1000)
                time.sleep(0.05)
        except OSError:
            cut.set()
        exchange.close_connection = True
        return True

    cut = threading.Event()
    front = Front(registry, dribble)
    try:
        pull = subprocess.Popen(
            [*sampand_cli(), "pull", f"{front.address}/team/big:1"],
            env=sampand.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert asked.wait(60)
        pull.kill()
        pull.wait()
        assert cut.wait(60)
    finally:
        front.close()
    assert "/team/big" not in sampand.docker("images").stdout


def test_import_from_a_web_server(sampand: Daemon, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content\n")
    tar = subprocess.run(["tar", "cz", "-C", tmp_path, "f"], capture_output=True, check=True).stdout
    front = Front(
        "127.0.0.1:1",
        lambda exchange: exchange.path == "/moved" and exchange.answer(302, Location="/x.tgz"),
        lambda exchange: exchange.path == "/x.tgz" and exchange.answer(200, tar),
        lambda exchange: exchange.answer(404),
    )
    try:
        sampand.docker("import", "--platform", "linux/arm64", f"http://{front.address}/moved", "fetched:1")
        facts = sampand.docker("image", "inspect", "-f", "{{.Architecture}} {{.Comment}}", "fetched:1").stdout
        assert facts == f"arm64 Imported from http://{front.address}/moved\n"
        sampand.docker("rmi", "fetched:1")
        missing = sampand.docker("import", f"http://{front.address}/none", "fetched:1", check=False)
        assert missing.returncode == 1 and "the server answered 404" in missing.stderr
    finally:
        front.close()
    gone = sampand.docker("import", f"http://{front.address}/x.tgz", "fetched:1", check=False)
    assert gone.returncode == 1 and "connection refused" in gone.stderr
    status, _, _ = sampand.api("POST", "/images/create?fromSrc=file:///etc/passwd&repo=fetched")
    assert status == 400
    assert "fetched" not in sampand.docker("images").stdout
