"""What builds use of the engine: base images, processes for RUN, cache mounts, secrets, downloads."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from sampan import errors
from sampan.build import fetch, image
from sampan.build.cache import Cache
from sampan.build.interruptible import in_thread
from sampan.build.options import Platform
from sampan.build.worker import BuildMount, Fetched, Output, RunRequest
from sampan.engine.agents import AgentLink
from sampan.engine.buildmounts import CacheMounts
from sampan.engine.quotas import Quotas
from sampan.images import manifest as documents
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore
from sampan.runtime.config import ContainerConfig, HostConfig
from sampan.storage.layers import LayerStore

Pull = Callable[[str, Platform, Mapping[str, Any], Callable[[str], None]], Awaitable[None]]
"""Pulls a reference for a platform with the client's credentials; tells progress as lines."""
Run = Callable[[RunRequest, ContainerConfig, HostConfig, Output], Awaitable[int]]


class EngineWorker:
    """The engine as one build sees it (`sampan.build.worker.Worker`)."""

    def __init__(
        self,
        *,
        images: ImageStore,
        layers: LayerStore,
        cache: Cache,
        mounts: CacheMounts,
        quotas: Quotas,
        secrets_dir: Path,
        run: Run,
        pull: Pull | None,
        auth: Mapping[str, Any],
        agents: AgentLink | None = None,
    ) -> None:
        self.images = images
        self.layers = layers
        self.cache = cache
        self._mounts = mounts
        self._quotas = quotas
        self._secrets_dir = secrets_dir
        self._run = run
        self._pull = pull
        self._auth = auth
        self._agents = agents
        self._resolving: dict[tuple[str, str], asyncio.Lock] = {}
        self._pulled: set[tuple[str, str]] = set()

    @property
    def bounded(self) -> bool:
        """Whether steps may write so many bytes only: the engine's default for containers."""
        return self._quotas.default > 0

    def bound(self, upper: Path, work: Path) -> None:
        """Bound a step's directories, which are still empty. SystemFailure."""
        if self.bounded:
            owner = f"{upper.parent.parent.name}/{upper.parent.name}"  # the build and the step
            self._quotas.bound("build", owner, self._quotas.default, (upper, work))

    async def resolve(
        self, reference: str, platform: Platform, pull: bool, note: Callable[[str], None]
    ) -> image.Image:
        """The image called ``reference``, pulled when it isn't here; once a build when ``pull`` is set."""
        key = (reference, str(platform))
        async with self._resolving.setdefault(key, asyncio.Lock()):
            found = self._local(reference, platform)
            wrong = found is not None and found.architecture not in ("", platform.architecture)
            if found is None:
                Reference.parse(reference)
            if found is None or wrong or (pull and key not in self._pulled):
                if self._pull is None:
                    raise errors.NotFound(
                        f"pull access denied for {reference}, repository does not exist or may require "
                        "'docker login'",
                        hint="The image isn't here, and this engine has no registry client.",
                    )
                await self._pull(reference, platform, self._auth, note)
                self._pulled.add(key)
                found = self._local(reference, platform) or self.images.get(reference)
        return image.from_document(found.document, found.chain, reference, found.id)

    def _local(self, reference: str, platform: Platform) -> Image | None:
        """The image that is here, the platform's where there are several."""
        found = self.images.find(reference)
        if found is None:
            return None
        wanted = documents.Platform(platform.architecture, platform.os, platform.variant)
        return self.images.variant(found, self.images.target_of(reference), wanted) or found

    async def run(self, request: RunRequest, output: Output) -> int:
        """Execute one RUN; its exit code."""
        config = ContainerConfig(
            user=request.user,
            env=request.env,
            cmd=request.args,
            working_dir=request.cwd,
            image=request.image,
        )
        host = msgspec.convert(dict(request.host), HostConfig)
        host.network_mode = request.network or "default"
        return await self._run(request, config, host, output)

    @asynccontextmanager
    async def cache_mount(self, identity: str, sharing: str) -> AsyncIterator[Path]:
        """A cache mount's directory while it is used."""
        async with self._mounts.use(identity, sharing) as path:
            yield path

    def secret_file(self, data: bytes) -> Path:
        """A new file with a secret, below the run-time directory (on memory)."""
        self._secrets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=self._secrets_dir)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        return Path(name)

    def has_agent(self, name: str) -> bool:
        """Whether the client lends an agent by that id."""
        return self._agents is not None and name in self._agents.ids

    @asynccontextmanager
    async def agent_socket(self, name: str, uid: int, gid: int, mode: int) -> AsyncIterator[Path]:
        """A socket below the run-time directory that leads to the client's agent."""
        assert self._agents is not None
        async with self._agents.socket(self._secrets_dir, name, uid, gid, mode) as path:
            yield path

    async def fetch(self, url: str, target: Path, headers: Mapping[str, str]) -> Fetched:
        """Download in a thread."""
        return await in_thread(partial(fetch.download, url, target, headers))


def mount_entries(mounts: list[BuildMount]) -> list[dict[str, Any]]:
    """Build mounts as mounts of an OCI runtime configuration (config.md, "Mounts")."""
    return [_mount_entry(mount) for mount in mounts]


def _mount_entry(mount: BuildMount) -> dict[str, Any]:
    if mount.kind == "bind":
        mode = "ro" if mount.readonly else "rw"
        return {
            "destination": mount.target,
            "type": "bind",
            "source": mount.source,
            "options": ["rbind", "rprivate", mode],
        }
    if mount.kind == "tmpfs":
        size = [f"size={mount.size}"] if mount.size else []
        return {
            "destination": mount.target,
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", "mode=1777", *size],
        }
    options = [f"lowerdir={':'.join(mount.lowers)}"]
    if mount.upper is not None:
        options += [f"upperdir={mount.upper[0]}", f"workdir={mount.upper[1]}"]
    else:
        options.append("ro")
    return {"destination": mount.target, "type": "overlay", "source": "overlay", "options": options}
