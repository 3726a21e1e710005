"""The cache, outputs and the end of builds through the engine's door: what is kept, and what must not stay."""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.conftest import BIN, Daemon, UnixConnection, import_busybox

from .conftest import tar_of
from .door import Built, Door


@pytest.fixture(scope="module")
def door(sampand: Any, busybox: str) -> Door:
    return Door(sampand, busybox)


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {one.name.removeprefix("./").rstrip("/"): one for one in tar}


def test_output_as_archive(door: Door) -> None:
    built = door.build(
        "FROM BASE AS made\nRUN mkdir /o && echo x > /o/f && ln -s f /o/l && chmod 640 /o/f && chown 7:8 /o/f\n"
        "FROM scratch\nCOPY --from=made /o /\n",
        outputs=[{"Type": "tar"}],
    )
    data = b"".join(base64.b64decode(one["Data"]) for one in built.aux("sampan.output"))
    found = members(data)
    assert (found["f"].mode, found["f"].uid, found["f"].gid) == (0o640, 7, 8)
    assert found["l"].linkname == "f" and set(found) - {"", "."} == {"f", "l"}
    assert door.build("FROM BASE\n", outputs=[{"Type": "registry"}]).status == 501


def test_inline_cache_travels_with_the_image(door: Door, new_sampand: Any, tmp_path: Path) -> None:
    file = "FROM BASE\nCOPY f /f\nRUN cat /f > /g\nENV A=1\n"
    door.build(file, {"f": "x"}, buildargs={"BUILDKIT_INLINE_CACHE": "1"}, t="smpg-inline")
    archive = tmp_path / "a.tar"
    door.daemon.docker("save", "-o", str(archive), "smpg-inline", door.base)
    other = Door(new_sampand(), door.base)
    other.daemon.docker("load", "-i", str(archive))
    assert other.build(file, {"f": "x"}).cached() == 0
    other.daemon.json("POST", "/build/prune?all=1")
    assert other.build(file, {"f": "x"}, cachefrom=["smpg-inline"]).cached() == 3
    assert other.build(file, {"f": "other"}, cachefrom=["smpg-inline", "nosuch:image"]).cached() == 0


def test_check_directive(door: Door) -> None:
    warned = "{}FROM BASE\nMAINTAINER me\nWORKDIR rel\n"
    assert "MaintainerDeprecated" in door.build(warned.format("")).text
    skipped = door.build(warned.format("# check=skip=MaintainerDeprecated\n")).text
    assert "MaintainerDeprecated" not in skipped and "WorkdirRelativePath" in skipped
    assert "[Warning]" not in door.build(warned.format("# check=skip=all\n")).text
    failed = door.build(warned.format("# check=error=true;skip=WorkdirRelativePath\n"))
    assert failed.status == 400 and "lint violation found for rules: MaintainerDeprecated" in failed.error
    assert failed.error.endswith("(line 3)")
    checked = door.build(warned.format(""), check=1)
    assert [one["RuleName"] for one in checked.aux("sampan.check")[0]["Warnings"]] == [
        "MaintainerDeprecated",
        "WorkdirRelativePath",
    ]


def test_cache_explains_itself(door: Door) -> None:
    file = "FROM BASE\nARG V=1\nENV W=$V\nRUN echo $W > /w\nCOPY d /d\nCOPY --chown=nobody:users o /o\n"
    files = {"d/a": "1", "d/b": "2", "o": "x"}
    door.build(file, files, t="smpg-why")

    def reasons(**more: Any) -> dict[int, list[str]]:
        built = door.build(more.pop("file", file), more.pop("files", files), t="smpg-why", why=1, **more)
        return {one["Step"]: one["Reasons"] for one in built.aux("sampan.why") if one["Result"] == "built"}

    assert reasons() == {}
    assert reasons(files={**files, "d/b": "3", "d/c": "4"})[5] == ["file d/b changed", "file d/c is new"]
    changed = reasons(buildargs={"V": "2"})
    assert changed[4] == ["variable V changed", "variable W changed"], changed
    assert any("owner changed" in one for one in reasons(file=file.replace("nobody:users", "1"))[6])


def test_cache_listing_and_prune(door: Door) -> None:
    door.build("FROM BASE\nRUN echo gone > /gone\n", t="smpg-prune")
    rows = door.daemon.json("GET", "/system/df?type=build-cache")["BuildCache"]
    mine = [row for row in rows if "echo gone" in row["Description"]]
    assert len(mine) == 1 and mine[0]["Size"] > 0 and mine[0]["Shared"] is True and mine[0]["InUse"] is False
    kept = door.daemon.json("POST", "/build/prune?filters=" + quote(json.dumps({"until": ["1h"]})))
    assert not kept["CachesDeleted"]
    door.daemon.json("POST", "/build/prune")
    assert door.build("FROM BASE\nRUN echo gone > /gone\n").cached() == 1
    door.daemon.docker("rmi", "smpg-prune")
    pruned = door.daemon.json("POST", "/build/prune?all=1")
    assert pruned["CachesDeleted"] and door.daemon.json("GET", "/system/df")["BuildCache"] in (None, [])


def test_the_cache_stays_within_the_bound_of_daemon_json(new_sampand: Any, tmp_path: Path) -> None:
    """The least recently used go; what an image has stays for it. Bounds of a prune work the same way."""
    (tmp_path / "daemon.json").write_text('{"builder": {"gc": {"defaultKeepStorage": "2.5MB"}}}')
    daemon = new_sampand("--config-file", str(tmp_path / "daemon.json"))
    door = Door(daemon, import_busybox(daemon))

    def made(name: str) -> Built:
        return door.build(f"FROM BASE\nRUN head -c 1000000 /dev/urandom > /{name}\n", t=name)

    def kept() -> list[str]:
        rows = daemon.json("GET", "/system/df?type=build-cache")["BuildCache"] or []
        return [row["Description"][-1] for row in sorted(rows, key=lambda row: str(row["LastUsedAt"]))]

    def comes_to(wanted: set[str]) -> None:
        deadline = time.monotonic() + 60
        while set(kept()) != wanted and time.monotonic() < deadline:
            time.sleep(0.05)
        assert set(kept()) == wanted

    for name, left in (("a", {"a"}), ("b", {"a", "b"})):
        made(name)
        comes_to(left)
    assert made("a").cached() == 1
    made("c")
    comes_to({"a", "c"})
    assert door.sh("b", "wc -c < /b").strip() == "1000000" and made("a").cached() == 1
    daemon.docker("rmi", "a", "b", "c")
    words = ["builder", "prune", "-af", "--reserved-space", "1.2MB", "--max-used-space", "1kB"]
    done = daemon.docker(*words, cli=str(BIN / "sampan"))
    assert "Total reclaimed space: 1MB" in done.stdout and kept() == ["a"]
    assert (
        "0B"
        in daemon.docker("builder", "prune", "-af", "--min-free-space", "1kB", cli=str(BIN / "sampan")).stdout
    )


def test_cache_in_use_while_a_build_has_it(door: Door) -> None:
    door.build("FROM BASE\nRUN echo first > /first\n")
    connection = begin(
        door.daemon, {"Dockerfile": f"FROM {door.base}\nRUN echo first > /first\nRUN sleep 30\n"}
    )
    try:
        until(lambda: running(door.daemon))
        rows = door.daemon.json("GET", "/system/df?type=build-cache")["BuildCache"]
        used = [row for row in rows if row["InUse"]]
        assert ["echo first" in row["Description"] for row in used] == [True]
        gone = door.daemon.json("POST", "/build/prune?all=1")["CachesDeleted"] or []
        assert used[0]["ID"] not in [key[:25] for key in gone]
    finally:
        connection.close()
    until(lambda: not running(door.daemon))


def begin(daemon: Daemon, files: dict[str, Any], **query: Any) -> http.client.HTTPConnection:
    """A build whose answer is being read no further than its first line."""
    connection = UnixConnection(daemon.socket)
    connection.request("POST", f"/build?{urlencode({'networkmode': 'none', **query})}", body=tar_of(files))
    connection.getresponse().readline()
    return connection


def until(true: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, true
        time.sleep(0.02)


def running(daemon: Daemon) -> list[int]:
    """Processes below the daemon's process that sleep (RUN sleep of these tests)."""
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit():
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                root = os.readlink(f"/proc/{entry}/root")
                if words[:1] == [b"sleep"] and root and ours(daemon, int(entry)):
                    found.append(int(entry))
    return found


def ours(daemon: Daemon, pid: int) -> bool:
    return str(daemon.root) in Path(f"/proc/{pid}/mountinfo").read_text()


def test_a_client_that_goes_away_stops_its_build(door: Door) -> None:
    before = containers(door.daemon)
    connection = begin(door.daemon, {"Dockerfile": f"FROM {door.base}\nRUN echo > /half; sleep 60\n"})
    until(lambda: running(door.daemon))
    connection.close()
    until(lambda: not running(door.daemon))
    until(lambda: os.listdir(door.daemon.root / "build") == [])
    assert containers(door.daemon) <= before


def containers(daemon: Daemon) -> set[str]:
    return {one["Id"] for one in daemon.json("GET", "/containers/json?all=1")}


def cgroups(container: str) -> list[str]:
    found = subprocess.run(
        ["find", "/sys/fs/cgroup", "-type", "d", "-name", f"*{container}*"], capture_output=True, text=True
    )
    return found.stdout.split()


def ports(daemon: Daemon) -> list[str]:
    """The links in the daemon's bridge."""
    folder = Path(f"/sys/class/net/{daemon.bridge}/brif")
    return os.listdir(folder) if folder.is_dir() else []


def test_kill_of_the_engine_leaves_nothing_of_a_build(new_sampand: Any) -> None:
    daemon: Daemon = new_sampand()
    door = Door(daemon, import_busybox(daemon))
    file = f"FROM {door.base}\nRUN echo done > /done\nRUN echo half > /half; sleep 60\n"
    connection = begin(daemon, {"Dockerfile": file}, networkmode="bridge")
    until(lambda: running(daemon))
    (pid,) = running(daemon)
    inside = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    names = {Path(line.rsplit(":", 1)[1]).name for line in inside} - {"", "/"}
    assert ports(daemon)
    daemon.kill()
    connection.close()
    daemon.start()
    until(lambda: not running(daemon))
    until(lambda: str(daemon.dir) not in Path("/proc/self/mountinfo").read_text())
    until(lambda: not [path for name in names if len(name) > 30 for path in cgroups(name)])
    until(lambda: not ports(daemon))
    until(lambda: os.listdir(daemon.root / "build") == [])
    until(lambda: os.listdir(daemon.root / "containers") == [])
    assert daemon.json("GET", "/containers/json?all=1") == []
    # What was finished before is kept as cache; all layers are accounted for: pruning removes every one.
    assert door.build(f"FROM {door.base}\nRUN echo done > /done\n").cached() == 1
    for image in daemon.json("GET", "/images/json?all=1"):
        daemon.api("DELETE", f"/images/{image['Id']}?force=1")
    daemon.json("POST", "/build/prune?all=1")
    until(lambda: not [one for one in os.listdir(daemon.root / "layers") if len(one) >= 64])


def test_stages_run_at_the_same_time(door: Door) -> None:
    """Each of four waits until all are there; how much time it saves is measured by scripts/bench."""
    meet = "for i in $(seq 600); do [ $(ls /c | wc -l) = 4 ] && break; sleep .1; done; ls /c | wc -l"
    step = f"RUN --mount=type=cache,id=smpg-meet,target=/c touch /c/%d; {meet} > /%d\n"
    stages = "".join(f"FROM BASE AS s{n}\n{step % (n, n)}" for n in range(4))
    copies = "".join(f"COPY --from=s{n} /{n} /{n}\n" for n in range(4))
    built = door.build(f"{stages}FROM BASE\n{copies}", nocache=1)
    assert door.sh(built.id, "cat /0 /1 /2 /3").split() == ["4"] * 4


def test_two_machines_make_the_same_image(door: Door, new_sampand: Any, tmp_path: Path) -> None:
    archive = tmp_path / "base.tar"
    door.daemon.docker("save", "-o", str(archive), door.base)
    other = Door(new_sampand(), door.base)
    other.daemon.docker("load", "-i", str(archive))
    file = (
        "FROM BASE AS a\nWORKDIR /w/x\nCOPY d /d\nRUN echo hi > /w/made && mkdir /w/dir && ln -s made /w/l\n"
        "COPY <<E /doc\ntext\nE\nADD t.tar /un/\nFROM BASE\nCOPY --from=a --link /w /w\nENV A=1\nCMD x\n"
    )
    files = {"d/f": "1", "d/g/h": "2", "t.tar": tar_of({"in": "x"}, 1_600_000_000)}
    door.build(file, files)  # what the cache has of other times is not taken
    built = [
        one.build(file, files, buildargs={"SOURCE_DATE_EPOCH": "1500000000"}, mtime=when).id
        for one, when in ((door, 1_700_000_000), (other, 1_650_000_000))
    ]
    assert built[0] == built[1]
    created = door.inspect(built[0])["Created"]
    assert created.startswith("2017-07-14T02:40:00")


def test_what_is_refused(door: Door) -> None:
    kit = door.build("FROM BASE\n", version="2")
    assert kit.status == 501 and "takes the whole Dockerfile language" in kit.error
    for line, words in (
        ("RUN --security=insecure true", "security.insecure is not allowed"),
        ("RUN --device=vendor.com/x true", "--device flag is not supported"),
        ("RUN --network=bogus true", "invalid network mode"),
        ("COPY --nosuch a b", "unknown flag: --nosuch"),
        ("COPY --form=a a b", "did you mean from?"),
        ("RUN --mount=type=bnd,target=/x true", "did you mean bind?"),
        ("RUN --mount=type=bind,tagret=/x true", "did you mean target?"),
        ("RUN --mount=type=tmpfs,id=a,target=/x true", "unexpected key 'id'"),
        ("COPY --from=nosuchstage / /x", "invalid from flag value nosuchstage"),
        ("COPY --from=0 / /x", "invalid from flag value 0: refers to current build stage"),
        ("COPY --from=7 / /x", "invalid from flag value 7: index out of bounds"),
        ("FROM --platform=$UNSET BASE", "empty platform value from expression $UNSET"),
        ("RUN --mount=type=tmpfs,target=/ true", 'invalid mount target "/"'),
        ("ADD --checksum=sha256:0 f /x", "checksum can't be specified for non-HTTP(S) sources"),
        ("ADD --checksum=sha256:0 http://127.0.0.1:1/x /x", "checksum sha256:0: invalid checksum digest"),
        ("RUN []", "RUN requires at least one argument"),
    ):
        found = door.build(f"FROM BASE\n{line}\nRUN true\n")
        assert words in found.error and "Dockerfile:2" in found.error, (line, found.error)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"memory": 1}, "Minimum memory limit allowed is 6MB"),
        ({"cpusetcpus": "99"}, "Requested CPUs are not available - requested 99"),
        ({"cpusetcpus": "x"}, "Invalid value x for cpuset cpus"),
        ({"shmsize": -1}, "SHM size can not be less than 0"),
        ({"ulimits": [{"Name": "foo", "Soft": 1, "Hard": 1}]}, "invalid ulimit type: foo"),
        ({"ulimits": [{"Name": 1}]}, "error reading ulimit settings"),
        ({"networkmode": "nosuchnet"}, "network nosuchnet not found"),
        ({"path": "../x"}, "forbidden path outside the build context: ../x ()"),
        ({"path": "d"}, "unexpected error reading Dockerfile: read d: is a directory"),
        ({"buildargs": "[1]"}, "json: cannot unmarshal array into Go value of type map[string]*string"),
        ({"labels": '{"a": 1}'}, "json: cannot unmarshal number into Go value of type string"),
    ],
)
def test_options_that_can_not_be(door: Door, query: dict[str, Any], words: str) -> None:
    files = {"d/f": "x", "Dockerfile": f"FROM {door.base}\nRUN echo '{words}'\n"}
    if "path" in query:
        query = {"dockerfile": query["path"]}
    status, _, data = door.daemon.api(
        "POST",
        "/build?"
        + urlencode({k: v if isinstance(v, str | int) else json.dumps(v) for k, v in query.items()}),
        body=tar_of(files),
    )
    found = Built(status, [json.loads(line) for line in data.splitlines() if line.strip()])
    assert words in found.error and "internal error" not in found.error, found


def test_an_empty_tag_is_none(door: Door) -> None:
    assert door.build("FROM BASE\nENV A=empty\n", t="").id


def test_a_client_that_goes_away_before_its_context_has_come(door: Door) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connection = UnixConnection(door.daemon.socket)
        connection.request("POST", f"/build?{urlencode({'remote': f'http://127.0.0.1:{port}/r.git'})}")
        until(lambda: asking(port))
        connection.close()
        until(lambda: not asking(port))
        until(lambda: os.listdir(door.daemon.root / "build") == [])


@pytest.mark.parametrize("path", ["r.git", "r.tar"])
@pytest.mark.parametrize("before", ["", "RUN sleep 60\nRUN true\n"])
def test_a_client_that_goes_away_stops_git_and_downloads(door: Door, path: str, before: str) -> None:
    """A server that never answers: what talks to it ends with the build."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        file = f"FROM {door.base}\n{before}ADD http://127.0.0.1:{port}/{path} /x\n"
        connection = begin(door.daemon, {"Dockerfile": file})
        server.settimeout(60)
        talk, _ = server.accept()
        with talk:
            assert bool(asking(port)) == (path == "r.git")
            connection.close()
            until(lambda: not asking(port))
            until(lambda: os.listdir(door.daemon.root / "build") == [] and not running(door.daemon))


def asking(port: int) -> list[str]:
    """git processes that talk to a port of ours."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f":{port}/r.git".encode() in (entry / "cmdline").read_bytes():
                found.append(entry.name)
    return found


def test_a_stopped_engine_leaves_no_build(new_sampand: Any) -> None:
    daemon: Daemon = new_sampand()
    base = import_busybox(daemon)
    connection = begin(daemon, {"Dockerfile": f"FROM {base}\nRUN echo > /half; sleep 60\n"})
    until(lambda: running(daemon))
    begun = time.monotonic()
    assert daemon.stop() == 0
    connection.close()
    assert time.monotonic() - begun < 30
    until(lambda: not running(daemon))
    daemon.start()
    assert os.listdir(daemon.root / "build") == [] and os.listdir(daemon.root / "containers") == []
