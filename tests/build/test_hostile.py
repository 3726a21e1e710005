"""Contexts, Dockerfiles and ignore files that mean harm, or are only broken: no crash, no hang, nothing outside."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.build.context import Context
from sampan.build.copytree import Copier
from sampan.build.grammar import read_dockerfile
from sampan.build.ignore import Ignore
from sampan.build.options import BuildOptions, native
from sampan.build.plan import make_plan
from sampan.build.rootfs import RootFs
from sampan.build.trees import expand_glob, scan
from sampan.errors import SampanError

from .conftest import Bench

KINDS = {
    "f": tarfile.REGTYPE,
    "d": tarfile.DIRTYPE,
    "s": tarfile.SYMTYPE,
    "h": tarfile.LNKTYPE,
    "p": tarfile.FIFOTYPE,
}
PARTS = st.sampled_from(["a", "b", "..", ".", "", "c", "\x01", "é", "x" * 300, "-rf", "a b", "\n"])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)
MEMBERS = st.lists(
    st.tuples(
        PATHS,
        st.sampled_from("ffddsh" + "p"),
        PATHS | st.sampled_from(["/etc/passwd", "../../../../etc", "/proc/self/root/etc", "/"]),
        st.sampled_from([0, 0o644, 0o4755, 0o7777]),
    ),
    max_size=8,
)


def archive(members: list[tuple[str, str, str, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, link, mode in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = KINDS[kind], link if kind in "sh" else "", mode
            data = b"content" if kind == "f" else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def outside(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not str(path).startswith(str(folder / "c"))
    )


def snapshot() -> tuple[Any, ...]:
    return tuple((name, os.lstat(name).st_mtime_ns) for name in ("/etc", "/etc/passwd", "/", "/tmp/.."))


@pytest.mark.parametrize("in_memory", [True, False])
@settings(max_examples=60, deadline=None)
@given(MEMBERS, PATHS, st.sampled_from(["*", "**", "a*", "**/a", "[", "a/*/b"]))
def test_any_archive_stays_inside(in_memory: bool, members: list[Any], source: str, pattern: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        stays_inside(Path(folder), in_memory, members, source, pattern)


def stays_inside(folder: Path, in_memory: bool, members: list[Any], source: str, pattern: str) -> None:
    before = snapshot()
    context = Context(folder / "c", None)
    try:
        with contextlib.suppress(SampanError):
            context.receive(io.BytesIO(archive(members)).read)
            if not in_memory:
                context.on_disk()
            context.apply_ignore("Dockerfile")
            for path in [source, *expand_glob(context.root(), pattern)[:3]]:
                found = scan(context.root(), path)
                assert all(not item.path.startswith(("/", "..")) for item in found.items)
                (folder / "c2").mkdir(exist_ok=True)
                copier = Copier(RootFs([], folder / "c2", folder / "c2"))
                with contextlib.suppress(SampanError):
                    copier.copy(found, "/x/")
                    copier.finish()
                copier.rootfs.close()
    finally:
        context.close()
    assert outside(folder) == [] and snapshot() == before
    assert b"root:" not in b"".join(
        p.read_bytes() for p in (folder / "c2").rglob("*") if not p.is_symlink() and p.is_file()
    )


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 2000), st.integers(0, 255))
def test_damaged_archives(noise: bytes, at: int, value: int) -> None:
    data = bytearray(archive([("a", "f", "", 0o644), ("d", "d", "", 0o755), ("d/l", "s", "../a", 0)]))
    data[at] = value
    for sent in (bytes(data), noise, bytes(data[:at]), b"\x1f\x8b\x08" + noise):
        context = Context(Path("/nonexistent/context"))
        try:
            context.receive(io.BytesIO(sent).read)
            context.read("Dockerfile")
        except SampanError as error:
            assert error.status in (400, 500)
        finally:
            context.close()


def test_deep_and_long_names(bench: Bench) -> None:
    deep = "d/" * 700 + "f"
    cases: list[dict[str, Any]] = [
        {"Dockerfile": "FROM base\nCOPY . /x\n", deep: "x"},
        {"Dockerfile": "FROM base\nCOPY d /x\n", "d/" + "n" * 255: "x"},
        {"Dockerfile": "FROM base\nCOPY . /x\n", ".dockerignore": "d\n!**/f\n", deep: "x"},
        {"Dockerfile": "FROM base\nCOPY . /x\n", "Dockerfile.dockerignore": "d\n!**/f\n", deep: "x"},
        {"Dockerfile": "FROM base\nCOPY --parents **/f /x\n", deep: "x"},
        {"Dockerfile": "FROM base\nADD " + "a/" * 3000 + " /x\n"},
        {"Dockerfile": "FROM base\nWORKDIR " + "a/" * 3000 + "\n"},
        {"Dockerfile": "FROM base\nCOPY Dockerfile /" + "n" * 300 + "\n"},
        {"Dockerfile": "FROM base\nCOPY Dockerfile /\0x\n"},
    ]
    for files in cases:
        with contextlib.suppress(SampanError):
            for one in asyncio.run(bench.build(files)):
                assert "internal error" not in str(one.get("error"))


@pytest.mark.parametrize(
    ("files", "copy"),
    [
        ({"l": ("/etc/passwd",)}, "l"),
        ({"l": ("../../../../../../../etc",)}, "l/passwd"),
        ({"l": ("/proc/self/root/etc/passwd",)}, "l"),
        ({"a": ("b",), "b": ("a",)}, "a"),
        ({"l": ("nowhere",)}, "l"),
    ],
)
def test_links_that_lead_out_or_nowhere(bench: Bench, files: dict[str, Any], copy: str) -> None:
    with pytest.raises(SampanError) as caught:
        asyncio.run(bench.build({"Dockerfile": f"FROM base\nCOPY {copy} /x\n", **files}))
    assert "file not found in build context" in caught.value.message, caught.value.message
    assert copy != "l" or caught.value.hint.endswith("l is a symbolic link to what the context has not.")


def test_dangling_links_are_copied_and_written_through(bench: Bench) -> None:
    """As links they are copied; a copy onto one goes where it leads, inside the image."""
    files = {
        "d/l": ("/gone/there",),
        "f": "x",
        "Dockerfile": "FROM base\nCOPY d /d\nCOPY f /d/l\nCOPY d /e/\nCOPY d /e/\n",
    }
    asyncio.run(bench.build(files, tags=["t"]))
    found = bench.files("t")
    assert found["e/l"][3] == "/gone/there"
    assert found["d/l"][3] == "x" or found["gone/there"][3] == "x"
    asyncio.run(
        bench.build(
            {"d/x": "1", "l": ("/nodir",), "Dockerfile": "FROM base\nCOPY . /\nCOPY d /l/sub/\n"}, tags=["u"]
        )
    )
    assert bench.files("u")["nodir/sub/x"][3] == "1"


WORDS = st.sampled_from(
    [
        *(
            "FROM",
            "from",
            "a",
            "AS",
            "b",
            "\n",
            "\n",
            "\n",
            "COPY",
            "--from=b",
            "ADD",
            "RUN",
            "ARG",
            "ENV",
            "x=1",
            "$x",
            "${x:-y}",
        ),
        *(
            "<<EOF",
            "EOF",
            "\\\n",
            '["a"]',
            '["a',
            '"',
            "'",
            "--mount=type=bind",
            "--mount=type=cache,target=/c",
            "ONBUILD",
            "#",
            "`",
        ),
        *(
            "HEALTHCHECK",
            "CMD",
            "--interval=1s",
            "SHELL",
            "${",
            "}",
            "\t",
            "\r\n",
            "/",
            ".",
            "--chmod=u+x",
            "--",
            "LABEL",
            "=",
            "\x00",
        ),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=30).map(" ".join))
def test_any_dockerfile_is_planned_or_refused(text: str) -> None:
    try:
        file = read_dockerfile(b"FROM base\n" + text.encode())
        make_plan(file, BuildOptions(args={"x": "$x"}), native())
    except SampanError as error:
        assert error.status == 400 and error.message


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_as_a_dockerfile(data: bytes) -> None:
    with contextlib.suppress(SampanError):
        read_dockerfile(data)
    with contextlib.suppress(SampanError):
        assert Ignore.parse(data).excludes("a/b") in (True, False)
