"""Logs: from the end, across rotated files, by time, while they are written."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.containers.logfiles import LogFiles
from sampan.engine.containers.logoutput import LogOptions
from sampan.engine.containers.logs import read
from sampan.engine.containers.timestamps import parse_rfc3339, rfc3339
from sampan.engine.containers.watch import Watcher
from sampan.runtime.logwriter import open_log


def record(text: str, second: int = 0, stream: str = "stdout") -> bytes:
    stamp = rfc3339(1_700_000_000_000_000_000 + second * 1_000_000_000)
    return json.dumps({"log": text, "stream": stream, "time": stamp}).encode() + b"\n"


@pytest.mark.parametrize("compress", [False, True])
def test_following_a_busy_writer_through_rotation(tmp_path: Path, compress: bool) -> None:
    path = tmp_path / "x.log"
    log = open_log(
        {"driver": "json-file", "path": str(path), "max_size": 2_000, "max_file": 99, "compress": compress}
    )
    log.write(1, b"0\n", 1)

    async def work() -> bytes:
        watcher, over = Watcher(), asyncio.Event()
        found = b""

        async def follow() -> None:
            nonlocal found
            async for chunk in read(
                path, LogOptions(follow=True), tty=True, watcher=watcher, ended=over.wait
            ):
                found += chunk

        def print_lines() -> None:
            for number in range(1, 900, 3):
                log.write(1, b"%d\n%d\n%d\n" % (number, number + 1, number + 2), number + 1)
                time.sleep(0.001)
            log.close(1)

        task = asyncio.create_task(follow())
        await asyncio.to_thread(print_lines)
        over.set()
        await asyncio.wait_for(task, 60)
        watcher.close()
        return found

    assert asyncio.run(work()) == b"".join(b"%d\n" % number for number in range(901))


async def collect(path: Path, options: LogOptions, tty: bool = True) -> bytes:
    watcher = Watcher()
    found = b""
    async for chunk in read(path, options, tty=tty, watcher=watcher):
        found += chunk
    return found


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 100))
@settings(deadline=None)
def test_tail_counts_lines_over_all_files(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], tail: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "x.log"
    number = 0
    texts = []
    for index, size in reversed(list(enumerate(sizes))):
        lines = b""
        for _ in range(size):
            texts.append(f"line {number}\n")
            lines += record(texts[-1])
            number += 1
        name = path if index == 0 else path.with_name(f"x.log.{index}")
        if index == 2:
            Path(f"{name}.gz").write_bytes(gzip.compress(lines))
        else:
            name.write_bytes(lines)
    expected = "".join(texts[-tail:] if tail else [])
    assert asyncio.run(collect(path, LogOptions(tail=tail))).decode() == expected


def test_since_and_until(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"".join(record(f"{i}\n", i) for i in range(10)))
    base = 1_700_000_000_000_000_000
    options = LogOptions(since_ns=base + 3_000_000_000, until_ns=base + 5_000_000_000)
    assert asyncio.run(collect(path, options)) == b"3\n4\n5\n"


def test_frames_and_timestamps(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(record("part ") + record("rest\n", 1) + record("e\n", 2, "stderr"))
    out = asyncio.run(collect(path, LogOptions(timestamps=True), tty=False))
    stamp = b"2023-11-14T22:13:20.000000000Z "
    first = stamp + b"part "
    assert out.startswith(b"\x01\0\0\0" + len(first).to_bytes(4, "big") + first)
    # No time in the middle of a line.
    assert b"\x01\0\0\0\0\0\0\x05rest\n" in out
    assert b"\x02\0\0\0" in out


def test_a_torn_record_loses_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(record("one\n") + b'{"log":"torn' + record("two\n") + record("three\n"))
    assert asyncio.run(collect(path, LogOptions())) == b"one\ntwo\nthree\n"


def test_following_through_rotation_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(record("0\n"))

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
            if number % 7 == 0:
                for old in (2, 1):
                    name = path.with_name(f"x.log.{old}")
                    if name.exists():
                        name.rename(path.with_name(f"x.log.{old + 1}"))
                path.rename(path.with_name("x.log.1"))
            with open(path, "ab") as file:
                file.write(record(f"{number}\n"))
            await asyncio.sleep(0.005)
        over.set()
        await asyncio.wait_for(task, 60)
        watcher.close()
        return found

    assert asyncio.run(work()) == b"".join(b"%d\n" % number for number in range(60))


@given(st.integers(1, 4_000_000_000_000_000_000))
def test_times_survive_being_written(ns: int) -> None:
    assert parse_rfc3339(rfc3339(ns)) == ns


def test_the_cursor_closes_its_files(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(record("x\n") * 3)
    before = len(os.listdir("/proc/self/fd"))
    files = LogFiles(path, 1)
    assert files.read().count(b"\n") == 1
    files.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_log_that_is_open_is_read_to_its_end_when_its_container_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "box" / "x.log"
    path.parent.mkdir()
    path.write_bytes(record("x\n"))

    async def follow() -> bytes:
        watcher, over = Watcher(), asyncio.Event()
        reading = read(path, LogOptions(follow=True), tty=True, watcher=watcher, ended=over.wait)
        assert await anext(reading) == b""
        shutil.rmtree(path.parent)
        over.set()
        return b"".join([chunk async for chunk in reading])

    assert asyncio.run(follow()) == b"x\n"


def test_a_reader_that_leaves_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(record("x" * 1000 + "\n") * 5000)

    async def leave() -> int:
        before = len(os.listdir("/proc/self/fd"))
        reading = read(path, LogOptions(), tty=True, watcher=Watcher())
        assert await anext(reading) == b""
        assert (await anext(reading)).startswith(b"xxx")
        await reading.aclose()
        return len(os.listdir("/proc/self/fd")) - before

    assert asyncio.run(leave()) <= 0
