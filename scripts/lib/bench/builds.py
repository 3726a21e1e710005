"""Rows: builds."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from rows import row, timed

from engine import PROJECT, PYTHON_IMAGE, Engine, UnixConnection


def context(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tutorial() -> bytes:
    """The tutorial's context; its wheels come along, for the engines under test have no way out."""
    wheels = Path(os.environ.get("SAMPAN_CACHE", PROJECT / ".cache")) / "bench-wheels"
    if not wheels.exists():
        wheels.mkdir(parents=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "-d", str(wheels), "flask>=1.0.0"], check=True
        )
    dockerfile = (
        f"FROM {PYTHON_IMAGE}\nWORKDIR /app\nCOPY . /app\n"
        "RUN pip install --no-index --find-links wheels -r requirements.txt\n"
        'EXPOSE 5000\nCMD ["python", "app.py"]\n'
    )
    files = {
        "Dockerfile": dockerfile.encode(),
        "requirements.txt": b"flask>=1.0.0\n",
        "app.py": b"print('hello')\n",
    }
    files |= {f"wheels/{w.name}": w.read_bytes() for w in sorted(wheels.glob("*.whl"))}
    return context(files)


def build(e: Engine, tar: bytes, *args: str) -> float:
    return timed(lambda: e.docker("build", "-q", "-t", "bench", *args, "-", input=tar))


@row("tutorial build, no cache", "ms", "≤ 0.8 ×", 3)
def build_tutorial(e: Engine) -> float:
    return build(e, tutorial(), "--no-cache")


@row("tutorial build, cached", "ms", "≤ 15 ms, ≤ 0.4 ×", 5)
def build_cached(e: Engine) -> float:
    build(e, tutorial())
    return build(e, tutorial())


def post(e: Engine, tar: bytes) -> None:
    """The same request as the client's, by a bare HTTP client: what is left is the engine."""
    connection = UnixConnection(e.socket)
    connection.request(
        "POST", "/v1.41/build?q=1&rm=1&t=bench", body=tar, headers={"Content-Type": "application/x-tar"}
    )
    answer = connection.getresponse().read()
    connection.close()
    if b"sha256:" not in answer or b'"error"' in answer:
        raise SystemExit(f"{e.name}: {answer.decode('utf-8', 'replace')}")


@row("tutorial build, cached, by bare HTTP", "ms", "≤ 15 ms, ≤ 0.4 ×", 7)
def build_cached_api(e: Engine) -> float:
    tar = tutorial()
    post(e, tar)
    return timed(lambda: post(e, tar))


@row("build: COPY of 2,000 small files", "ms", "≤ 0.6 ×", 3)
def copy_small(e: Engine) -> float:
    files = {"Dockerfile": b"FROM busybox\nCOPY . /data\n"}
    files |= {f"d{i % 50}/f{i}": os.urandom(200) for i in range(2000)}
    return build(e, context(files), "--no-cache")


@row("build: COPY of 500 MB", "ms", "≤ 0.8 ×", 1)
def copy_big(e: Engine) -> float:
    return build(
        e,
        context({"Dockerfile": b"FROM busybox\nCOPY . /data\n", "big": os.urandom(500_000_000)}),
        "--no-cache",
    )


@row("build: ten RUN true", "ms", "≤ 0.2 ×", 2)
def run_steps(e: Engine) -> float:
    return build(e, context({"Dockerfile": b"FROM busybox\n" + b"RUN true\n" * 10}), "--no-cache")


@row("build: context of 20,000 files, most of them ignored", "ms", "≤ 0.8 ×", 3)
def ignored_context(e: Engine) -> float:
    top = e.dir / "ignored"
    if not top.exists():
        for folder in range(200):
            inner = top / "node_modules" / f"m{folder}" / "lib"
            inner.mkdir(parents=True)
            for number in range(99):
                (inner / f"f{number}.js").write_bytes(b"x" * 100)
        for number in range(200):
            (top / f"s{number}").write_bytes(b"y" * 100)
        (top / ".dockerignore").write_text("**/node_modules\n*.log\n")
        (top / "Dockerfile").write_text("FROM busybox\nCOPY . /data\n")
    return timed(lambda: e.docker("build", "-q", "--no-cache", "-t", "bench", str(top)))


@row("build: four stages, each RUN sleep 1", "ms", "< 1500 ms", 2)
def four_stages(e: Engine) -> float:
    stages = "".join(f"FROM busybox AS s{n}\nRUN sleep 1; echo {n} > /{n}\n" for n in range(4))
    copies = "".join(f"COPY --from=s{n} /{n} /{n}\n" for n in range(4))
    dockerfile = f"{stages}FROM busybox\n{copies}"
    return build(e, context({"Dockerfile": dockerfile.encode()}), "--no-cache")
