"""``serve-registry`` with real clients: stock docker over sampand and dockerd, skopeo; mirror and share."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BIN, STOCK_CLI, Daemon, import_busybox
from tests.dockerd import running_dockerd
from tests.registry.front import Exchange, Front
from tests.registry.serving import CONFIG, INDEX, LAYER, MANIFEST, Client, Served, digest_of
from tests.registry.test_server_access import users


@pytest.fixture
def dockerd() -> Iterator[Callable[..., str]]:
    """Stock docker against Debian's dockerd, in a folder whose name is short enough for its sockets."""
    if os.geteuid() != 0 or STOCK_CLI is None:
        pytest.skip("needs root and docker's client")
    with (
        tempfile.TemporaryDirectory(prefix="dd-", dir="/var/tmp") as name,
        running_dockerd(Path(name)) as host,
    ):
        folder = Path(name)
        environment = {
            **os.environ,
            "DOCKER_HOST": host,
            "DOCKER_CONFIG": str(folder),
            "DOCKER_BUILDKIT": "0",
        }

        def docker(*words: str, check: bool = True, input: bytes | None = None) -> str:
            done = subprocess.run([STOCK_CLI, *words], env=environment, capture_output=True, input=input)
            text = (done.stdout + done.stderr).decode()
            assert not check or done.returncode == 0, text
            return text

        yield docker


def root_file_system(*sizes: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number, size in enumerate(sizes):
            info = tarfile.TarInfo(f"file{number}")
            info.size = size
            tar.addfile(info, io.BytesIO(os.urandom(size)))
    return out.getvalue()


def test_stock_client_over_sampand(sampand: Daemon, busybox: str, served: Served) -> None:
    name = f"{served.address}/team/busybox:1"
    sampand.docker("tag", "busybox", name)
    pushed = sampand.docker("push", name).stdout
    digest = served.ask("HEAD", "/v2/team/busybox/manifests/1").headers["Docker-Content-Digest"]
    assert f"digest: {digest}" in pushed
    again = f"{served.address}/other/busybox:1"
    sampand.docker("tag", "busybox", again)
    assert "Mounted from team/busybox" in sampand.docker("push", again).stdout
    identity = sampand.docker("inspect", "-f", "{{.Id}}", name).stdout
    sampand.docker("rmi", name, again)
    assert f"Digest: {digest}" in sampand.docker("pull", name).stdout
    assert sampand.docker("inspect", "-f", "{{.Id}}", name).stdout == identity
    assert "hello" in sampand.docker("run", "--rm", "--network", "none", name, "echo", "hello").stdout
    by_digest = f"{served.address}/team/busybox@{digest}"
    assert "up to date" in sampand.docker("pull", by_digest).stdout
    sampand.docker("rmi", "-f", name, by_digest, check=False)


def test_login_over_sampand(
    sampand: Daemon, busybox: str, serve: Callable[..., Served], tmp_path: Path
) -> None:
    served = serve("--htpasswd", str(users(tmp_path, alice="wonderland")))
    name = f"{served.address}/app"
    context = b"FROM busybox\nRUN echo 1 > /1\nRUN echo 2 > /2\nRUN echo 3 > /3\n"
    sampand.docker("build", "-q", "-t", name, "-", input=context)  # its layers ask for passwords all at once
    assert sampand.docker("push", name, check=False).returncode
    wrong = sampand.docker("login", "-u", "alice", "-p", "wrong", served.address, check=False)
    assert wrong.returncode and "unauthorized" in wrong.stderr.lower()
    login = ("login", "-u", "alice", "--password-stdin", served.address)
    assert "Login Succeeded" in sampand.docker(*login, input="wonderland").stdout
    sampand.docker("push", name)
    sampand.docker("rmi", name)
    sampand.docker("pull", name)
    sampand.docker("logout", served.address)
    sampand.docker("rmi", name)
    assert sampand.docker("pull", name, check=False).returncode


@pytest.mark.dockerd
def test_dockerd_pushes_and_pulls(served: Served, dockerd: Callable[..., str]) -> None:
    name = f"{served.address}/debian/app"
    dockerd("import", "-", f"{name}:1", input=root_file_system(3_000_000, 10))
    pushed = dockerd("push", f"{name}:1")
    digest = served.ask("HEAD", "/v2/debian/app/manifests/1").headers["Docker-Content-Digest"]
    assert f"digest: {digest}" in pushed
    dockerd("tag", f"{name}:1", f"{served.address}/other:1")
    assert "Mounted from debian/app" in dockerd("push", f"{served.address}/other:1")
    dockerd("rmi", f"{name}:1", f"{served.address}/other:1")
    assert f"Digest: {digest}" in dockerd("pull", f"{name}:1")
    assert "not found" in dockerd("pull", f"{name}:2", check=False)


@pytest.mark.dockerd
def test_dockerd_with_passwords_and_tokens(
    serve: Callable[..., Served], dockerd: Callable[..., str], tmp_path: Path
) -> None:
    served = serve("--htpasswd", str(users(tmp_path, alice="wonderland")), "--anonymous-pull")
    name = f"{served.address}/app:1"
    dockerd("import", "-", name, input=root_file_system(1000))
    assert "denied" in dockerd("push", name, check=False) or "required" in dockerd("push", name, check=False)
    assert "unauthorized" in dockerd("login", "-u", "alice", "-p", "x", served.address, check=False).lower()
    dockerd("login", "-u", "alice", "-p", "wonderland", served.address)
    dockerd("push", name)
    dockerd("logout", served.address)
    dockerd("rmi", name)
    assert "Downloaded newer image" in dockerd("pull", name)


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo(served: Served, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    served.image("src", "1", layer=root_file_system(5000))
    copy = ["skopeo", "--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    there, back = f"docker://{served.address}/src:1", f"docker://{served.address}/dst:1"
    subprocess.run([*copy, there, f"oci:{layout}:x"], check=True, capture_output=True)
    subprocess.run([*copy, f"oci:{layout}:x", back], check=True, capture_output=True)
    inspect = ["skopeo", "inspect", "--tls-verify=false", back]
    found = json.loads(subprocess.run(inspect, check=True, capture_output=True).stdout)
    assert found["RepoTags"] == ["1"]
    delete = ["skopeo", "delete", "--tls-verify=false", back]
    subprocess.run(delete, check=True, capture_output=True)
    assert served.ask("GET", "/v2/dst/manifests/1").status == 404


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("podman", "skopeo"))),
    reason="needs root, podman and skopeo",
)
def test_podman(served: Served) -> None:
    """Images, lists of them, other compressions; schema 1 is refused with words."""
    with tempfile.TemporaryDirectory(prefix="pm-", dir="/var/tmp") as place:  # podman wants a short name
        podman_and_skopeo(served, Path(place))


def podman_and_skopeo(served: Served, folder: Path) -> None:
    places = ["--root", str(folder / "root"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]

    def podman(*words: str, input: bytes | None = None) -> None:
        command = ["podman", *places, "--tmpdir", str(folder / "tmp"), *words]
        done = subprocess.run(command, input=input, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()

    def copy(target: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        insecure = ("--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false")
        return subprocess.run(
            ["skopeo", *insecure, *words, f"docker://{name}:1", f"docker://{name}:{target}"],
            capture_output=True,
        )

    name = f"{served.address}/team/app"
    podman("import", "-", f"{name}:1", input=root_file_system(2000))
    podman("push", "--tls-verify=false", f"{name}:1")
    podman("manifest", "create", "list")
    podman("manifest", "add", "--tls-verify=false", "list", f"docker://{name}:1")
    podman("manifest", "push", "--all", "--tls-verify=false", "list", f"docker://{name}:list")
    podman("rmi", "--all", "--force")
    for tag in ("1", "list"):
        podman("pull", "--tls-verify=false", f"{name}:{tag}")
    kinds = {"v2s2": "docker.distribution.manifest.v2", "oci": "oci.image.manifest.v1"}
    for kind, media_type in kinds.items():
        assert (
            copy(
                kind, "--format", kind, "--dest-compress-format", "zstd" if kind == "oci" else "gzip"
            ).returncode
            == 0
        )
        answer = served.ask("GET", f"/v2/team/app/manifests/{kind}")
        assert answer.headers["Content-Type"] == f"application/vnd.{media_type}+json"
    assert b"newer client" in copy("old", "--format", "v2s1").stderr
    assert served.json("/v2/team/app/tags/list")["tags"] == ["1", "list", "oci", "v2s2"]


# -- mirror ---------------------------------------------------------------------------------------------


def test_mirror(serve: Callable[..., Served]) -> None:
    upstream = serve(data="upstream")
    layer = os.urandom(3_000_000)
    digest, raw = upstream.image("team/app", "1", layer=layer)
    front = Front(upstream.address)
    mirror = serve("--mirror", f"http://{front.address}", data="mirror")
    place = f"/v2/team/app/blobs/{digest_of(layer)}"
    assert mirror.ask("GET", "/v2/team/app/manifests/1").data == raw
    assert mirror.ask("GET", place).data == layer
    first = len(front.requests)
    assert mirror.ask("GET", place).data == layer
    assert mirror.ask("GET", f"/v2/team/app/manifests/{digest}").data == raw
    assert len(front.requests) == first
    assert mirror.ask("GET", "/v2/team/app/manifests/2").status == 404
    assert mirror.ask("GET", f"/v2/team/app/blobs/{digest_of(b'nope')}").status == 404
    pushed = mirror.ask("POST", "/v2/team/app/blobs/uploads/")
    assert pushed.status == 405 and "push there" in pushed.data.decode()

    newer, newer_raw = upstream.image("team/app", "1", layer=b"newer")
    assert mirror.ask("HEAD", "/v2/team/app/manifests/1").headers["Docker-Content-Digest"] == newer
    assert mirror.ask("GET", place, Range="bytes=10-19").data == layer[10:20]
    upstream.stop()
    stale = mirror.ask("GET", "/v2/team/app/manifests/1")
    assert (stale.status, stale.data) == (200, newer_raw)
    assert "outdated" in stale.headers["Warning"]
    assert mirror.ask("GET", "/v2/team/app/manifests/3").status in (404, 503)
    front.close()


def test_mirror_of_docker_registry(registry: str, serve: Callable[..., Served]) -> None:
    layer = os.urandom(400_000)
    digest, raw = Client(registry).image("team/app", "1", "2", layer=layer)
    mirror = serve("--mirror", f"http://{registry}")
    assert mirror.json("/v2/team/app/tags/list")["tags"] == ["1", "2"]
    assert mirror.json(f"/v2/team/app/referrers/{digest}")["manifests"] == []
    for reference in ("1", digest):
        assert mirror.ask("GET", f"/v2/team/app/manifests/{reference}").data == raw
    place = f"/v2/team/app/blobs/{digest_of(layer)}"
    assert mirror.ask("GET", place, Range="bytes=100-199").data == layer[100:200]
    assert mirror.ask("GET", place).data == layer
    assert mirror.ask("GET", "/v2/team/app/manifests/3").status == 404
    for method in ("PUT", "DELETE"):
        assert b"push there" in mirror.ask(method, f"/v2/team/app/manifests/{digest}", raw).data


def test_lists_of_a_mirror_are_upstreams(serve: Callable[..., Served]) -> None:
    """Also of what nobody pulled; without upstream of what was."""
    upstream = serve(data="upstream")
    mirror = serve("--mirror", f"http://{upstream.address}", data="mirror")
    digest, raw = upstream.image("app", "1", "2", "10")
    about = {"mediaType": MANIFEST, "digest": digest, "size": len(raw)}
    signature, _ = upstream.image("app", subject=about, artifactType="x/signature")
    upstream.image("app", subject=about, artifactType="x/other")
    assert mirror.json("/v2/app/tags/list")["tags"] == ["1", "10", "2"]
    page = mirror.ask("GET", "/v2/app/tags/list?n=2")
    assert json.loads(page.data)["tags"] == ["1", "10"] and "last=10" in page.headers["Link"]
    found = mirror.json(f"/v2/app/referrers/{digest}?artifactType=x/signature")["manifests"]
    assert [entry["digest"] for entry in found] == [signature]
    # The next page is of the list that the first was of; a first page is asked for anew.
    upstream.image("app", "11")
    assert mirror.json("/v2/app/tags/list?n=2&last=10")["tags"] == ["2"]
    assert mirror.json("/v2/app/tags/list?n=2&last=")["tags"] == ["1", "10"]
    assert mirror.json("/v2/app/tags/list?last=10")["tags"] == ["11", "2"]
    assert mirror.ask("GET", "/v2/never/tags/list").status == 404
    mirror.ask("GET", "/v2/app/manifests/2")
    mirror.ask("GET", f"/v2/app/manifests/{signature}")
    upstream.stop()
    assert mirror.json("/v2/app/tags/list")["tags"] == ["2"]
    found = mirror.json(f"/v2/app/referrers/{digest}")["manifests"]
    assert [entry["digest"] for entry in found] == [signature]


def test_what_nobody_asks_a_mirror_for_goes(serve: Callable[..., Served]) -> None:
    upstream = serve(data="upstream")
    upstream.image("a", "x", layer=b"wanted once")
    flags = ("--mirror-life", "0s", "--unneeded-life", "0s")
    mirror = serve("--mirror", f"http://{upstream.address}", *flags, data="mirror")
    assert mirror.ask("GET", "/v2/a/manifests/x").status == 200
    assert mirror.ask("GET", f"/v2/a/blobs/{digest_of(b'wanted once')}").status == 200
    folder = mirror.data / "blobs" / "sha256"
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) != 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    while list(folder.iterdir()) and time.monotonic() < deadline:
        mirror.signal(signal.SIGUSR1)
        time.sleep(0.2)
    assert list(folder.iterdir()) == []
    assert mirror.ask("GET", "/v2/a/manifests/x").status == 200


def test_many_clients_of_a_mirror_cost_one_download(serve: Callable[..., Served]) -> None:
    upstream = serve(data="upstream")
    layer = os.urandom(5_000_000)
    upstream.image("a", "x", layer=layer)
    front = Front(upstream.address)
    mirror = serve("--mirror", f"http://{front.address}", data="mirror")
    path = f"/v2/a/blobs/{digest_of(layer)}"
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(mirror.ask("GET", path).data)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [data == layer for data in found] == [True] * 8
    assert len([request for request in front.requests if request[:2] == ("GET", path)]) == 1
    front.close()


def test_a_client_that_stops_reading_holds_nobody_up(serve: Callable[..., Served]) -> None:
    upstream = serve(data="upstream")
    layer = os.urandom(30_000_000)
    upstream.image("a", "x", layer=layer)
    mirror = serve("--mirror", f"http://{upstream.address}", data="mirror")
    path = f"/v2/a/blobs/{digest_of(layer)}"
    with mirror.connect() as stuck:
        stuck.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert stuck.recv(10)
        begun = time.monotonic()
        assert mirror.ask("GET", path).data == layer
        assert time.monotonic() - begun < 50
    upstream.stop()
    assert mirror.ask("GET", path, Range="bytes=0-9").data == layer[:10]


@pytest.mark.parametrize("tenth", [1, 5, 9])
def test_mirror_of_a_registry_that_hangs_up(serve: Callable[..., Served], tenth: int) -> None:
    upstream = serve(data="upstream")
    layer = os.urandom(1_000_000)
    upstream.image("a", "x", layer=layer)
    cut = len(layer) * tenth // 10
    broken: list[str] = []

    def hang_up(exchange: Exchange) -> bool:
        if exchange.command != "GET" or "/blobs/" not in exchange.path or broken:
            return False
        broken.append(exchange.path)
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(len(layer)))
        exchange.end_headers()
        exchange.wfile.write(layer[:cut])
        exchange.close_connection = True
        return True

    front = Front(upstream.address, hang_up)
    mirror = serve("--mirror", f"http://{front.address}", data="mirror")
    path = f"/v2/a/blobs/{digest_of(layer)}"
    with pytest.raises(Exception, match=r"IncompleteRead|Connection broken"):
        mirror.ask("GET", path)
    assert mirror.ask("GET", path).data == layer
    asked = [
        fields.get("Range") for method, where, fields in front.requests if (method, where) == ("GET", path)
    ]
    assert asked[-1] is not None and asked[-1].startswith("bytes=")
    front.close()


def test_mirror_of_a_registry_that_lies(serve: Callable[..., Served]) -> None:
    upstream = serve(data="upstream")
    layer = os.urandom(600_000)
    upstream.image("a", "x", layer=layer)

    def lie(exchange: Exchange) -> bool:
        if exchange.command == "GET" and "/blobs/" in exchange.path:
            return exchange.answer(200, layer[:-1] + bytes([layer[-1] ^ 1]))
        return False

    front = Front(upstream.address, lie)
    mirror = serve("--mirror", f"http://{front.address}", data="mirror")
    path = f"/v2/a/blobs/{digest_of(layer)}"
    with pytest.raises(Exception, match=r"IncompleteRead|Connection broken"):
        mirror.ask("GET", path)
    front.hooks.clear()
    assert mirror.ask("GET", path).data == layer
    front.close()


def test_an_engine_behind_a_mirror(
    new_sampand: Any, serve: Callable[..., Served], sampand: Daemon, busybox: str
) -> None:
    """What the engine's registry-mirrors is for: names of Docker Hub, through a mirror of something like it."""
    upstream = serve(data="upstream")
    name = f"{upstream.address}/library/tiny:1"
    sampand.docker("tag", "busybox", name)
    sampand.docker("push", name)
    sampand.docker("rmi", name)
    mirror = serve("--mirror", f"http://{upstream.address}", data="mirror")
    engine = new_sampand("--registry-mirror", f"http://{mirror.address}")
    engine.docker("pull", "tiny:1")
    assert "hi" in engine.docker("run", "--rm", "--network", "none", "tiny:1", "echo", "hi").stdout
    assert mirror.json("/v2/library/tiny/tags/list")["tags"] == ["1"]


# -- share ----------------------------------------------------------------------------------------------


def test_share(sampand: Daemon, busybox: str, new_sampand: Any, serve: Callable[..., Served]) -> None:
    """A running engine's images, a built one with an uncompressed layer among them, by another engine."""
    context = b"FROM busybox\nRUN echo shared > /word\nCMD cat /word\n"
    sampand.docker("build", "-q", "-t", "team/built:1", "-", input=context)
    before = sorted(path for path in (sampand.root / "blobs").rglob("*"))
    served = serve("--share", data=sampand.root)
    assert "team/built" in served.json("/v2/_catalog")["repositories"]
    assert served.json("/v2/team/built/tags/list")["tags"] == ["1"]
    assert served.json("/v2/library/busybox/tags/list") == served.json("/v2/busybox/tags/list") | {
        "name": "library/busybox"
    }
    manifest = json.loads(served.ask("GET", "/v2/team/built/manifests/1").data)
    for pointer in [manifest["config"], *manifest["layers"]]:
        path = f"/v2/team/built/blobs/{pointer['digest']}"
        data = served.ask("GET", path).data
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == pointer["digest"]
        assert len(data) == pointer["size"]
        assert served.ask("GET", path, Range="bytes=100-199").data == data[100:200]
        assert served.ask("HEAD", path).headers["Content-Length"] == str(len(data))
    refused = served.ask("PUT", "/v2/team/built/manifests/2", b"{}")
    assert refused.status == 405
    assert served.ask("GET", f"/v2/team/built/blobs/{digest_of(b'x')}").status == 404
    assert served.ask("GET", "/v2/team/nope/manifests/1").status == 404

    other = new_sampand()
    name = f"{served.address}/team/built:1"
    other.docker("pull", name)
    assert other.docker("run", "--rm", "--network", "none", name).stdout == "shared\n"
    identity = sampand.docker("inspect", "-f", "{{.Id}}", "team/built:1").stdout
    assert other.docker("inspect", "-f", "{{.Id}}", name).stdout == identity
    sampand.docker("rmi", "team/built:1")
    assert served.ask("GET", "/v2/team/built/manifests/1").status == 404
    served.stop()
    assert {path.name for path in before} >= {
        path.name for path in (sampand.root / "blobs").rglob("*") if path.is_dir()
    }


def test_share_of_an_index(new_sampand: Any, serve: Callable[..., Served]) -> None:
    """What was pulled for all platforms is given as it came; what isn't whole as the one image that is here."""
    source, engine = serve(data="source"), new_sampand()
    entries = []
    for machine in ("amd64", "arm64"):
        layer = root_file_system(5000)
        rootfs = {"type": "layers", "diff_ids": [digest_of(layer)]}
        config = json.dumps({"architecture": machine, "os": "linux", "rootfs": rootfs}).encode()
        document = {
            "config": {"mediaType": CONFIG, "digest": source.blob("app", config), "size": len(config)},
            "layers": [{"mediaType": LAYER, "digest": source.blob("app", layer), "size": len(layer)}],
        }
        raw = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **document}).encode()
        source.put("app", digest_of(raw), raw)
        platform = {"architecture": machine, "os": "linux"}
        entries.append(
            {"mediaType": MANIFEST, "digest": digest_of(raw), "size": len(raw), "platform": platform}
        )
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    assert source.put("app", "1", index, INDEX).status == 201
    engine.docker("pull", f"{source.address}/app:1")
    served = serve("--share", data=engine.root)
    one = served.ask("GET", "/v2/app/manifests/1")
    assert one.headers["Content-Type"] == MANIFEST

    engine.docker("pull", "--all-platforms", f"{source.address}/app:1", cli=str(BIN / "sampan"))
    whole = served.ask("GET", "/v2/app/manifests/1")
    assert (whole.data, whole.headers["Content-Type"]) == (index, INDEX)
    for entry in entries:
        manifest = served.json(f"/v2/app/manifests/{entry['digest']}")
        for pointer in (manifest["config"], *manifest["layers"]):
            data = served.ask("GET", f"/v2/app/blobs/{pointer['digest']}").data
            assert digest_of(data) == pointer["digest"]
    # An index within an index is one of its documents.
    inner = {"mediaType": INDEX, "digest": digest_of(index), "size": len(index)}
    outer = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]}).encode()
    assert source.put("app", "2", outer, INDEX).status == 201
    engine.docker("pull", "--all-platforms", f"{source.address}/app:2", cli=str(BIN / "sampan"))
    assert served.ask("GET", "/v2/app/manifests/2").data == outer
    assert served.ask("GET", f"/v2/app/manifests/{inner['digest']}").data == index
    other = new_sampand()
    other.docker("pull", "--platform", "linux/arm64", f"{served.address}/app:1")
    assert other.docker("inspect", "-f", "{{.Architecture}}", f"{served.address}/app:1").stdout == "arm64\n"
    other.docker("pull", "--platform", "linux/amd64", f"{served.address}/app:2")
    assert other.docker("inspect", "-f", "{{.Architecture}}", f"{served.address}/app:2").stdout == "amd64\n"


def test_share_of_an_engine_that_starts_and_ends(new_sampand: Any, serve: Callable[..., Served]) -> None:
    engine = new_sampand()
    import_busybox(engine)
    engine.stop()
    served = serve("--share", data=engine.root)
    digest = served.ask("HEAD", "/v2/busybox/manifests/latest").headers["Docker-Content-Digest"]
    engine.start()
    engine.docker("tag", "busybox", "later")
    assert served.ask("HEAD", "/v2/later/manifests/latest").headers["Docker-Content-Digest"] == digest
    served.stop()
    engine.docker("rmi", "later")
    engine.stop()
    engine.start()
    assert "busybox" in engine.docker("images").stdout
