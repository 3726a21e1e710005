"""Runs of records come out as the records one by one do."""

from __future__ import annotations

import json
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.engine.containers import logruns
from sampan.engine.containers.logs import Formatter, LogOptions
from sampan.engine.containers.timestamps import parse_rfc3339
from sampan.runtime import logformat

_BASE = 1_700_000_000_000_000_000
_LINES = st.one_of(
    st.text(max_size=12).map(str.encode),
    st.sampled_from([b"plain", b"x" * 300, b'say "hi"', b"tab\t<a>&", b"\\", b"a\\n", b"\\\\n", b'{"log":"']),
    st.binary(max_size=6),
)
Write = tuple[int, int, list[bytes], bool]
"""Stream, second, lines, whether the last one is whole."""
_WRITES = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 1, 2]),
        st.integers(0, 2),
        st.lists(_LINES, min_size=1, max_size=30),
        st.booleans(),
    ),
    max_size=8,
)


def written(writes: list[Write], attributes: bytes = b"") -> bytes:
    """What the monitor's log has after these writes, in the order of their times."""
    records = b""
    for stream, second, lines, whole in sorted(writes, key=lambda write: write[1]):
        stamp = logformat.timestamp(_BASE + second * 1_000_000_000)
        text = b"\n".join(lines) + (b"\n" if whole else b"")
        if text:
            records += b"".join(logformat.json_records(text, stream, attributes, stamp))
    return records


def one_by_one(block: bytes, since_ns: int, timestamps: bool) -> dict[int, bytes]:
    """The text of both streams, by the json module and a plain loop."""
    found = {1: b"", 2: b""}
    open_line = {1: False, 2: False}
    for raw in block.split(b"\n")[:-1]:
        record = json.loads(raw)
        stream, text = {"stdout": 1, "stderr": 2}[record["stream"]], record["log"]
        if parse_rfc3339(record["time"]) < since_ns:
            continue
        prefix = f"{record['time'][:19]}.000000000Z " if timestamps and not open_line[stream] else ""
        open_line[stream] = not text.endswith("\n")
        found[stream] += (prefix + text).encode()
    return found


def frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        stream, size = struct.unpack_from(">BxxxI", data)
        found.append((stream, data[8 : 8 + size]))
        data = data[8 + size :]
    return found


@given(_WRITES, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0, 1]))
@settings(max_examples=300, deadline=None)
def test_runs_read_as_records_do(
    writes: list[Write], attributes: bool, timestamps: bool, merge: bool, second: int
) -> None:
    attrs = {"stream": "x\n", "time": "y"} if attributes else {}
    block = written(writes, logformat.json_attributes(attrs))
    since_ns = _BASE + second * 1_000_000_000
    options = LogOptions(timestamps=timestamps, merge=merge, since_ns=since_ns)
    out = frames(Formatter(options, tty=False).format(block))
    expected = one_by_one(block, since_ns, timestamps)
    for stream in (1, 2):
        assert b"".join(text for number, text in out if number == stream) == expected[stream]
    if not merge:
        assert all(b"\n" not in text[:-1] for _, text in out)


def test_runs_are_found() -> None:
    block = written([(1, 0, [b'line "%d"' % number for number in range(20_000)], True)])
    parts = list(logruns.split(block))
    assert all(isinstance(part, logruns.Run) for part in parts)
    assert len(parts) < 15
    assert len(frames(Formatter(LogOptions(merge=True), tty=False).format(block))) == len(parts)


def test_a_torn_record_in_a_run_loses_only_itself() -> None:
    good = written([(1, 0, [b"line"] * 40, True)])
    lines = good.splitlines(keepends=True)
    torn = b"".join(lines[:20]) + lines[20][:11] + b"".join(lines[20:])
    assert Formatter(LogOptions(), tty=True).format(torn) == b"line\n" * 40
