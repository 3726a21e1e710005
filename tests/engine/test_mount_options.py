"""Every option of -v and --mount, proven by what the kernel shows inside the container."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Daemon
from tests.engine.steps import inside, made, run

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("busybox")]


def command(*words: str) -> None:
    subprocess.run(words, check=True)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory that shares its mounts, with a file system of its own at ``sub``."""
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    command("mount", "--bind", str(top), str(top))
    command("mount", "--make-shared", str(top))
    command("mount", "-t", "tmpfs", "tmpfs", str(top / "sub"))
    (top / "sub" / "file").write_text("below\n")
    yield top
    while subprocess.run(["umount", "-R", str(top)], capture_output=True).returncode == 0:
        continue


def bind(source: Path, *, read_only: bool = False, **options: Any) -> dict[str, Any]:
    mount = {"Type": "bind", "Source": str(source), "Target": "/x", "ReadOnly": read_only}
    return {"HostConfig": {"Mounts": [mount | ({"BindOptions": options} if options else {})]}}


WRITES = "touch /x/a 2>/dev/null && echo top; touch /x/sub/a 2>/dev/null && echo sub; cat /x/sub/file"


@pytest.mark.parametrize(
    ("read_only", "options", "printed"),
    [
        (False, {}, "top\nsub\nbelow\n"),
        (True, {}, "below\n"),
        (True, {"ReadOnlyNonRecursive": True}, "sub\nbelow\n"),
        (True, {"ReadOnlyForceRecursive": True, "Propagation": "rprivate"}, "below\n"),
        (
            False,
            {"NonRecursive": True},
            "top\nsub\ncat: can't open '/x/sub/file': No such file or directory\n",
        ),
    ],
)
def test_recursion(
    sampand: Daemon, tree: Path, read_only: bool, options: dict[str, Any], printed: str
) -> None:
    assert run(sampand, WRITES, **bind(tree, read_only=read_only, **options))[1] == printed


def test_read_only_by_v_is_recursive_too(sampand: Daemon, tree: Path) -> None:
    assert run(sampand, WRITES, HostConfig={"Binds": [f"{tree}:/x:ro"]})[1] == "below\n"


@pytest.mark.parametrize(
    ("propagation", "seen", "given"),
    [("rprivate", False, False), ("rslave", True, False), ("rshared", True, True), ("shared", True, True)],
)
def test_propagation(sampand: Daemon, tree: Path, propagation: str, seen: bool, given: bool) -> None:
    (tree / "from-host").mkdir()
    (tree / "from-inside").mkdir()
    body = bind(tree, Propagation=propagation)
    body["HostConfig"]["Privileged"] = True
    with made(sampand, **body) as container:
        command("mount", "-t", "tmpfs", "tmpfs", str(tree / "from-host"))
        inside(sampand, container, "mount -t tmpfs tmpfs /x/from-inside")
        shown = inside(sampand, container, "cat /proc/mounts")
        assert ("/x/from-host" in shown) is seen
        assert (f"{tree}/from-inside" in Path("/proc/mounts").read_text()) is given
        point = sampand.json("GET", f"/containers/{container}/json")["Mounts"][0]
        assert point["Propagation"] == propagation


def test_missing_source(sampand: Daemon, tmp_path: Path) -> None:
    missing = tmp_path / "made" / "here"
    assert run(sampand, "ls -d /x", **bind(missing, CreateMountpoint=True)) == (0, "/x\n")
    assert missing.is_dir()


def test_volume_options(sampand: Daemon) -> None:
    def volume(name: str, **options: Any) -> dict[str, Any]:
        return {"Type": "volume", "Source": name, "Target": "/etc", "VolumeOptions": options}

    labelled = volume("opts", Labels={"a": "b"})
    assert run(sampand, "mkdir -p /etc/in/ner; ls /etc/group", HostConfig={"Mounts": [labelled]})[0] == 0
    assert sampand.json("GET", "/volumes/opts")["Labels"] == {"a": "b"}
    inner = volume("opts", Subpath="in")
    assert (
        run(sampand, "ls /etc | grep -v host | grep -v resolv", HostConfig={"Mounts": [inner]})[1] == "ner\n"
    )
    empty = volume("bare", NoCopy=True)
    assert run(sampand, "test -e /etc/group", HostConfig={"Mounts": [empty]})[0] == 1
    driver = {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7"}}
    special = {**volume("special", DriverConfig=driver), "Target": "/m"}
    shown = run(
        sampand, "stat -c %u /m; df -k /m | tail -1 | awk '{print $2}'", HostConfig={"Mounts": [special]}
    )
    assert shown == (0, "7\n1024\n")
    for name in ("opts", "bare", "special"):
        sampand.api("DELETE", f"/volumes/{name}")


def test_local_driver_binds(sampand: Daemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("bound\n")
    options = {"type": "none", "device": str(tmp_path), "o": "bind,ro"}
    sampand.json("POST", "/volumes/create", {"Name": "bound", "DriverOpts": options})
    script = "cat /v/file; touch /v/x 2>/dev/null || echo read-only"
    assert run(sampand, script, HostConfig={"Binds": ["bound:/v"]}) == (0, "bound\nread-only\n")
    sampand.json("DELETE", "/volumes/bound")
    assert (tmp_path / "file").exists()


def test_nfs_says_what_the_kernel_says(sampand: Daemon) -> None:
    options = {"type": "nfs", "device": ":/exports", "o": "addr=127.0.0.1,nolock,soft,timeo=1,retrans=0"}
    sampand.json("POST", "/volumes/create", {"Name": "remote", "DriverOpts": options})
    with made(sampand, start=False, HostConfig={"Binds": ["remote:/v"]}) as container:
        status, _, data = sampand.api("POST", f"/containers/{container}/start")
        assert status == 500
        assert b"failed to mount local volume: mount :/exports:" in data
        assert b"addr=127.0.0.1" in data
    sampand.json("DELETE", "/volumes/remote")


def test_tmpfs_options(sampand: Daemon) -> None:
    options = {"SizeBytes": 1 << 20, "Mode": 0o750, "Options": [["exec"], ["uid", "5"]]}
    mounts = [{"Type": "tmpfs", "Target": "/t", "TmpfsOptions": options}]
    script = "stat -c '%a %u' /t /u; grep -E ' /(t|u) ' /proc/mounts"
    host = {"Mounts": mounts, "Tmpfs": {"/u": "rw,size=64k,mode=1770"}}
    code, text = run(sampand, script, HostConfig=host)
    assert (code, text.splitlines()[:2]) == (0, ["750 5", "1770 0"])
    first, second = text.splitlines()[2:]
    assert "size=1024k" in first and "noexec" not in first
    assert "size=64k" in second and "noexec" in second


def test_image_mount(sampand: Daemon) -> None:
    mounts = [{"Type": "image", "Source": "busybox", "Target": "/i", "ImageOptions": {"Subpath": "etc"}}]
    script = "ls /i/group; touch /i/x 2>/dev/null || echo read-only"
    assert run(sampand, script, HostConfig={"Mounts": mounts}) == (0, "/i/group\nread-only\n")


def test_volumes_from_with_modes(sampand: Daemon) -> None:
    with made(sampand, start=False, HostConfig={"Binds": ["donated:/d"]}) as donor:
        script = "touch /d/x 2>/dev/null && echo written || echo read-only"
        assert run(sampand, script, HostConfig={"VolumesFrom": [donor]})[1] == "written\n"
        assert run(sampand, script, HostConfig={"VolumesFrom": [f"{donor}:ro"]})[1] == "read-only\n"
    sampand.json("DELETE", "/volumes/donated")


def test_part_of_an_image_of_several_layers(sampand: Daemon) -> None:
    with made(
        sampand, "sh", "-c", "mkdir -p /part/of && echo upper > /part/of/it && ln -s /etc /part/link"
    ) as box:
        sampand.json("POST", f"/containers/{box}/wait")
        sampand.json("POST", f"/commit?container={box}&repo=layered", {})

    def mount(subpath: str) -> dict[str, Any]:
        options = {"ImageOptions": {"Subpath": subpath}} if subpath else {}
        return {"HostConfig": {"Mounts": [{"Type": "image", "Source": "layered", "Target": "/i", **options}]}}

    assert run(sampand, "cat /i/part/of/it; ls /i/etc/group", **mount("")) == (0, "upper\n/i/etc/group\n")
    assert run(sampand, "cat /i/it; touch /i/x 2>/dev/null || echo read-only", **mount("part/of")) == (
        0,
        "upper\nread-only\n",
    )
    assert run(sampand, "cat /i", **mount("part/of/it")) == (0, "upper\n")
    assert run(sampand, "cat /i/group | head -1", **mount("part/link")) == (
        0,
        "root:x:0:\n",
    )  # the image's own
    assert "/i " not in run(sampand, "grep -v ' /i ' /proc/mounts", **mount("part/of"))[1]
    sampand.json("DELETE", "/images/layered")


def test_links_in_a_volume_lead_nowhere_else(sampand: Daemon, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("of the host\n")
    with made(sampand, "true", start=False, HostConfig={"Binds": ["linked:/v"]}):
        content = Path(sampand.json("GET", "/volumes/linked")["Mountpoint"])
        (content / "inner").mkdir()
        (content / "inner" / "file").write_text("of the volume\n")
        (content / "good").symlink_to("/inner")
        (content / "bad").symlink_to(tmp_path)

        def mount(subpath: str) -> dict[str, Any]:
            options = {"VolumeOptions": {"Subpath": subpath}}
            return {
                "HostConfig": {"Mounts": [{"Type": "volume", "Source": "linked", "Target": "/x", **options}]}
            }

        assert run(sampand, "cat /x/file", **mount("good")) == (0, "of the volume\n")
        assert run(sampand, "cat /x", **mount("inner/file")) == (0, "of the volume\n")
        with made(sampand, "cat", "/x/secret", start=False, **mount("bad")) as container:
            assert sampand.api("POST", f"/containers/{container}/start")[0] == 404
    sampand.json("DELETE", "/volumes/linked")


def refused(daemon: Daemon, **body: Any) -> tuple[int, str]:
    """Status and message of the create or the start that is refused."""
    request = {"Image": "busybox", "Cmd": ["true"], **body}
    request["HostConfig"] = {"NetworkMode": "none", **body["HostConfig"]}
    status, _, data = daemon.api("POST", "/containers/create", request)
    answer = json.loads(data)
    if status == 201:
        status, _, data = daemon.api("POST", f"/containers/{answer['Id']}/start")
        daemon.json("DELETE", f"/containers/{answer['Id']}?v=1")
        answer = json.loads(data)
    return status, str(answer["message"]).split("\n")[0]


@pytest.mark.parametrize(("propagation", "kind"), [("rshared", "shared"), ("rslave", "shared or slave")])
def test_propagation_needs_a_mount_that_shares(
    sampand: Daemon, tree: Path, propagation: str, kind: str
) -> None:
    command("mount", "--make-private", str(tree))
    words = f"path {tree} is mounted on {tree} but it is not a {kind} mount"
    assert refused(sampand, **bind(tree, Propagation=propagation)) == (500, words)
    assert run(sampand, "ls -d /x", HostConfig={"Binds": [f"{tree}:/x:rprivate"]})[0] == 0


def test_a_bind_copies_nothing(sampand: Daemon) -> None:
    status, message = refused(sampand, HostConfig={"Binds": ["/tmp:/b:nocopy"]})
    assert status == 500
    assert message == (
        "invalid volume specification: '/tmp:/b:nocopy': invalid mount config for type \"bind\": "
        "field VolumeOptions must not be specified"
    )


@pytest.mark.parametrize(("source", "target"), [("file", "/etc"), ("", "/etc/passwd")])
def test_files_and_directories_cannot_cover_each_other(
    sampand: Daemon, tmp_path: Path, source: str, target: str
) -> None:
    (tmp_path / "file").touch()
    status, message = refused(sampand, HostConfig={"Binds": [f"{tmp_path / source}:{target}"]})
    assert status == 400
    assert "not a directory: Are you trying to mount a directory onto a file (or vice-versa)?" in message


def test_what_an_option_lacks_is_said_when_it_is_needed(sampand: Daemon) -> None:
    sampand.docker("volume", "create", "-o", "type=none", "-o", "device=", "lacking")
    status, message = refused(sampand, HostConfig={"Binds": ["lacking:/x"]})
    assert status == 500 and message.endswith("_data': missing device in volume options")
    sampand.docker("volume", "rm", "lacking")
    sampand.docker("volume", "create", "-o", "type=", "-o", "device=", "plain")
    assert run(sampand, "touch /x/y && ls /x", HostConfig={"Binds": ["plain:/x"]}) == (0, "y\n")
    sampand.docker("volume", "rm", "plain")


def test_unmakeable_sources_and_empty_targets(sampand: Daemon) -> None:
    words = (
        "error while creating mount source path '/proc/nosuch': mkdir /proc/nosuch: no such file or directory"
    )
    assert refused(sampand, HostConfig={"Binds": ["/proc/nosuch:/x"]}) == (500, words)
    words = "invalid mount path: '' mount path must be absolute"
    assert refused(sampand, HostConfig={"Tmpfs": {"": ""}}) == (400, words)


def test_containers_that_start_at_once_share_one_mount(sampand: Daemon) -> None:
    sampand.docker("volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "together")
    where = sampand.json("GET", "/volumes/together")["Mountpoint"]
    host = {"HostConfig": {"Binds": ["together:/x"]}}
    with contextlib.ExitStack() as stack:
        containers = [stack.enter_context(made(sampand, start=False, **host)) for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda one: sampand.json("POST", f"/containers/{one}/start"), containers))
        assert Path("/proc/mounts").read_text().count(f" {where} ") == 1
        inside(sampand, containers[0], "echo shared > /x/file")
        assert inside(sampand, containers[5], "cat /x/file") == "shared\n"
    assert where not in Path("/proc/mounts").read_text()
    sampand.docker("volume", "rm", "together")
