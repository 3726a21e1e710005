"""scripts/bench: sampan beside dockerd, row by row, in the same run.

Each engine runs in a network namespace of its own (so that neither's firewall rules touch the other's or
the host's), is driven by the same stock client, and does each row in turn: A, B, A, B, so that a noisy
neighbour hits both. Figures are medians; what counts is the ratio.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

# isort: off
# Each of these adds its rows to the table, in this order.
import containers  # noqa: F401
import builds  # noqa: F401
import images  # noqa: F401
import logs  # noqa: F401
import networks  # noqa: F401
import registries  # noqa: F401
from engine import DOCKER, PROJECT, PYTHON_IMAGE, Engine
from rows import ROWS, Row


def prepare(e: Engine, base: Path, busybox: bytes) -> None:
    """Both images into an engine."""
    subprocess.run(
        [DOCKER, "import", "-c", 'CMD ["sh"]', "-", "busybox"],
        env=e.env,
        input=busybox,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    e.docker("import", "-c", f"ENV {path}", "-c", 'CMD ["python3"]', str(base), PYTHON_IMAGE)


def busybox_root() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "etc", "tmp", "root"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        data = Path("/bin/busybox").read_bytes()
        info = tarfile.TarInfo("bin/busybox")
        info.mode, info.size = 0o755, len(data)
        tar.addfile(info, io.BytesIO(data))
        for applet in subprocess.run(
            ["/bin/busybox", "--list"], capture_output=True, text=True
        ).stdout.split():
            if applet != "busybox":
                info = tarfile.TarInfo(f"bin/{applet}")
                info.type, info.linkname, info.mode = tarfile.LNKTYPE, "bin/busybox", 0o755
                tar.addfile(info)
    return out.getvalue()


def table(rows: list[Row], engines: list[Engine]) -> str:
    names = [e.name for e in engines]
    lines = [
        "| what | unit | " + " | ".join(names) + " | ratio | aim |",
        "|---|---|" + "---:|" * (len(names) + 1) + "---|",
    ]
    for r in rows:
        medians = {n: statistics.median(v) for n, v in r.results.items() if v}
        cells = [f"{medians[n]:.3g}" if n in medians else "–" for n in names]
        ratio = "–"
        if len(medians) == 2 and medians["dockerd"]:
            ratio = f"{medians['sampan'] / medians['dockerd']:.2f} ×"
        lines.append(f"| {r.name} | {r.unit} | " + " | ".join(cells) + f" | {ratio} | {r.target} |")
    return "\n".join(lines)


def run(rows: list[Row], engines: list[Engine]) -> None:
    for r in rows:
        for _ in range(r.rounds):
            for e in engines:
                if r.only not in ("", e.name):
                    continue
                try:
                    r.results.setdefault(e.name, []).append(r.measure(e))
                except Exception as error:
                    print(f"  {r.name}: {e.name}: {error}", file=sys.stderr)
        shown = ", ".join(f"{n} {statistics.median(v):.3g}" for n, v in r.results.items() if v)
        print(f"{r.name}: {shown} {r.unit}", file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Replace the measured table in docs/performance.md, between its two marks."""
    page = PROJECT / "docs" / "performance.md"
    begin, end = "<!-- bench: begin -->", "<!-- bench: end -->"
    old = page.read_text()
    head, rest = old.split(begin, 1)
    page.write_text(head + begin + "\n" + text + "\n" + end + rest.split(end, 1)[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("-k", action="append", default=[])
    options = parser.parse_args()
    rows = [r for r in ROWS if not options.k or any(k in r.name for k in options.k)]
    if options.list:
        print("\n".join(r.name for r in ROWS))
        return
    base = Path(tempfile.mkdtemp(prefix="bench-", dir="/var/tmp")) / "base.tar"
    subprocess.run([PROJECT / "scripts" / "base-image", "--tar", base], check=True)
    engines = [Engine("sampan", 1)]
    if shutil.which("dockerd"):
        engines.append(Engine("dockerd", 2))
    else:
        print(
            "dockerd is not installed: only sampan is measured (apt-get install docker.io)", file=sys.stderr
        )
    version = "no dockerd"
    try:
        busybox = busybox_root()
        for e in engines:
            e.start()
            prepare(e, base, busybox)
            if e.name == "dockerd":
                version = "dockerd " + json.loads(e.api("GET", "/version")[1])["Version"]
        run(rows, engines)
    finally:
        for e in engines:
            e.stop()
        shutil.rmtree(base.parent, ignore_errors=True)
    machine = f"{os.cpu_count()} cores, kernel {platform.release().split('-')[0]}, Python {platform.python_version()}"
    text = f"Measured on {time.strftime('%Y-%m-%d')}: {machine}, {version}, client {Path(DOCKER).name}.\n\n{table(rows, engines)}"
    print(text)
    if options.write:
        write(text)


if __name__ == "__main__":
    main()
