"""One engine over one data root: the parts and how they stand on each other. No logic of its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from sampan.engine import buildfiles, registries, steps
from sampan.engine.config import EngineConfig
from sampan.engine.containers import cgroups, launchspec, recovery
from sampan.engine.containers.cleanup import Cleaner
from sampan.engine.containers.context import Containers
from sampan.engine.containers.registry import Registry
from sampan.engine.events import EventBus
from sampan.engine.exec import Execs
from sampan.engine.networks import Networks
from sampan.engine.networks.claim import Claim
from sampan.engine.quotas import Quotas
from sampan.engine.volumes import Volumes
from sampan.images.store import ImageStore
from sampan.runtime.config import ContainerConfig, HostConfig
from sampan.runtime.supervisor import Supervisor
from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database
from sampan.storage.gates import Gates
from sampan.storage.gc import Leases, Reachable
from sampan.storage.layers import LayerStore
from sampan.storage.rootlock import RootLock

if TYPE_CHECKING:
    from sampan.build.worker import BuildMount, Output, RunRequest
    from sampan.engine.build import Builder
    from sampan.registry.hosts import Hosts


class Engine:
    """The whole engine; ``open`` makes one, in a daemon or in any asyncio program of root's."""

    def __init__(self, config: EngineConfig) -> None:
        """Open the stores; nothing runs yet. Use ``open``."""
        self.config = config
        root = config.data_root
        root.mkdir(mode=0o710, parents=True, exist_ok=True)
        config.exec_root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.db = Database(root / "sampan.db")
        self.events = EventBus(self.db)
        self.blobs = BlobStore(root)
        self.layers = LayerStore(root, self.blobs)
        self.leases = Leases(self.db, self.blobs, self.layers)
        self.images = ImageStore(self.db, self.blobs, self.layers)
        self.leases.add_roots(self.images.reachable)
        self.gates = Gates()
        self.registry_hosts: Hosts | None = None
        self.quotas = Quotas(root, self.db, config.storage_opts)
        self.volumes = Volumes(root / "volumes", self.db, self.events, self.quotas)
        self.supervisor = Supervisor()
        self.registry = Registry(self.db)
        self.networks = Networks(config, self.db, self.events)
        self.networks.containers = self.registry
        self.cleaner = Cleaner(
            self.db,
            {
                "cgroup": launchspec.destroy_cgroup,
                "volume": lambda _: self.volumes.sweep(),
                "project": lambda _: self.quotas.sweep(),
            },
        )
        self.containers = Containers(
            config,
            self.db,
            self.registry,
            images=self.images,
            layers=self.layers,
            leases=self.leases,
            volumes=self.volumes,
            quotas=self.quotas,
            networks=self.networks,
            events=self.events,
            supervisor=self.supervisor,
            cleaner=self.cleaner,
        )
        self.leases.add_roots(self._containers_need)
        self.execs = Execs(self.containers)
        self._restart: asyncio.Task[None] | None = None
        self._owned = ExitStack()

    @cached_property
    def builder(self) -> Builder:
        """Loaded with the first build: it is an eighth of an idle engine's memory."""
        from sampan.engine.build import Builder

        return Builder(
            self.config,
            self.db,
            images=self.images,
            layers=self.layers,
            leases=self.leases,
            quotas=self.quotas,
            events=self.events,
            run=self._run_build_step,
            pull=partial(registries.pull_base, self),
        )

    @classmethod
    async def open(cls, config: EngineConfig, lock: RootLock | None = None) -> Engine:
        """An engine that is ready: containers that run on are taken over, restart policies are at work.

        ``lock`` is the data root's, where the caller holds it; else it is taken until ``close``. SystemFailure
        when the data root can't be used, or another engine has it or the default bridge.
        """
        async with AsyncExitStack() as undo:
            owned = undo.enter_context(ExitStack())
            if lock is None:
                owned.callback(RootLock(config.data_root).close)
            owned.callback(Claim(config).close)
            cgroups.find_hierarchies()
            engine = cls(config)
            engine._owned = owned
            undo.callback(engine.db.close)
            await engine.supervisor.start()
            undo.push_async_callback(engine.supervisor.close)
            await engine.networks.open()
            undo.push_async_callback(engine.networks.close)
            await steps.sweep(engine.containers)
            await recovery.recover(engine.containers)
            await asyncio.to_thread(buildfiles.sweep, config)
            engine.cleaner.start()
            engine._restart = asyncio.create_task(recovery.autostart(engine.containers))
            undo.pop_all()
        return engine

    async def begin_end(self) -> None:
        """What comes before ``close`` while clients are still served: who is attached sees his container end.

        Builds need not be waited for; restart policies start nothing more; without ``live_restore`` containers
        stop.
        """
        self.containers.closing = True
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
        if "builder" in self.__dict__:
            self.builder.stop()
        if not self.config.live_restore:
            await recovery.stop_all(self.containers, self.config.shutdown_timeout)

    async def close(self) -> None:
        """End: containers run on, unless ``live_restore`` is off."""
        await self.begin_end()
        if "builder" in self.__dict__:
            await self.builder.close()
        await recovery.shut_down(self.containers)
        await self.execs.close()
        await self.cleaner.close()
        await self.networks.close()
        await self.supervisor.close()
        recovery.remove_parent(self.containers)  # what was removing containers has ended
        await self.events.close()
        self.db.close()
        self._owned.close()

    def reload(self, config: EngineConfig) -> None:
        """Take over what may change while it runs (``engine.config.RELOADABLE``)."""
        self.config = config
        self.containers.config = config
        self.networks.config = config

    async def _run_build_step(
        self, request: RunRequest, config: ContainerConfig, host: HostConfig, output: Output
    ) -> int:
        step = steps.Step(
            lowers=request.lowers,
            upper=request.upper,
            work=request.work,
            config=config,
            host=host,
            network=request.network,
            extra_mounts=[_step_mount(mount) for mount in request.mounts],
            container_id=request.container_id,
        )
        return await steps.run_step(self.containers, step, output)

    def _containers_need(self) -> Reachable:
        return Reachable(self.containers.using_layers(), set())


def _step_mount(mount: BuildMount) -> list[Any]:
    if mount.kind == "bind":
        return steps.bind_mount(mount.source, mount.target, readonly=mount.readonly)
    if mount.kind == "tmpfs":
        return steps.tmpfs_mount(mount.target, mount.size)
    return steps.overlay_mount(mount.target, mount.lowers, mount.upper)
