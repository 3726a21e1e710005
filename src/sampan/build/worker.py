"""What a build needs of the engine around it: base images, processes, network, scratch space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sampan.build.cache import Cache
from sampan.build.image import Image
from sampan.build.options import Platform
from sampan.storage.layers import LayerStore

Output = Callable[[int, bytes], None]
"""Takes what a process wrote: stream (1 or 2) and bytes."""


@dataclass(frozen=True, slots=True)
class BuildMount:
    """A mount of one RUN.

    ``kind``: bind (``source`` a host path), tmpfs (``size`` bytes, 0: no limit), or overlay (``lowers``,
    topmost first; ``upper`` and work directory when it is for writing).
    """

    kind: str
    target: str
    source: str = ""
    readonly: bool = False
    size: int = 0
    lowers: tuple[str, ...] = ()
    upper: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A download: hex SHA-256 and size (bytes) of the content, the file's name, its time if told."""

    digest: str
    size: int
    name: str
    modified: float | None
    content_type: str = ""


@dataclass(slots=True)
class RunRequest:
    """One RUN to execute over ``lowers`` (topmost first) with ``upper`` taking what it writes."""

    lowers: list[Path]
    upper: Path
    work: Path
    args: list[str]
    env: list[str]
    user: str
    cwd: str
    network: str
    host: dict[str, Any]
    mounts: list[BuildMount] = field(default_factory=list)
    container_id: str = ""
    image: str = ""


class Worker(Protocol):
    """The engine as a build sees it."""

    cache: Cache
    layers: LayerStore

    @property
    def bounded(self) -> bool:
        """Whether what a step writes is bounded; nothing can be linked or renamed into its layer then."""

    def bound(self, upper: Path, work: Path) -> None:
        """Bound a step's directories, which are still empty, where steps are bounded. SystemFailure."""

    async def resolve(
        self, reference: str, platform: Platform, pull: bool, note: Callable[[str], None]
    ) -> Image:
        """The image called ``reference``, pulled when it isn't here (or ``pull`` asks for it)."""

    async def run(self, request: RunRequest, output: Output) -> int:
        """Execute; the exit code. Cancelling kills the process and leaves nothing of it."""

    def cache_mount(self, identity: str, sharing: str) -> AbstractAsyncContextManager[Path]:
        """The directory of a cache mount while it is used; ``locked`` waits for the others to end."""

    def secret_file(self, data: bytes) -> Path:
        """A new file with a secret's content, on memory where the host has it; the caller removes it."""

    def has_agent(self, name: str) -> bool:
        """Whether the client lends an SSH agent by that id."""

    def agent_socket(self, name: str, uid: int, gid: int, mode: int) -> AbstractAsyncContextManager[Path]:
        """A socket of that owner and mode that leads to the client's agent ``name``, while it is used."""

    async def fetch(self, url: str, target: Path, headers: Mapping[str, str]) -> Fetched:
        """Download ``url`` to the new file ``target``."""
