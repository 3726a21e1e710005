"""Volumes on a file server: NFS by the kernel's own client and server, in scripts/vm-test."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Daemon
from tests.engine.steps import inside, made, run

pytestmark = pytest.mark.root

NAME = "files.example.test"


def command(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (words, done.stdout, done.stderr)


def need(program: str, *modules: str) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed (scripts/vm-test)")
    for module in modules:
        if subprocess.run(["modprobe", module], capture_output=True).returncode:
            pytest.skip(f"this kernel has no {module}")


@pytest.fixture(scope="module")
def named() -> Iterator[None]:
    """A name of this machine's that only its hosts file knows."""
    hosts = Path("/etc/hosts")
    before = hosts.read_bytes() if hosts.exists() else None
    hosts.write_bytes((before or b"") + f"\n::1 {NAME}\n127.0.0.1 {NAME} localhost\n".encode())
    yield
    hosts.unlink() if before is None else hosts.write_bytes(before)


@pytest.fixture(scope="module")
def nfs(named: None) -> Iterator[Path]:
    """A directory that this machine's own NFS server exports, on a file system of its own."""
    need("exportfs", "nfs", "nfsd")
    export = Path("/srv/export")
    export.mkdir(parents=True)
    Path("/var/lib/nfs/v4recovery").mkdir(exist_ok=True)
    command("mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd")
    command("rpcbind", "-w")
    command("exportfs", "-o", "rw,no_root_squash,insecure,no_subtree_check,fsid=0", "127.0.0.1:/srv/export")
    command("rpc.nfsd", "--grace-time", "10", "--lease-time", "10", "2")
    command("rpc.mountd")
    yield export
    command("rpc.nfsd", "0")
    command("exportfs", "-ua")
    subprocess.run(["sh", "-c", "kill $(pidof rpc.mountd rpcbind)"])
    command("umount", "/proc/fs/nfsd")
    shutil.rmtree(export)


def mounted(kind: str) -> list[str]:
    return [line for line in Path("/proc/mounts").read_text().splitlines() if line.split()[2] == kind]


@pytest.mark.parametrize(
    ("kind", "device", "options", "seen"),
    [
        ("nfs", ":/srv/export", f"addr={NAME},rw,nolock", "vers=3"),
        ("nfs", ":/", "addr=127.0.0.1,rw,nfsvers=4", "vers=4"),
        ("nfs", f"{NAME}:/srv/export", "addr=127.0.0.1,ro,nolock,soft", "vers=3"),
        ("nfs4", ":/", f"addr={NAME},rw,vers=4.2", "vers=4.2"),
    ],
)
def test_nfs(
    sampand: Daemon, busybox: str, nfs: Path, kind: str, device: str, options: str, seen: str
) -> None:
    """Mounted with the first container, written to, shared with a second one, unmounted with the last, removed."""
    words = [
        word
        for pair in (("type", kind), ("device", device), ("o", options))
        for word in ("-o", "=".join(pair))
    ]
    sampand.docker("volume", "create", *words, "remote")
    (nfs / "from-server").write_text("hello\n")
    assert not mounted("nfs") + mounted("nfs4")
    with made(sampand, HostConfig={"Binds": ["remote:/x"]}) as first:
        (line,) = mounted("nfs") + mounted("nfs4")
        assert seen in line and "addr=127.0.0.1" in line
        assert inside(sampand, first, "cat /x/from-server") == "hello\n"
        if ",ro" in options:
            assert "Read-only file system" in inside(sampand, first, "touch /x/new")
        else:
            inside(sampand, first, "echo inside > /x/new; chown 5:6 /x/new; mkdir /x/deep; sync")
            assert (nfs / "new").read_text() == "inside\n" and (nfs / "new").stat().st_uid == 5
            assert run(sampand, "cat /y/new", HostConfig={"Binds": ["remote:/y:ro"]}) == (0, "inside\n")
            (nfs / "new").unlink()
            (nfs / "deep").rmdir()
        assert len(mounted("nfs") + mounted("nfs4")) == 1
        assert sampand.api("DELETE", "/volumes/remote")[0] == 409
        sampand.docker("stop", "-t", "0", first)
        assert not mounted("nfs") + mounted("nfs4")
    sampand.docker("volume", "rm", "remote")
    assert (nfs / "from-server").exists()
    assert sampand.api("GET", "/volumes/remote")[0] == 404


def test_an_nfs_volume_outlives_a_killed_engine(new_sampand: object, nfs: Path) -> None:
    from tests.conftest import import_busybox

    daemon = new_sampand()  # type: ignore[operator]
    import_busybox(daemon)
    daemon.docker(
        "volume",
        "create",
        "-o",
        "type=nfs",
        "-o",
        "device=:/srv/export",
        "-o",
        "o=addr=127.0.0.1,nolock",
        "kept",
    )
    with made(daemon, HostConfig={"Binds": ["kept:/x"]}) as container:
        daemon.kill()
        assert len(mounted("nfs")) == 1
        daemon.start()
        assert len(mounted("nfs")) == 1
        inside(daemon, container, "echo still > /x/here")
        assert (nfs / "here").read_text() == "still\n"
        daemon.docker("stop", "-t", "0", container)
        assert not mounted("nfs")
    daemon.docker("volume", "rm", "kept")


def test_a_server_that_is_down_holds_nobody_else(sampand: Daemon, busybox: str, nfs: Path) -> None:
    """Whoever uses the volume waits for its server; the engine and other containers go on."""
    words = ["-o", "type=nfs", "-o", "device=:/srv/export", "-o", "o=addr=127.0.0.1,nolock,timeo=20"]
    sampand.docker("volume", "create", *words, "held")
    host = {"HostConfig": {"Binds": ["held:/x"]}}
    with made(sampand, **host) as first, made(sampand, "ls", "/x", start=False, **host) as second:
        command("rpc.nfsd", "0")
        try:
            starting = threading.Thread(target=sampand.api, args=("POST", f"/containers/{second}/start"))
            starting.start()
            time.sleep(2)
            began = time.monotonic()
            assert run(sampand, "echo others", HostConfig={}) == (0, "others\n")
            assert sampand.json("GET", f"/containers/{first}/json")["State"]["Running"]
            assert sampand.json("GET", "/volumes/held")["Name"] == "held"
            assert time.monotonic() - began < 30
        finally:
            command("rpc.nfsd", "--grace-time", "10", "--lease-time", "10", "2")
        starting.join(60)
        assert sampand.json("POST", f"/containers/{second}/wait")["StatusCode"] == 0
    assert not mounted("nfs")
    sampand.docker("volume", "rm", "held")


def test_what_the_server_refuses_is_said(sampand: Daemon, busybox: str, nfs: Path) -> None:
    words = ["-o", "type=nfs", "-o", "device=:/nosuch", "-o", "o=addr=127.0.0.1,nolock"]
    sampand.docker("volume", "create", *words, "refused")
    done = sampand.docker(
        "run", "--rm", "--network", "none", "-v", "refused:/x", busybox, "true", check=False
    )
    assert done.returncode == 126  # for the words "permission denied", as with docker
    assert "failed to mount local volume: mount :/nosuch:/" in done.stderr
    assert "data: addr=127.0.0.1,nolock: permission denied" in done.stderr
    assert not mounted("nfs")
    sampand.docker("volume", "rm", "refused")


def test_smb_shares_by_name(sampand: Daemon, busybox: str) -> None:
    """The server's name is resolved, which the kernel can't; the password isn't in the error."""
    words = [
        "-o",
        "type=cifs",
        "-o",
        "device=//localhost/share",
        "-o",
        "o=username=user,password=geheim,port=1",
    ]
    sampand.docker("volume", "create", *words, "smb")
    done = sampand.docker("run", "--rm", "--network", "none", "-v", "smb:/x", busybox, "true", check=False)
    assert done.returncode and "mount //127.0.0.1/share:/" in done.stderr
    assert "data: username=user,password=********,port=1: " in done.stderr and "geheim" not in done.stderr
    sampand.docker("volume", "rm", "smb")


def test_names_that_nobody_knows(sampand: Daemon, busybox: str) -> None:
    for kind, device, options in (
        ("nfs", ":/x", "addr=nosuch.invalid"),
        ("nfs4", ":/x", "rw,addr=nosuch.invalid"),
        ("cifs", "//nosuch.invalid/share", "username=user"),
    ):
        given = ["-o", f"type={kind}", "-o", f"device={device}", "-o", f"o={options}"]
        sampand.docker("volume", "create", *given, "unknown")
        done = sampand.docker(
            "run", "--rm", "--network", "none", "-v", "unknown:/x", busybox, "true", check=False
        )
        assert done.returncode == 125
        words = "error resolving passed in network volume address: lookup nosuch.invalid: no such host"
        assert "error while mounting volume '" in done.stderr and words in done.stderr
        sampand.docker("volume", "rm", "unknown")
