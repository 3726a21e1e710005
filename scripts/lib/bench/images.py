"""Rows: images to and from archives and registries."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from urllib.parse import quote

from rows import row, timed

from engine import PYTHON_IMAGE, Engine

REGISTRY = "127.0.0.1:5000"
REMOTE = f"{REGISTRY}/team/python:1"


def forget_images(e: Engine) -> None:
    """Remove every image but busybox, and the build cache, which would keep layers."""
    e.remove_all()
    kept = e.docker("images", "-q", "busybox").decode().split()
    for image in e.docker("images", "-aq").decode().split():
        if image not in kept:
            with contextlib.suppress(RuntimeError):
                e.docker("rmi", "-f", image)
    e.docker("builder", "prune", "-af")


@contextlib.contextmanager
def registry(e: Engine) -> Iterator[None]:
    """Debian's docker-registry, empty, in the engine's network namespace."""
    folder = e.dir / "registry"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings = folder / "registry.yml"
    settings.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'data'}}}}}\nhttp: {{addr: '{REGISTRY}'}}\n"
    )
    inside = ["nsenter", f"--net=/run/netns/{e.netns}"]
    process = subprocess.Popen(
        [*inside, "docker-registry", "serve", str(settings)], stderr=subprocess.DEVNULL
    )
    try:
        time.sleep(1)
        yield
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


def pushed(e: Engine) -> float:
    """Push the Python image as it comes from an archive: nothing of it is compressed yet."""
    archive = e.dir / "python.tar"
    if not archive.exists():
        e.docker("save", "-o", str(archive), PYTHON_IMAGE)
    forget_images(e)
    e.docker("load", "-q", "-i", str(archive))
    e.docker("tag", PYTHON_IMAGE, REMOTE)
    return timed(lambda: e.docker("push", "-q", REMOTE))


@row("load of the Python image", "ms", "≤ 0.8 ×", 3)
def load(e: Engine) -> float:
    archive = e.dir / "python.tar"
    if not archive.exists():
        e.docker("save", "-o", str(archive), PYTHON_IMAGE)
    forget_images(e)
    return timed(lambda: e.docker("load", "-q", "-i", str(archive)))


@row("save of the Python image", "ms", "≤ 0.8 ×", 3)
def save(e: Engine) -> float:
    out = e.dir / "saved.tar"
    value = timed(lambda: e.docker("save", "-o", str(out), PYTHON_IMAGE))
    out.unlink()
    return value


@row("push of the Python image to docker-registry", "ms", "≤ 0.8 ×", 2)
def push(e: Engine) -> float:
    with registry(e):
        return pushed(e)


@row("pull of the Python image from docker-registry", "ms", "≤ 0.8 ×", 3)
def pull(e: Engine) -> float:
    with registry(e):
        pushed(e)
        forget_images(e)
        value = timed(lambda: e.docker("pull", "-q", REMOTE))
        e.docker("tag", REMOTE, PYTHON_IMAGE)
        return value


@row("pull of what is there", "ms", "≤ 20 ms", 3)
def pull_again(e: Engine) -> float:
    with registry(e):
        pushed(e)
        e.docker("pull", "-q", REMOTE)
        return statistics.median(timed(lambda: e.docker("pull", "-q", REMOTE)) for _ in range(5))


@row("pull of what is there, by bare HTTP", "ms", "≤ 20 ms", 3)
def pull_again_api(e: Engine) -> float:
    """Without docker's client, which alone takes most of these milliseconds."""

    def pull() -> None:
        name, _, tag = REMOTE.rpartition(":")
        status, answer = e.api("POST", f"/images/create?fromImage={quote(name, safe='')}&tag={tag}")
        if status != 200 or b"Image is up to date" not in answer:
            raise SystemExit(f"{e.name}: {answer.decode('utf-8', 'replace')}")

    with registry(e):
        pushed(e)
        e.docker("pull", "-q", REMOTE)
        return statistics.median(timed(pull) for _ in range(5))
