"""Image archives that other tools wrote are read, and what is written is read by them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.dockerd import running_dockerd
from tests.tars import tar_of

NAMES = ["odd:1", "odd:2", "registry.test:5000/team/odd:x"]


def odd_tree() -> bytes:
    """What layers get wrong: hard links, links, a FIFO, a setuid file, capabilities, long and odd names, times."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, data: bytes = b"", **more: Any) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), 1_500_000_000, 0o644
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))

        add("bin", type=tarfile.DIRTYPE, mode=0o755)
        add("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o4755)
        for applet in ("sh", "find", "sha256sum", "stat", "sort", "getfattr"):
            add(f"bin/{applet}", type=tarfile.LNKTYPE, linkname="bin/busybox")
        # cap_net_raw=ep, struct vfs_cap_data version 2, capabilities(7)
        caps = "\x01\x00\x00\x02\x00\x20" + "\x00" * 14
        add("bin/pinger", b"x", mode=0o755, pax_headers={"SCHILY.xattr.security.capability": caps})
        add("fifo", type=tarfile.FIFOTYPE)
        add("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)
        add("link", type=tarfile.SYMTYPE, linkname="../../no/where")
        add("d" * 90 + "/" + "n" * 120, b"long", uid=12345, gid=54321)
        add("sticky", type=tarfile.DIRTYPE, mode=0o1777)
        add("ünï ✓ name", b"utf-8")
    return out.getvalue()


def dockerfile_context() -> bytes:
    files = {
        "odd.tar": odd_tree(),
        "Dockerfile": b'FROM scratch\nADD odd.tar /\nENV A=b\nRUN rm /null && echo new > /sticky/f\nCMD ["sh"]\n',
    }
    return tar_of(files)


@pytest.fixture(scope="module")
def saved(sampand: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An archive of one image under several names, as ``docker save`` of sampan's daemon writes it."""
    sampand.docker("build", "-t", NAMES[0], "-t", NAMES[1], "-t", NAMES[2], "-", input=dockerfile_context())
    archive = tmp_path_factory.mktemp("saved") / "a.tar"
    sampand.docker("save", "-o", str(archive), *NAMES)
    yield archive
    sampand.docker("rmi", *NAMES)


def facts(tar: bytes) -> dict[str, Any]:
    """The tree of an exported container: type, mode, owner, link, content; without what engines put there."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for m in archive:
            name = m.name.strip("/")
            if name.split("/")[0] in ("dev", "etc", "proc", "sys", ".dockerenv", ""):
                continue
            content = archive.extractfile(m) if m.isreg() else None
            data = hashlib.sha256(content.read()).hexdigest() if content else ""
            kind = "hard or file" if m.isreg() or m.islnk() else m.type
            found[name] = (
                kind,
                m.mode & 0o7777,  # some put the type there, too
                m.uid,
                m.gid,
                m.linkname if m.issym() else "",
                data if not m.islnk() else "",
            )
    # which of several hard links carries the content differs: only the names matter
    return {name: fact[:5] if name.startswith("bin/") else fact for name, fact in found.items()}


def exported(run: Any) -> dict[str, Any]:
    name = run("create", NAMES[0]).stdout.strip()
    name = name.decode() if isinstance(name, bytes) else name
    try:
        data = subprocess.run(["docker", "export", name], env=run.env, check=True, capture_output=True).stdout
    finally:
        run("rm", name)
    return facts(data)


class Docker:
    """The stock client towards one engine."""

    def __init__(self, host: str, config: Path) -> None:
        self.env = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": str(config)}

    def __call__(self, *args: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(["docker", *args], env=self.env, input=input, capture_output=True, timeout=100)
        assert done.returncode == 0, (args, done.stderr)
        return done


@pytest.mark.dockerd
@pytest.mark.skipif(shutil.which("docker") is None, reason="docker's client is not installed")
def test_dockerd_loads_what_we_save_and_we_what_it_saves(
    sampand: Daemon, saved: Path, new_sampand: Any, tmp_path: Path
) -> None:
    ours = exported(Docker(sampand.host, tmp_path))
    assert ours["sticky"][1] == 0o1777 and ours["bin/busybox"][1] == 0o4755 and "null" not in ours
    with running_dockerd(tmp_path) as host:
        theirs = Docker(host, tmp_path)
        out = theirs("load", "-i", str(saved)).stdout.decode()
        assert sorted(out.splitlines()) == sorted(f"Loaded image: {name}" for name in NAMES)
        assert exported(theirs) == ours
        template = "{{json .Id}} {{json .RootFS}} {{json .Config.Env}} {{json .Config.Cmd}}"
        told = theirs("image", "inspect", "-f", template, NAMES[1]).stdout.decode()
        assert told == sampand.docker("image", "inspect", "-f", template, NAMES[1]).stdout
        again = theirs("save", *NAMES).stdout
    other = new_sampand()
    other.docker("load", input=again)
    assert other.docker("image", "inspect", "-f", template, NAMES[1]).stdout == told
    assert exported(Docker(other.host, tmp_path)) == ours


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_copies_both_forms_and_back(
    sampand: Daemon, saved: Path, new_sampand: Any, tmp_path: Path
) -> None:
    other = new_sampand()
    template = "{{json .RootFS}} {{json .Config.Env}}"
    want = sampand.docker("image", "inspect", "-f", template, NAMES[0]).stdout
    whole = tmp_path / "oci"
    whole.mkdir()
    subprocess.run(["tar", "xf", saved, "-C", whole], check=True)
    sources = [f"docker-archive:{saved}:{NAMES[0]}", f"oci:{whole}:1"]
    for number, source in enumerate(sources):
        for form in ("docker-archive", "oci-archive"):
            made = tmp_path / f"{number}-{form}.tar"
            subprocess.run(
                ["skopeo", "--insecure-policy", "copy", "-q", source, f"{form}:{made}:back:{number}"],
                check=True, capture_output=True,
            )  # fmt: skip
            said = other.docker("load", "-i", str(made)).stdout
            name = said.split()[-1]
            assert other.docker("image", "inspect", "-f", template, name).stdout == want, (source, form, said)
            other.docker("rmi", name)
    assert json.loads(other.api("GET", "/images/json")[2]) == []


@pytest.mark.skipif(shutil.which("podman") is None, reason="podman is not installed")
def test_podman_loads_what_we_save(saved: Path) -> None:
    with tempfile.TemporaryDirectory() as roots:  # podman takes 50 characters at most
        podman = ["podman", "--root", f"{roots}/r", "--runroot", f"{roots}/rr", "--storage-driver", "vfs"]
        out = subprocess.run([*podman, "load", "-i", saved], capture_output=True, text=True, timeout=100)
        assert out.returncode == 0, out.stderr
        names = [*podman, "images", "--format", "{{.Repository}}:{{.Tag}}"]
        listed = subprocess.run(names, capture_output=True, text=True, check=True).stdout.split()
    assert sorted(name.removeprefix("localhost/") for name in listed) == sorted(NAMES)
