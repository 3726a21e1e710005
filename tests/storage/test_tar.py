"""The tar reader against GNU tar, Python's tarfile and generated input."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.storage import tar, tarwrite
from sampan.storage.tar import ArchiveError, Entry, TarReader

NAMES = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name and not name.endswith(b"/"))


class Kept:
    def __init__(self) -> None:
        self.data = b""

    def raw(self, data: bytes | memoryview) -> None:
        self.data += bytes(data)


def entries(archive: bytes, piece: int = 700) -> list[tuple[Entry, bytes]]:
    pieces = [archive[start : start + piece] for start in range(0, len(archive), piece)]
    reader = TarReader(pieces)
    return [(entry, b"".join(reader.payload())) for entry in reader]


@given(NAMES, st.binary(max_size=2000), st.integers(0, 2**40), st.integers(-(2**40), 2**40))
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read_back(name: bytes, data: bytes, uid: int, seconds: int) -> None:
    entry = Entry(name, tar.REGULAR)
    entry.size, entry.uid, entry.mode = len(data), uid, 0o4755
    entry.mtime_ns = seconds * 1_000_000_000
    entry.xattrs = {"user.x": b"\0\n=\xff"}
    archive = tarwrite.header(entry) + data + tarwrite.padding(len(data)) + tarwrite.END
    [(found, content)] = entries(archive)
    assert content == data
    assert (found.name, found.uid, found.mode, found.mtime_ns) == (name, uid, 0o4755, entry.mtime_ns)
    assert found.xattrs == entry.xattrs


@given(
    st.lists(st.tuples(st.text("abcß/", min_size=1, max_size=250), st.binary(max_size=1500)), max_size=5),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
@settings(max_examples=100, deadline=None)
def test_archives_of_tarfile_are_read(files: list[tuple[str, bytes]], kind: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid = len(data), 1234567890, 2**22
            archive.addfile(info, io.BytesIO(data))
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        expected = [(info.name.rstrip("/"), info.uid) for info in archive]
    found = entries(out.getvalue())
    assert [(entry.name.decode().rstrip("/"), entry.uid) for entry, _ in found] == expected
    # A name that ends in a slash means a directory, which has no payload in Go's eyes either.
    assert [content for entry, content in found if entry.type == tar.REGULAR] == [
        data for name, data in files if not name.endswith("/")
    ]


@given(st.binary(max_size=3000))
@settings(max_examples=200, deadline=None)
def test_junk_is_an_archive_error_or_nothing(junk: bytes) -> None:
    reader = TarReader([junk])
    try:
        for _ in reader:
            pass
    except ArchiveError as error:
        assert str(error) in ("unexpected EOF", "archive/tar: invalid tar header")


@given(st.integers(0, 511), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_header_never_passes_unnoticed(position: int, value: int) -> None:
    entry = Entry(b"some/name", tar.REGULAR)
    header = bytearray(tarwrite.header(entry))
    if header[position] == value or 148 <= position < 156:
        return
    header[position] = value
    with pytest.raises(ArchiveError):
        entries(bytes(header) + tarwrite.END)


def test_every_byte_is_recorded_or_payload() -> None:
    entry = Entry("ß".encode() * 100, tar.REGULAR)
    entry.size = 5
    head, tail = tarwrite.header(entry), tarwrite.padding(5) + tarwrite.END + b"\0" * 700
    kept = Kept()
    reader = TarReader([head + b"hello" + tail], kept)
    for _ in reader:
        assert b"".join(reader.payload()) == b"hello"
    reader.finish()
    assert kept.data == head + tail


SPARSE = ["--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"]


@pytest.mark.parametrize(
    "flags",
    [["--format=gnu"], *(["--format=posix", version] for version in SPARSE)],
    ids=lambda flags: flags[-1],
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, flags: list[str]) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for position in range(0, 40 << 20, 1 << 20):
            file.seek(position)
            file.write(b"%d" % position)
        file.truncate(50 << 20)
    archive = tmp_path / "a.tar"
    subprocess.run(["tar", *flags, "--sparse", "-cf", archive, "-C", tmp_path, "sparse"], check=True)
    assert archive.stat().st_size < 2 << 20
    [(entry, content)] = entries(archive.read_bytes(), 1 << 16)
    assert entry.name == b"sparse"
    assert entry.real_size == 50 << 20
    rebuilt = bytearray(entry.real_size)
    at = 0
    for offset, length in entry.sparse or ():
        rebuilt[offset : offset + length] = content[at : at + length]
        at += length
    assert bytes(rebuilt) == (tmp_path / "sparse").read_bytes()


def test_old_formats_of_gnu_tar(tmp_path: Path) -> None:
    os.makedirs(tmp_path / "d")
    (tmp_path / "d" / "f").write_bytes(b"x")
    for kind in ("v7", "oldgnu", "gnu", "ustar", "posix"):
        subprocess.run(["tar", f"--format={kind}", "-cf", tmp_path / "a", "-C", tmp_path, "d"], check=True)
        found = entries((tmp_path / "a").read_bytes())
        assert [(entry.name.rstrip(b"/"), entry.type) for entry, _ in found] == [
            (b"d", tar.DIRECTORY),
            (b"d/f", tar.REGULAR),
        ], kind
