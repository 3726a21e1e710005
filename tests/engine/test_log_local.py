"""Log driver local: Docker's records, written, rotated, read from both ends; Debian's dockerd as the judge."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.containers.logfiles import LogFiles
from sampan.engine.containers.logoutput import LogOptions
from sampan.engine.containers.logs import read
from sampan.engine.containers.timestamps import rfc3339
from sampan.engine.containers.watch import Watcher
from sampan.runtime.logwriter import open_log
from tests.conftest import Daemon, busybox_tar
from tests.dockerd import running_dockerd
from tests.engine.steps import made, output
from tests.frames import frames

_BASE = 1_700_000_000_000_000_000
_SECOND = 1_000_000_000


def plan(path: Path, **changes: Any) -> dict[str, Any]:
    return {"driver": "local", "path": str(path), "max_size": -1, "max_file": 1, "compress": False, **changes}


def write(path: Path, writes: list[tuple[int, int, bytes]], **changes: Any) -> None:
    """Each: stream, second, data."""
    log = open_log(plan(path, **changes))
    for stream, second, data in writes:
        log.write(stream, data, _BASE + second * _SECOND)
    log.close(_BASE + 100 * _SECOND)


def collect(path: Path, tty: bool = True, **options: Any) -> bytes:
    async def gather() -> bytes:
        return b"".join(
            [chunk async for chunk in read(path, LogOptions(**options), tty=tty, watcher=Watcher())]
        )

    return asyncio.run(gather())


def test_a_record_is_dockers(tmp_path: Path) -> None:
    write(tmp_path / "log", [(1, 0, b"ab\xff\n\n")])
    moment = "10" + varint_hex(_BASE)
    first = f"0a067374646f7574{moment}1a036162ff"
    second = f"0a067374646f7574{moment}"
    expected = b"".join(
        len(message).to_bytes(4, "big") + message + len(message).to_bytes(4, "big")
        for message in map(bytes.fromhex, (first, second))
    )
    assert (tmp_path / "log").read_bytes() == expected


def varint_hex(number: int) -> str:
    groups = []
    while number:
        groups.append(number & 127)
        number >>= 7
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:]).hex()


_DATA = st.one_of(
    st.lists(
        st.sampled_from([b"\n", b"line\n", b"x" * 20_000, b"\0\0\0\x10\n\6stdout", b"y" * 130]), max_size=8
    ).map(b"".join),
    st.binary(max_size=40),
)


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(0, 2), _DATA), max_size=8), st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_everything_comes_back(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, int, bytes]], tail: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    writes = sorted(writes, key=lambda entry: entry[1])
    write(path, writes)
    out = frames(collect(path, tty=False))
    for stream in (1, 2):
        sent = b"".join(data for which, _, data in writes if which == stream)
        assert b"".join(text for which, text in out if which == stream) == sent
    assert all(b"\n" not in text[:-1] and len(text) <= 16 << 10 for _, text in out)
    assert frames(collect(path, tty=False, tail=tail)) == (out[-tail:] if tail else [])


@given(
    st.lists(
        st.tuples(st.integers(0, 10**18), st.lists(st.binary(max_size=400), min_size=1, max_size=4)),
        max_size=8,
    ),
    st.dictionaries(st.sampled_from("abc"), st.text(alphabet="xyz ", max_size=4)),
)
@settings(max_examples=150, deadline=None)
def test_times_and_details_of_every_line(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[int, list[bytes]]], attrs: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("log") / "log"
    log = open_log(plan(path, attrs=attrs))
    expected = b""
    details = ",".join(f"{key}={value.replace(' ', '+')}" for key, value in sorted(attrs.items()))
    for moment, texts in writes:
        lines = b"".join(text.replace(b"\n", b"") + b"\n" for text in texts)
        log.write(1, lines, _BASE + moment)
        stamp = f"{rfc3339((_BASE + moment) // _SECOND * _SECOND)[:19]}.{(_BASE + moment) % _SECOND:09d}Z"
        expected += b"".join(
            f"{stamp} {details} ".encode() + line + b"\n" for line in lines.split(b"\n")[:-1]
        )
    log.close(0)
    assert collect(path, timestamps=True, details=True) == expected


def test_times_details_and_parts(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(plan(path, attrs={"a": "b c", "z": ""}))
    log.write(1, b"one\ntwo\nthr", _BASE)
    log.flush(_BASE)
    log.write(2, b"err\n", _BASE + _SECOND)
    log.write(1, b"ee\nfour\n", _BASE + 2 * _SECOND)
    log.close(0)
    stamp = [rfc3339(_BASE + second * _SECOND)[:19] + ".000000000Z" for second in range(3)]
    assert collect(path, timestamps=True, details=True).decode().splitlines() == [
        f"{stamp[0]} a=b+c,z= one",
        f"{stamp[0]} a=b+c,z= two",
        f"{stamp[0]} a=b+c,z= thr{stamp[1]} a=b+c,z= err",
        "ee",
        f"{stamp[2]} a=b+c,z= four",
    ]
    assert collect(path, since_ns=_BASE + 2 * _SECOND) == b"ee\nfour\n"
    assert collect(path, until_ns=_BASE + _SECOND, stdout=False) == b"err\n"


@pytest.mark.parametrize("compress", [False, True])
def test_rotation_and_the_last_lines_of_all_files(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "log"
    lines = [b"line %d\n" % number for number in range(900)]
    writes = [(1, number // 100, b"".join(lines[number : number + 30])) for number in range(0, 900, 30)]
    write(path, writes, max_size=8_000, max_file=4, compress=compress)
    suffix = ".gz" if compress else ""
    assert sorted(os.listdir(tmp_path)) == ["log", *(f"log.{number}{suffix}" for number in (1, 2, 3))]
    assert path.stat().st_size <= 8_000
    everything = collect(path).splitlines(keepends=True)
    assert 600 < len(everything) < 900 and everything == lines[-len(everything) :]
    for tail in (1, 150, 300, 500):
        assert collect(path, tail=tail) == b"".join(lines[-tail:])


def test_torn_records_lose_only_themselves(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, [(1, second, b"line %d\n" % second) for second in range(20)])
    size = path.stat().st_size // 20
    whole = path.read_bytes()
    torn = whole[: size * 10] + b"\0\0\0\x20\n\6std" + b"\0" * 50 + whole[size * 10 :]
    path.write_bytes(torn)
    lines = [b"line %d\n" % number for number in range(20)]
    assert collect(path) == b"".join(lines)
    assert collect(path, tail=15) == b"".join(lines[-15:])
    assert collect(path, tail=5) == b"".join(lines[-5:])
    path.write_bytes(whole[:-3])
    assert collect(path) == b"".join(lines[:-1])
    assert collect(path, tail=2) == b"".join(lines[-3:-1])


def test_what_earlier_versions_wrote_is_read_before_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    old = {"driver": "json-file", "path": str(path), "max_size": -1, "max_file": 1, "compress": False}
    log = open_log(old)
    log.write(1, b"old 1\nold 2\n", _BASE)
    log.close(_BASE)
    write(path, [(1, 5, b"new\n")], max_file=3)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]
    assert collect(path) == b"old 1\nold 2\nnew\n"
    assert collect(path, tail=2) == b"old 2\nnew\n"


def test_following_through_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(plan(path, max_size=400, max_file=5, compress=True))
    log.write(1, b"0\n", _BASE)

    async def work() -> bytes:
        watcher, over = Watcher(), asyncio.Event()
        found = b""

        async def follow() -> None:
            nonlocal found
            options = LogOptions(follow=True)
            async for chunk in read(path, options, tty=True, watcher=watcher, ended=over.wait):
                found += chunk

        task = asyncio.create_task(follow())
        for number in range(1, 60):
            log.write(1, b"%d\n" % number, _BASE + number)
            await asyncio.sleep(0.01)
        log.close(_BASE)
        over.set()
        await asyncio.wait_for(task, 60)
        watcher.close()
        return found

    assert asyncio.run(work()) == b"".join(b"%d\n" % number for number in range(60))


def test_written_fast_enough(tmp_path: Path) -> None:
    """About 400 MB/s of ordinary lines on an idle machine; a loaded one gets a margin."""
    data = (
        b"2026-11-24 09:00:00 INFO some ordinary log line of about one hundred characters, no more\n" * 1400
    )
    log = open_log(plan(tmp_path / "log"))
    best = 0.0
    for _ in range(100):  # the machine may be busy with something else now and then
        began = time.process_time()
        for _ in range(16):
            log.write(1, data, _BASE)
        best = max(best, 16 * len(data) / (time.process_time() - began) / 1e6)
        if best > 150:
            break
    log.close(_BASE)
    assert best > 150


def test_a_full_disk_leaves_no_half_record(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root to mount")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], check=True)
    try:
        path = tmp_path / "log"
        log = open_log(plan(path))
        for number in range(20):
            log.write(1, b"%d\n" % number + b"x" * 9_000 + b"\n", _BASE + number)
        lines = collect(path).splitlines(keepends=True)
        assert lines[::2] == [b"%d\n" % number for number in range(len(lines) // 2)] and len(lines) >= 12
        os.truncate(path, 0)
        log.write(1, b"after\n", _BASE)
        log.close(_BASE)
        assert collect(path) == b"after\n"
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


# --- with an engine ---------------------------------------------------------------------------------------


def body(*command: str, **options: str) -> dict[str, Any]:
    config = {name.replace("_", "-"): value for name, value in options.items()}
    return {
        "Cmd": [*command],
        "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "local", "Config": config}},
    }


@pytest.mark.root
@pytest.mark.usefixtures("busybox")
def test_of_a_container(sampand: Daemon) -> None:
    script = "seq 1 3000; echo err >&2; printf unfinished"
    asked = body("sh", "-c", script, max_size="20k", max_file="3")
    with made(sampand, *asked.pop("Cmd"), **asked) as container:
        sampand.json("POST", f"/containers/{container}/wait")
        found = sampand.json("GET", f"/containers/{container}/json")
        assert found["LogPath"] == ""
        text = output(sampand, container)
        kept = [int(line) for line in text.splitlines() if line.isdigit()]
        assert kept == list(range(kept[0], 3001)) and kept[0] > 1
        assert text.count("err\n") == 1 and "unfinished" in text


@pytest.mark.root
@pytest.mark.usefixtures("busybox")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_size": "x"}, "invalid value for max-size: x: invalid size: 'x'"),
        ({"max_file": "x"}, 'invalid value for max-file: x: strconv.Atoi: parsing "x": invalid syntax'),
        ({"max_file": "-1"}, "max file count cannot be less than 0"),
        ({"max_file": "1"}, "compression cannot be enabled when max file count is 1"),
        ({"max_file": "1", "compress": "true"}, "compression cannot be enabled when max file count is 1"),
        (
            {"compress": "maybe"},
            'error reading compress log option: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
    ],
)
def test_options_that_mean_nothing(sampand: Daemon, options: dict[str, str], message: str) -> None:
    asked = body("true", **options)
    with made(sampand, *asked.pop("Cmd"), start=False, **asked) as container:
        status, _, data = sampand.api("POST", f"/containers/{container}/start")
        assert status == 500
        prefix = "failed to create task for container: failed to initialize logging driver: "
        assert json.loads(data)["message"] == prefix + message


# --- beside dockerd ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Its DOCKER_HOST and folder."""
    if os.geteuid() or not shutil.which("dockerd") or not shutil.which("docker"):
        pytest.skip("needs root, dockerd and docker")
    folder = tmp_path_factory.mktemp("dd")
    with running_dockerd(folder) as host:
        yield host, folder


def docker(host: str, *arguments: str, given_: bytes = b"") -> tuple[bytes, bytes]:
    done = subprocess.run(
        ["docker", *arguments],
        input=given_,
        capture_output=True,
        check=True,
        env={**os.environ, "DOCKER_HOST": host},
    )
    return done.stdout, done.stderr


@pytest.mark.root
def test_dockerd_reads_ours_and_we_read_dockerds(dockerd: tuple[str, Path], tmp_path: Path) -> None:
    host, folder = dockerd
    docker(host, "import", "-", "busybox", given_=busybox_tar())
    script = r"""i=0; while [ $i -lt 400 ]; do echo "line $i"; i=$((i+1)); done; head -c 40000 /dev/zero | tr '\0' y; echo
        printf 'b\377\200\n\n'; printf unfinished; sleep .1; echo err >&2"""
    name, _ = docker(
        host, "run", "-d", "--log-driver", "local", "--network", "none", "busybox", "sh", "-c", script
    )
    container = name.decode().strip()
    docker(host, "wait", container)
    out, err = docker(host, "logs", container)
    theirs = folder / f"root/containers/{container}/local-logs/container.log"
    got = frames(collect(theirs, tty=False))
    # Docker's reader forgets the newline after a line over 16 KiB.
    out = out.replace(b"yb", b"y\nb")
    assert b"".join(text for stream, text in got if stream == 1) == out and out.endswith(b"unfinished")
    assert b"".join(text for stream, text in got if stream == 2) == err == b"err\n"
    stamped = docker(host, "logs", "-t", "--tail", "3", container)[0].split()
    assert collect(theirs, timestamps=True, tail=3, stderr=False).split() == stamped

    ours = tmp_path / "log"
    log = open_log(plan(ours))
    log.write(1, out.removesuffix(b"unfinished"), _BASE)
    log.write(1, b"unfin", _BASE + 1)
    log.flush(_BASE + 2)
    log.write(2, b"err\n", _BASE + 3)
    log.write(1, b"ished\n", _BASE + 4)
    log.close(_BASE)
    shutil.copyfile(ours, theirs)
    assert docker(host, "logs", container) == (out.replace(b"y\nb", b"yb"), b"err\n")
    assert docker(host, "logs", "--tail", "2", container)[1] == b"err\n"


def test_compressed_files_are_gzip(tmp_path: Path) -> None:
    path = tmp_path / "log"
    write(path, [(1, 0, b"x\n" * 500)], max_size=5_000, max_file=3, compress=True)
    with gzip.open(tmp_path / "log.1.gz") as packed:
        assert packed.read(8)[4:] == b"\n\6st"
    files = LogFiles(path, None)
    assert b"".join(iter(files.read, b"")).count(b"stdout") == 500
    files.close()
