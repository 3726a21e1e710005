"""A busybox image put straight into a store, and an engine of the test's own."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.engine.containers import create, lifecycle, logs, waits
from sampan.engine.engine import Engine
from sampan.images.store import ImageStore
from sampan.runtime.config import CreateRequest, HostConfig
from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database
from sampan.storage.layers import LayerStore
from tests import frames

BUSYBOX = "/bin/busybox"
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}


def layer() -> bytes:
    """A tar with busybox and links for all its applets."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("bin", "etc", "tmp", "root"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        archive.add(BUSYBOX, "bin/busybox")
        applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout
        for applet in applets.split():
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(entry)
        for name, text in _FILES.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def make_image(root: Path, name: str = "busybox:latest") -> str:
    """Put the image into the data root of an engine that doesn't run; its id."""
    root.mkdir(parents=True, exist_ok=True)
    db = Database(root / "sampan.db")
    blobs = BlobStore(root)
    layers = LayerStore(root, blobs)
    store = ImageStore(db, blobs, layers)
    made = layers.apply(None, io.BytesIO(layer()))
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [made.diff_id]},
        "history": [{"created": "2026-01-01T00:00:00Z"}],
    }
    image = store.add(json.dumps(config).encode())
    store.tag(name, image.id)
    db.close()
    return str(image.id)


class Roots:
    """A data root and an exec root with the image, deleted at the end."""

    def __init__(self) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="smpe-"))
        self.data, self.run = self.base / "data", self.base / "run"
        make_image(self.data)

    def config(self, **changes: Any) -> EngineConfig:
        """A configuration for these roots."""
        return EngineConfig(
            data_root=self.data, exec_root=self.run, bridge="smpe1", bip="10.201.6.1/24", **changes
        )

    def remove(self) -> None:
        shutil.rmtree(self.base)


@asynccontextmanager
async def engine(roots: Roots, **changes: Any) -> AsyncIterator[Engine]:
    """An engine in this process; what runs is removed at the end."""
    made = await Engine.open(roots.config(**changes))
    try:
        yield made
    finally:
        from sampan.engine.containers import remove

        for container in list(made.containers):
            await remove.remove(made.containers, container.id, force=True, volumes=True)
        for volume in made.volumes.all():
            await made.volumes.remove(volume.name, force=True)
        await made.cleaner.drained()
        await made.close()


def run_async(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function to its end, within pytest's patience."""
    asyncio.run(asyncio.wait_for(work(), 110))


async def make(made: Engine, *cmd: str, name: str = "", host: HostConfig | None = None, **config: Any) -> str:
    """Create a container of busybox without network; its id."""
    host = host or HostConfig()
    host.network_mode = host.network_mode or "none"
    request = CreateRequest(image="busybox", cmd=list(cmd) or None, host_config=host, **config)
    container, _ = await create.create(made.containers, request, name=name)
    return container.id


async def finish(made: Engine, reference: str) -> int:
    """Start and wait for the end; the exit code."""
    future = waits.begin(made.containers, made.containers.get(reference), "next-exit")
    await lifecycle.start(made.containers, reference)
    return await future


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 60) -> None:
    """Wait for what a container brings about."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.02)


async def output(made: Engine, reference: str, **options: Any) -> bytes:
    """What it has logged, without frame heads."""
    container = made.containers.get(reference)
    framed = b""
    async for chunk in logs.of_container(made.containers, container, logs.LogOptions(**options)):
        framed += chunk
    return frames.text(framed)
