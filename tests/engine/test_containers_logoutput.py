"""What readers of a json-file log get: the same as from decoding each record by itself."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.containers.logoutput import Formatter, LogOptions
from sampan.engine.containers.timestamps import parse_rfc3339, rfc3339
from sampan.runtime import logformat
from tests.frames import frames

_BASE = 1_700_000_000_000_000_000
_STEP = 250_000_000  # ns: fractions of two, one and no digits
_LINES = st.one_of(
    st.text(max_size=12).map(str.encode),
    st.sampled_from([b"plain", b"x" * 300, b'say "hi"', b"tab\t<a>&", b"\\", b"a\\n", b"\\\\n", b'{"log":"']),
    st.binary(max_size=6),
)
Write = tuple[int, int, list[bytes], bool]
"""Stream, time in steps, lines, whether the last one is whole."""
_WRITES = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 2]),
        st.integers(0, 8),
        st.lists(_LINES, min_size=1, max_size=30),
        st.booleans(),
    ),
    max_size=8,
)
Frame = tuple[int, bytes]


def written(writes: list[Write], attributes: bytes = b"") -> bytes:
    """What the monitor's log has after these writes, in the order of their times."""
    records = b""
    for stream, step, lines, whole in sorted(writes, key=lambda write: write[1]):
        stamp = logformat.timestamp(_BASE + step * _STEP)
        text = b"\n".join(lines) + (b"\n" if whole else b"")
        if text:
            records += b"".join(logformat.json_records(text, stream, attributes, stamp))
    return records


def one_by_one(block: bytes, options: LogOptions) -> list[Frame]:
    """The frames, by the json module and a plain loop."""
    found = []
    open_line = {"stdout": False, "stderr": False}
    for raw in block.split(b"\n")[:-1]:
        record = json.loads(raw)
        stream, text = record["stream"], record["log"]
        when = parse_rfc3339(record["time"])
        if options.until_ns and when > options.until_ns:
            break
        if when < options.since_ns or not getattr(options, stream):
            continue
        prefix = ""
        if options.timestamps:
            prefix = f"{record['time'][:19]}.{when % 10**9:09d}Z "
        if options.details:
            prefix += "stream=x%0A,time=y " if "attrs" in record else " "
        found.append(
            ({"stdout": 1, "stderr": 2}[stream], (text if open_line[stream] else prefix + text).encode())
        )
        open_line[stream] = not text.endswith("\n")
    return found


_TIMES = st.sampled_from([0, *(_BASE + half * _STEP // 2 for half in range(18))])
_OPTIONS = st.builds(
    LogOptions,
    stdout=st.booleans(),
    stderr=st.booleans(),
    timestamps=st.booleans(),
    details=st.booleans(),
    since_ns=_TIMES,
    until_ns=_TIMES,
    merge=st.booleans(),
)


@given(_WRITES, st.booleans(), _OPTIONS)
@settings(max_examples=400, deadline=None)
def test_a_block_reads_as_its_records_do(writes: list[Write], attributes: bool, options: LogOptions) -> None:
    attrs = {"stream": "x\n", "time": "y"} if attributes else {}
    block = written(writes, logformat.json_attributes(attrs))
    expected = one_by_one(block, options)
    assert Formatter(options, tty=True).format(block) == b"".join(text for _, text in expected)
    if options.merge:
        runs = groupby(expected, lambda frame: frame[0])
        expected = [(stream, b"".join(text for _, text in run)) for stream, run in runs]
    assert frames(Formatter(options, tty=False).format(block)) == expected


def record(**members: Any) -> bytes:
    return json.dumps(members).encode() + b"\n"


def test_records_of_other_writers() -> None:
    stamp = rfc3339(_BASE)
    block = (
        record(time=stamp, stream="stderr", log="order\n")
        + record(log="more\n", stream="stdout", time=stamp, other={"a": ["\n"]})
        + record(log="ünï\n", stream="stdout", time=stamp)
        + record(log="null\n", stream="stdout", attrs=None, time=stamp)
        + b"\n"
    )
    out = frames(Formatter(LogOptions(merge=True), tty=False).format(block))
    assert out == [(2, b"order\n"), (1, "more\nünï\nnull\n".encode())]


@pytest.mark.parametrize(
    ("stamp", "shown"),
    [
        ("2023-11-14T22:13:20Z", True),
        ("2023-11-14T22:13:20.000Z", True),
        ("2023-11-14T23:13:20+01:00", True),
        ("2023-11-14T22:13:20.000000001Z", False),
        ("2023-11-14T22:13:20.100Z", False),
        ("2023-11-14T23:13:19+01:00", False),
        ("2023-11-14T22:13:19.999999999Z", False),
        ("no time", False),
    ],
)
def test_times_are_compared_as_times(stamp: str, shown: bool) -> None:
    block = record(log="x\n", stream="stdout", time=stamp)
    options = LogOptions(since_ns=_BASE, until_ns=_BASE)
    assert Formatter(options, tty=True).format(block) == (b"x\n" if shown else b"")


@pytest.mark.parametrize("bound", [-(10**30), -1, 1, 10**30])
def test_bounds_far_away(bound: int) -> None:
    block = record(log="x\n", stream="stdout", time=rfc3339(_BASE))
    for name in ("since_ns", "until_ns"):
        shown = Formatter(LogOptions(**{name: bound}), tty=True).format(block)  # type: ignore[arg-type]
        assert shown == (b"x\n" if (name == "since_ns") == (bound < _BASE) else b"")


def test_a_torn_record_in_a_run_loses_only_itself() -> None:
    good = written([(1, 0, [b"line"] * 40, True)])
    lines = good.splitlines(keepends=True)
    torn = b"".join(lines[:20]) + lines[20][:11] + b"".join(lines[20:])
    assert Formatter(LogOptions(), tty=True).format(torn) == b"line\n" * 40


def test_bytes_that_are_no_text_are_replaced() -> None:
    block = record(log="a\n") + record(log="x\n").replace(b"x", b"\xff\xfe") + record(log="b\n")
    assert Formatter(LogOptions(), tty=True).format(block) == "a\n��\nb\n".encode()
