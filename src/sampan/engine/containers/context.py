"""What the use cases on containers stand on: stores, runtime, network, and what only memory knows.

The modules beside this one are functions that take a ``Containers`` first: ``lifecycle.start(containers,
"web")``. It finds and remembers; it decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan.engine.containers import initlayer
from sampan.engine.containers.record import Container
from sampan.engine.containers.registry import Registry
from sampan.engine.containers.watch import Watcher
from sampan.kernel.spread import spread

if TYPE_CHECKING:
    from sampan.engine.config import EngineConfig
    from sampan.engine.containers.attach import Pending
    from sampan.engine.containers.cgroups import Cgroup
    from sampan.engine.containers.cleanup import Cleaner
    from sampan.engine.events import EventBus
    from sampan.engine.networks import Networks
    from sampan.engine.quotas import Quotas
    from sampan.engine.volumes import Volumes
    from sampan.images.store import ImageStore
    from sampan.runtime.supervisor import Process, Supervisor
    from sampan.storage.db import Database
    from sampan.storage.gc import Leases
    from sampan.storage.layers import LayerStore


Probe = Callable[[Container, list[str], Callable[[int, bytes], None], float], Awaitable[int]]


async def _no_probe(
    container: Container, words: list[str], collect: Callable[[int, bytes], None], timeout: float
) -> int:
    raise RuntimeError("no execs were made for these containers")


@dataclass(eq=False)
class Live:
    """What only memory knows of a container: its process, who waits for it, what is under way."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    process: Process | None = None
    cgroup: Cgroup | None = None
    spec: dict[str, Any] | None = None
    # Starts that have begun, and restarts that stop it now.
    launches: int = 0
    restarts: int = 0
    # Resolved at each exit, when it has really stopped (no restart to come), and when it is removed.
    next_exit: list[asyncio.Future[int]] = field(default_factory=list)
    stopped: list[asyncio.Future[int]] = field(default_factory=list)
    removed: list[asyncio.Future[int]] = field(default_factory=list)
    # Set when the present run is over, its log complete and its exit recorded.
    run_over: asyncio.Event = field(default_factory=asyncio.Event)
    watcher: asyncio.Task[None] | None = None
    restarter: asyncio.Task[None] | None = None
    health: asyncio.Task[None] | None = None
    pending: list[Pending] = field(default_factory=list)
    back_off: float = 0.0
    # Set while a stop is under way: the end publishes it.
    stopping: bool = False
    removing: bool = False


class Containers:
    """The containers of one engine, with everything that acting on them needs."""

    def __init__(
        self,
        config: EngineConfig,
        db: Database,
        registry: Registry,
        *,
        images: ImageStore,
        layers: LayerStore,
        leases: Leases,
        volumes: Volumes,
        quotas: Quotas,
        networks: Networks,
        events: EventBus,
        supervisor: Supervisor,
        cleaner: Cleaner,
    ) -> None:
        self.config = config
        self.db = db
        self.images = images
        self.layers = layers
        self.leases = leases
        self.volumes = volumes
        self.quotas = quotas
        self.networks = networks
        self.events = events
        self.supervisor = supervisor
        self.cleaner = cleaner
        self.registry = registry
        self.watcher = Watcher()
        self._states = config.data_root / "containers"
        self._states.mkdir(exist_ok=True)
        spread(self._states)
        self._runs = config.exec_root / "containers"
        self._live: dict[str, Live] = {}
        # Filled in by Execs, which stands on this.
        self.exec_ids: Callable[[Container], list[str]] = lambda _: []
        self.run_probe: Probe = _no_probe
        self._background: set[asyncio.Task[None]] = set()
        # While the engine ends or starts, restarts that are due are left to `recovery.autostart`.
        self.closing = False
        self.recovering = False

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in a task that is kept until it ends."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def get(self, reference: str) -> Container:
        """The container with this id, name or unique prefix; NotFound "No such container: …"."""
        return self.registry.get(reference)

    def __iter__(self) -> Iterator[Container]:
        return iter(self.registry)

    def live(self, container: Container) -> Live:
        """What memory knows of the container."""
        live = self._live.get(container.id)
        if live is None:
            live = self._live[container.id] = Live()
        return live

    def forget(self, container: Container) -> None:
        """Drop what memory knows."""
        self._live.pop(container.id, None)

    def state_dir(self, container_id: str) -> Path:
        """Where a container's files lie: upper, work, log, exit.json, hosts …."""
        return self._states / container_id

    def run_dir(self, container_id: str) -> Path:
        """Where its monitor's socket and pid lie while it runs."""
        return self._runs / container_id

    def log_path(self, container_id: str) -> Path:
        """Its log, as Docker names it."""
        return self.state_dir(container_id) / f"{container_id}-json.log"

    def lowers(self, container: Container) -> list[Path]:
        """The read-only layers of its root, topmost first; the init layer is on top."""
        lowers = self.layers.lowers(container.chain) if container.chain else []
        return [initlayer.ensure(self.config.data_root / "init", lowers), *lowers]

    def publish(self, container: Container, action: str, **attributes: str) -> None:
        """Publish a container event; its labels, image and name are added."""
        self.events.publish("container", action, container.id, {**container.event_attributes(), **attributes})

    def shown_image(self, reference: str, image_id: str) -> str:
        """The reference that the user wrote, or the id once it leads to another image."""
        found = self.images.find(reference)
        if found is None:
            return image_id or reference
        if found.id == image_id or not image_id:
            return reference
        variants = self.images.variants(found, self.images.target_of(reference))
        return reference if any(one.id == image_id for one in variants) else image_id

    async def close(self) -> None:
        """Let go of the processes, which run on; nothing is started or recorded from here."""
        tasks = list(self._background)
        for live in self._live.values():
            tasks += [task for task in (live.watcher, live.restarter, live.health) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.watcher.close()

    def using_image(self, image_id: str) -> list[Container]:
        """The containers made from an image, running or not."""
        return [container for container in self.registry if container.image == image_id]

    def using_layers(self) -> set[str]:
        """Chain ids that containers stand on."""
        return {container.chain for container in self.registry if container.chain}
