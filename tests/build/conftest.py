from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sampan.build.options import BuildOptions
from sampan.engine.build import Builder
from sampan.engine.config import EngineConfig
from sampan.engine.events import EventBus
from sampan.engine.quotas import Quotas
from sampan.images.store import ImageStore
from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database
from sampan.storage.gc import Leases
from sampan.storage.layers import LayerStore


def tar_of(files: dict[str, Any], mtime: int = 1_000_000_000) -> bytes:
    """A tar of names to text, bytes, or a tuple (link target,)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.mtime = mtime
            if isinstance(content, tuple):
                info.type, info.linkname = tarfile.SYMTYPE, content[0]
                tar.addfile(info)
                continue
            data = content if isinstance(content, bytes) else content.encode()
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Bench:
    """A builder over real stores, without processes: for everything but RUN."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "run").mkdir()
        self.db = Database(root / "sampan.db")
        self.blobs = BlobStore(root)
        self.layers = LayerStore(root, self.blobs)
        self.leases = Leases(self.db, self.blobs, self.layers)
        self.images = ImageStore(self.db, self.blobs, self.layers)
        self.leases.add_roots(self.images.reachable)
        self.builder = Builder(
            EngineConfig(data_root=root, exec_root=root / "run"),
            self.db,
            images=self.images,
            layers=self.layers,
            leases=self.leases,
            quotas=Quotas(root, self.db),
            events=EventBus(self.db),
            run=self._no_processes,
        )

    async def _no_processes(self, *_: object) -> int:
        raise AssertionError("these tests run no process")

    def base(self, config: dict[str, Any] | None = None) -> None:
        data = tar_of({"etc/passwd": "root:x:0:0::/:/bin/sh\nbin:x:2:2::/:\n", "etc/group": "bin:x:3:\n"})
        layer = self.layers.apply(None, io.BytesIO(data))
        document = {
            "architecture": "amd64",
            "os": "linux",
            "config": config or {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
            "history": [{"created_by": "base"}],
        }
        self.images.tag("base", self.images.add(json.dumps(document).encode()).id)

    async def build(
        self, files: dict[str, Any], *, mtime: int = 1_000_000_000, **options: Any
    ) -> list[dict[str, Any]]:
        flags = {key: options.pop(key) for key in ("why", "quiet") if key in options}
        await self.builder.open()
        data = tar_of(files, mtime)
        objects = []

        async def body() -> AsyncIterator[bytes]:
            for at in range(0, len(data), 8192):
                yield data[at : at + 8192]

        async for found in self.builder.build(body(), BuildOptions(**options), **flags):
            objects.append(found)
        await self.builder.close()
        return objects

    def files(self, name: str) -> dict[str, tuple[int, int, int, str]]:
        """Path to (mode, uid, gid, content or link) over all layers above the base's."""
        found = {}
        for chain in self.images.get(name).layers[1:]:
            top = self.layers.directory(chain) / "diff"
            for path in sorted(top.rglob("*")):
                status = path.lstat()
                content = ""
                if path.is_symlink():
                    content = str(path.readlink())
                elif path.is_file():
                    content = path.read_text()
                found[str(path.relative_to(top))] = (
                    status.st_mode & 0o7777,
                    status.st_uid,
                    status.st_gid,
                    content,
                )
        return found


@pytest.fixture
def bench(tmp_path: Path):
    made = Bench(tmp_path / "data" if (tmp_path / "data").mkdir() is None else tmp_path)
    made.base()
    yield made
    made.db.close()
