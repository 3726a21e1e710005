"""``--storage-opt size`` and volumes of a size: bounded by project quotas, on file systems of the tests' own."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sampan.kernel import quota
from tests import conftest
from tests.conftest import Daemon, import_busybox
from tests.engine.steps import inside, made, run

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]  # a virtual machine beside other work is slow

MAKE = {
    "xfs": (["mkfs.xfs", "-q"], "loop,pquota"),
    "ext4": (["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"], "loop,prjquota"),
}


@contextlib.contextmanager
def daemon_on(kind: str, options: str = "") -> Iterator[Daemon]:
    """An engine that isn't started yet, its data root on a new file system; skips where there are no quotas."""
    make, with_quotas = MAKE[kind]
    if not shutil.which(make[0]):
        pytest.skip(f"{make[0]} is not installed")
    daemon = Daemon(next(conftest._numbers))
    daemon.patience = 100.0  # in a virtual machine beside other work
    image = daemon.dir / "disk.img"
    with open(image, "wb") as file:
        file.truncate(400 << 20)
    daemon.root.mkdir()
    try:
        subprocess.run([*make, str(image)], check=True)
        words = ["mount", "-t", kind, "-o", options or with_quotas, str(image), str(daemon.root)]
        mounted = subprocess.run(words, capture_output=True, text=True)
        if mounted.returncode or not (options or quota.enforced(daemon.root)):
            pytest.skip(
                f"this kernel has no project quotas on {kind} (scripts/vm-test): {mounted.stderr.strip()}"
            )
        yield daemon
    finally:
        daemon.close()
        subprocess.run(["umount", "-l", str(daemon.root)], capture_output=True)
        shutil.rmtree(daemon.dir, ignore_errors=True)


@pytest.fixture(scope="module", params=list(MAKE))
def bounded(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    with daemon_on(request.param) as daemon:
        import_busybox(daemon.start())
        yield daemon


@contextlib.contextmanager
def default_size(daemon: Daemon, size: str) -> Iterator[None]:
    """The engine again with a default size, then without."""
    daemon.stop()
    (daemon.dir / "daemon.json").write_text(json.dumps({"storage-opts": [f"overlay2.size={size}"]}))
    daemon.flags = ("--config-file", str(daemon.dir / "daemon.json"))
    daemon.start()
    try:
        yield
    finally:
        daemon.stop()
        daemon.flags = ()
        daemon.start()


def projects(daemon: Daemon) -> list[tuple[int, str, str]]:
    with contextlib.closing(sqlite3.connect(daemon.root / "sampan.db")) as db:
        return db.execute("SELECT id, kind, owner FROM projects ORDER BY id").fetchall()


def wait_until_free(daemon: Daemon, project: int) -> None:
    deadline = time.monotonic() + 60
    while any(quota.usage(daemon.root, project)) or project in [row[0] for row in projects(daemon)]:
        assert time.monotonic() < deadline, (quota.usage(daemon.root, project), projects(daemon))
        time.sleep(0.05)


FULL = re.compile("no space left on device|disk quota exceeded", re.IGNORECASE)
FILL = "dd if=/dev/zero of=%s/big bs=1M count=40 2>&1 | grep -o 'No space left on device\\|Disk quota exceeded'; du -m %s/big | cut -f1"


def test_container_size(bounded: Daemon) -> None:
    """df shows the bound, writing ends at it, others aren't bounded, and it goes with the container."""
    with made(bounded, HostConfig={"StorageOpt": {"size": "24M"}}) as container:
        ((project, kind, owner),) = projects(bounded)
        assert (kind, owner) == ("containers", container)
        assert quota.usage(bounded.root, project).limit == 24 << 20
        shown = inside(bounded, container, "df -k / | tail -1").split()
        assert int(shown[1]) == 24 << 10
        refused, written = inside(bounded, container, FILL % ("/root", "/root")).split("\n")[:2]
        assert refused and 20 <= int(written) <= 24
        assert inside(bounded, container, "rm /root/big; cp -a /bin /copy && echo there").strip() == "there"
        # the log isn't part of it, nor are volumes and other containers
        with made(bounded) as other:
            assert inside(bounded, other, FILL % ("/root", "/root")).split() == ["40"]
        assert bounded.json("GET", f"/containers/{container}/json")["HostConfig"]["StorageOpt"] == {
            "size": "24M"
        }
        bounded.json("POST", f"/containers/{container}/restart?t=0")
        assert int(inside(bounded, container, "df -k / | tail -1").split()[1]) == 24 << 10
        image = bounded.json("POST", f"/commit?container={container}&repo=copy", {})["Id"]
        assert image
    wait_until_free(bounded, project)
    # what was committed isn't counted for the project that the number belongs to next
    with made(bounded, HostConfig={"StorageOpt": {"size": "9M"}}) as container:
        assert projects(bounded)[0][0] == project
        assert int(inside(bounded, container, "df -k / | tail -1").split()[2]) < 1000
    assert run(bounded, "ls /copy/busybox", Image="copy")[1] == "/copy/busybox\n"


def test_files_brought_from_outside_count(bounded: Daemon, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(12 << 20))
    with made(
        bounded, start=False, WorkingDir="/new/dir", HostConfig={"StorageOpt": {"SIZE": "1", "size": "8m"}}
    ) as box:
        done = bounded.docker("cp", str(tmp_path / "big"), f"{box}:/root/", check=False)
        assert done.returncode and FULL.search(done.stderr), done


def test_volume_size(bounded: Daemon) -> None:
    bounded.docker("volume", "create", "-o", "size=16m", "small")
    with made(bounded, HostConfig={"Binds": ["small:/v"]}) as container:
        # busybox's df looks at the first mount of the device, which is another part of the file system
        blocks, size = inside(bounded, container, "stat -f -c '%b %S' /v").split()
        assert int(blocks) * int(size) == 16 << 20
        refused, written = inside(bounded, container, FILL % ("/v", "/v")).split("\n")[:2]
        assert refused and 12 <= int(written) <= 16
    ((project, kind, owner),) = projects(bounded)
    assert (kind, owner) == ("volumes", "small")
    assert bounded.json("GET", "/volumes/small")["Options"] == {"size": "16m"}
    bounded.docker("volume", "rm", "small")
    wait_until_free(bounded, project)


def test_numbers_of_others_are_left_alone(bounded: Daemon) -> None:
    """A project that somebody else has on the file system, with files or with a bound, isn't taken."""
    theirs = bounded.root / "theirs"
    theirs.mkdir()
    quota.mark(theirs, 1 << 20)
    quota.limit(bounded.root, (1 << 20) + 1, 5 << 20)
    with made(bounded, start=False, HostConfig={"StorageOpt": {"size": "8m"}}):
        assert projects(bounded)[0][0] == (1 << 20) + 2
    theirs.rmdir()
    quota.limit(bounded.root, (1 << 20) + 1, 0)


def test_killed_engines_leave_no_bounds(bounded: Daemon) -> None:
    """Whatever a crash leaves half-made is undone by the next start; what is whole keeps its bound."""
    body = {"Image": "busybox", "HostConfig": {"NetworkMode": "none", "StorageOpt": {"size": "8m"}}}
    kept = bounded.json("POST", "/containers/create?name=kept", body)["Id"]
    bounded.docker("volume", "create", "-o", "size=8m", "kept")
    gone = bounded.json("POST", "/containers/create?name=gone", body)["Id"]
    bounded.kill()
    with contextlib.closing(sqlite3.connect(bounded.root / "sampan.db")) as db:
        # as a kill in the midst of a creation leaves it: the row says "making", nothing else is there
        db.execute("UPDATE containers SET making = 1 WHERE id = ?", (gone,))
        db.execute("INSERT INTO projects VALUES (1048600, 'volumes', 'never')")
        db.execute("INSERT INTO projects VALUES (1048601, 'containers', NULL)")
        db.commit()
    for project in (1048600, 1048601):
        quota.limit(bounded.root, project, 7 << 20)
    bounded.start()
    for project in (1048600, 1048601):
        wait_until_free(bounded, project)
    owners = {owner: project for project, _, owner in projects(bounded)}
    deadline = time.monotonic() + 60
    while set(owners) != {"kept", kept} and time.monotonic() < deadline:
        time.sleep(0.05)
        owners = {owner: project for project, _, owner in projects(bounded)}
    assert set(owners) == {"kept", kept}
    assert all(quota.usage(bounded.root, project).limit == 8 << 20 for project in owners.values())
    bounded.json("DELETE", "/containers/kept")
    bounded.json("DELETE", "/volumes/kept")
    for project in owners.values():
        wait_until_free(bounded, project)


def test_default_of_the_engine(bounded: Daemon) -> None:
    with default_size(bounded, "30M"):
        for options, size in (({}, 30), ({"StorageOpt": {"size": "20M"}}, 20)):
            assert int(run(bounded, "df -m / | tail -1", HostConfig=options)[1].split()[1]) == size
        names = dict(bounded.json("GET", "/info")["DriverStatus"])
        assert names["Backing Filesystem"] in ("xfs", "extfs") and names["Supports d_type"] == "true"


def test_steps_of_builds_are_bounded_by_the_default(bounded: Daemon, tmp_path: Path) -> None:
    """Each step by itself, RUN and COPY; what they leave as layers belongs to no project."""
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    (tmp_path / "big").write_bytes(bytes(8 << 20))

    def build(text: str) -> tuple[int, str]:
        (tmp_path / "Dockerfile").write_text(f"FROM busybox\n{text}\n")
        done = bounded.docker("build", "-t", "built", str(tmp_path), check=False)
        return done.returncode, done.stdout + done.stderr

    write = "RUN dd if=/dev/zero of=/made%d bs=1M count=%d"
    with default_size(bounded, "6M"):
        code, told = build(
            f"COPY file Dockerfile /here/\n{write % (1, 4)}\n{write % (2, 4)} && ln -s x /link"
        )
        assert code == 0, told
        for text in (write % (3, 8), "COPY big /"):
            code, told = build(text)
            assert code and FULL.search(told), told
        deadline = time.monotonic() + 60
        while projects(bounded) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert projects(bounded) == []
        assert [tuple(quota.usage(bounded.root, (1 << 20) + n)) for n in range(3)] == [(0, 0, 0)] * 3
        assert run(bounded, "ls -ld /here/* /made1 /made2 /link | wc -l", Image="built")[1].strip() == "5"


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_without_quotas_it_is_refused(kind: str) -> None:
    with daemon_on(kind, "loop") as daemon:
        import_busybox(daemon.start())
        check_refusals(daemon)


def test_refused_here(sampand: Daemon, busybox: str) -> None:
    if quota.enforced(sampand.root):
        pytest.skip("this file system has project quotas")
    check_refusals(sampand)


def check_refusals(daemon: Daemon) -> None:
    def create(options: dict[str, str]) -> tuple[int, str]:
        body: dict[str, Any] = {"Image": "busybox", "HostConfig": {"StorageOpt": options}}
        status, _, answer = daemon.api("POST", "/containers/create?name=stored", body)
        return status, json.loads(answer)["message"].split("\n")[0]

    words = "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
    assert create({"size": "1G"}) == (500, words)
    assert create({"inodes": "5"}) == (500, "Unknown option inodes")
    assert daemon.api("GET", "/containers/stored/json")[0] == 404
    assert not projects(daemon)
    for options, message in (
        ({"size": "1G"}, "create sized: quota size requested but no quota support"),
        ({"size": "x"}, "create sized: invalid size: 'x'"),
        ({"size": "-1"}, "create sized: invalid size: '-1'"),
    ):
        status, _, answer = daemon.api("POST", "/volumes/create", {"Name": "sized", "DriverOpts": options})
        assert (status, json.loads(answer)["message"].split("\n")[0]) == (400, message)
    assert daemon.api("GET", "/volumes/sized")[0] == 404


def test_size_of_a_tmpfs_volume(sampand: Daemon, busybox: str) -> None:
    """Works everywhere: it becomes an option of the mount."""
    sampand.docker(
        "volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "-o", "size=3m", "-o", "o=noexec", "mem"
    )
    try:
        shown = run(sampand, "grep ' /x ' /proc/mounts", HostConfig={"Binds": ["mem:/x"]})[1]
        assert "size=3072k" in shown and "noexec" in shown
    finally:
        sampand.docker("volume", "rm", "mem")


def test_an_engine_that_cannot_keep_its_default_does_not_start(tmp_path: Path) -> None:
    def start(option: str) -> str:
        words = [
            *("-H", f"unix://{tmp_path}/s"),
            *("--data-root", str(tmp_path / "data")),
            *("--exec-root", str(tmp_path / "run")),
        ]
        done = subprocess.run(
            [conftest.BIN / "python3", "-m", "sampan.daemon", *words, "--storage-opt", option],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        return done.stderr

    if not quota.enforced(tmp_path):
        assert "Filesystem does not support Project Quota" in start("overlay2.size=1G")
    assert "overlay2: unknown option overlay2.nosuch" in start("overlay2.nosuch=1")
    assert "invalid size: 'x'" in start("overlay2.size=x")
