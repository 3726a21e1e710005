from __future__ import annotations

import asyncio
import contextlib
import io
import os
import tarfile
import time

import pytest

from sampan.build.context import Context
from sampan.build.failure import BuildFailed
from sampan.engine.buildcache import Choice
from sampan.errors import SampanError

from .conftest import Bench, tar_of


def text_of(objects: list[dict]) -> str:
    return "".join(one.get("stream", "") for one in objects)


def test_copy_forms(bench: Bench) -> None:
    dockerfile = """FROM base
WORKDIR /w
COPY d /dir
COPY a1 a2 /many/
COPY ["a1", "/name with space"]
COPY d/link /ln
COPY --chown=bin --chmod=u=rwX,go= a2 /owned
COPY a1 .
COPY <<EOF /doc
hello $PATH "q"
EOF
ADD t.tar /un/
"""
    files = {"Dockerfile": dockerfile, "a1": "1", "a2": "2", "d/sub/f": "f", "d/link": ("sub/f",)}
    files["t.tar"] = tar_of({"in/x": "x"})
    asyncio.run(bench.build(files, tags=["t"]))
    found = bench.files("t")
    assert found["dir/link"][3] == "sub/f"
    assert found["ln"] == (0o644, 0, 0, "f")
    assert found["owned"] == (0o600, 2, 3, "2")
    assert found["many/a1"][3] == "1" and found["w/a1"][3] == "1" and found["name with space"][3] == "1"
    assert found["doc"][3] == 'hello /bin "q"\n'
    assert found["un/in/x"][3] == "x"
    assert os.listdir(bench.root / "build") == []


def test_cache_goes_by_content_and_explains_itself(bench: Bench) -> None:
    files = {"Dockerfile": "FROM base\nCOPY f /f\nENV A=1\n", "f": "one"}
    asyncio.run(bench.build(files, tags=["t"]))
    first = bench.images.get("t").id
    again = asyncio.run(bench.build(files, tags=["t"], mtime=1_200_000_000))
    assert text_of(again).count("Using cache") == 2
    assert bench.images.get("t").id == first
    files["f"] = "two"
    changed = asyncio.run(bench.build(files, tags=["t"], why=True))
    reasons = [one["aux"]["Reasons"] for one in changed if one.get("id") == "sampan.why"]
    assert reasons[0] == ["file f changed"]


def test_only_needed_stages(bench: Bench) -> None:
    dockerfile = (
        "FROM base AS a\nCOPY f /a\nFROM base AS unused\nCOPY nosuch /x\nFROM base\nCOPY --from=a /a /b\n"
    )
    objects = asyncio.run(bench.build({"Dockerfile": dockerfile, "f": "x"}, tags=["t"]))
    assert "Step 4/4 : COPY --from=a /a /b" in text_of(objects)
    assert bench.files("t")["b"][3] == "x"


def test_epoch_gives_the_same_image(bench: Bench) -> None:
    files = {"Dockerfile": "FROM base\nCOPY f /d/f\nENV A=1\n", "f": "x"}
    ids = []
    for _ in range(2):
        asyncio.run(bench.build(files, tags=["t"], args={"SOURCE_DATE_EPOCH": "1000"}, no_cache=True))
        ids.append(bench.images.get("t").id)
    assert ids[0] == ids[1]


def test_squash(bench: Bench) -> None:
    files = {"Dockerfile": "FROM base\nCOPY f /a\nCOPY f /b\n", "f": "x"}
    asyncio.run(bench.build(files, tags=["t"], squash=True))
    assert len(bench.images.get("t").layers) == 2
    assert sorted(bench.files("t")) == ["a", "b"]


@pytest.mark.parametrize(
    ("dockerfile", "message"),
    [
        (
            "FROM base\nCOPY nosuch /x\n",
            "COPY failed: file not found in build context or excluded by .dockerignore: "
            "stat nosuch: file does not exist",
        ),
        ("FROM base\nCOPY nosuch* /x/\n", "COPY failed: no source files were specified"),
        (
            "FROM base\nCOPY ../etc/passwd /y\n",
            "COPY failed: forbidden path outside the build context: ../etc/passwd ()",
        ),
        (
            "FROM base\nCOPY Dockerfile f /file\n",
            "When using COPY with more than one source file, the destination must be "
            "a directory and end with a /",
        ),
        (
            "FROM base AS a\nFROM base\nCOPY --from=a /nosuch /y\n",
            "COPY failed: stat nosuch: file does not exist",
        ),
        ("FROM scratch\n", "No image was generated. Is your Dockerfile empty?"),
        ("FROM base\nEXPOSE nonsense\n", "invalid containerPort: nonsense"),
        ("FROM base\nSTOPSIGNAL NOSUCH\n", "invalid signal: NOSUCH"),
        ("FROM ${NOSUCH}\n", "base name (${NOSUCH}) should not be blank"),
        ("FROM base AS a\nFROM base AS a\n", "a stage name already used"),
    ],
)
def test_failures_in_dockerds_words(bench: Bench, dockerfile: str, message: str) -> None:
    with pytest.raises(SampanError) as caught:
        asyncio.run(bench.build({"Dockerfile": dockerfile, "f": "x"}))
    assert caught.value.message == message


def test_hostile_context_stays_inside(bench: Bench, tmp_path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, link in (("l", str(outside)), ("m", "../../../../../../etc")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info)
        for name in ("l/x", "../../esc", "m/y"):
            tar.addfile(tarfile.TarInfo(name))
    context = Context(tmp_path / "context")
    with contextlib.suppress(SampanError):
        context.receive(io.BytesIO(buffer.getvalue()).read)
    context.close()
    assert os.listdir(outside) == [] and not os.path.exists("/etc/y") and not (tmp_path / "esc").exists()
    with pytest.raises(BuildFailed):
        asyncio.run(bench.build({"Dockerfile": "FROM base\nCOPY p /p\n", "p": ("/etc/hostname",)}))


def test_cache_is_bounded_least_recently_used_first(bench: Bench) -> None:
    files = {
        "Dockerfile": "FROM base\nCOPY big /big\nCOPY small /small\n",
        "big": "x" * 100_000,
        "small": "y",
    }
    asyncio.run(bench.build(files))
    again = asyncio.run(bench.build({**files, "Dockerfile": "FROM base\nCOPY big /big\n"}))
    assert text_of(again).count("Using cache") == 1
    kept, now = bench.builder.kept, time.time()
    assert kept.trim(now, max_size=150_000) == []
    (gone,) = kept.trim(now, max_size=100_000)
    assert gone.size == 1 and [entry.size for entry in kept.entries()] == [100_000]
    mount = bench.builder.mounts.root / "m"
    mount.mkdir(parents=True)
    (mount / "f").write_bytes(b"x" * 200_000)
    os.utime(mount, (1, 1))
    (gone,) = kept.trim(now, max_size=250_000, max_age=now)
    assert gone.id == "m" and gone.type == "exec.cachemount" and not mount.exists()
    assert len(kept.trim(now, max_size=1 << 30, max_age=-1)) == 1 and kept.entries() == []


def test_how_much_of_the_cache_may_stay() -> None:
    assert Choice().stays(100, 50) is None
    assert Choice(reserved=30).stays(100, 50) == 30
    assert Choice(most=60).stays(100, 50) == 60
    assert Choice(most=60, reserved=80).stays(100, 50) == 80
    assert Choice(free=70).stays(100, 50) == 80
    assert Choice(free=40).stays(100, 50) == 100
    assert Choice(free=500, reserved=10).stays(100, 50) == 10
