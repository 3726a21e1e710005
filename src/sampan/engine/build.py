"""Builds: a context and options in, progress out, an image in the store.

A build's files lie below ``<data-root>/build/<id>/`` while it runs: its context, the upper directories of
its steps, downloads. All of it goes when the build ends, however it ends; what a crash leaves goes at the
next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sampan import errors
from sampan.build import fetch, lint, outputs
from sampan.build.cache import Cache
from sampan.build.classic import Classic, short
from sampan.build.context import Context, is_archive
from sampan.build.contextmemo import ContextMemo
from sampan.build.executor import Build
from sampan.build.grammar import read_dockerfile
from sampan.build.graphwords import GraphWords
from sampan.build.image import Image
from sampan.build.imageconfig import env_dict
from sampan.build.instructions import Dockerfile
from sampan.build.interruptible import in_thread
from sampan.build.options import BuildOptions, native, parse_platform
from sampan.build.plan import Plan, make_plan
from sampan.build.progress import Event
from sampan.engine import buildfiles
from sampan.engine.agents import AgentLinks
from sampan.engine.buildcache import BuildCache, Choice
from sampan.engine.buildmounts import CacheMounts
from sampan.engine.buildworker import EngineWorker, Pull, Run
from sampan.engine.config import EngineConfig
from sampan.engine.contextfeed import read_in_thread
from sampan.engine.events import EventBus
from sampan.engine.quotas import Quotas
from sampan.images.reference import Reference
from sampan.images.store import ImageStore
from sampan.storage.db import Database
from sampan.storage.gc import Leases
from sampan.storage.layers import LayerStore
from sampan.storage.removal import remove_tree

Object = dict[str, Any]
CLOSE_PATIENCE = 10.0
"""Seconds that the end of the engine waits for the end of its builds."""
SETTLE_DELAY = 0.05
"""Seconds after a build until the cache writes down what was used and is trimmed."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Job:
    """A build that is ready to run: context here, Dockerfile read, plan made."""

    directory: Path
    context: Context
    file: Dockerfile
    plan: Plan
    options: BuildOptions
    names: list[Reference]
    warnings: list[lint.Finding] = field(default_factory=list)


class Builder:
    """The builds of one engine."""

    def __init__(
        self,
        config: EngineConfig,
        db: Database,
        *,
        images: ImageStore,
        layers: LayerStore,
        leases: Leases,
        quotas: Quotas,
        events: EventBus,
        run: Run,
        pull: Pull | None = None,
    ) -> None:
        self.config = config
        self.images = images
        self.layers = layers
        self.leases = leases
        self.quotas = quotas
        self.events = events
        self.cache = Cache(db, layers, leases)
        self.mounts = CacheMounts(config.data_root / "build-mounts")
        self.kept = BuildCache(self.cache, self.mounts, images, leases, self._busy)
        self._root = buildfiles.root(config)
        self._secrets = buildfiles.secrets(config)
        self._run = run
        self._pull = pull
        self._running: dict[Build, asyncio.Task[Image]] = {}
        self._memo = ContextMemo()
        self.agents = AgentLinks()
        self._background: set[asyncio.Task[None]] = set()
        self._settling: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        """Remove what a crash left of earlier builds."""
        await asyncio.to_thread(buildfiles.sweep, self.config)

    def stop(self) -> None:
        """End the builds that run; their clients are told."""
        for task in self._running.values():
            task.cancel()

    async def close(self) -> None:
        """End the builds that run, and wait until nothing of them is left."""
        self.stop()
        if self._settling is not None:
            self._settling.cancel()
        deadline = time.monotonic() + CLOSE_PATIENCE
        while self._running and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.to_thread(self._settle)

    async def build(
        self,
        body: AsyncIterator[bytes] | None,
        options: BuildOptions,
        *,
        why: bool = False,
        quiet: bool = False,
        graph: bool = False,
    ) -> AsyncIterator[Object]:
        """Build, yielding the objects of the classic stream; with ``graph`` the events instead of its words.

        Before the first object: InvalidParameter for a malformed Dockerfile or option, SystemFailure when
        the context or Dockerfile can't be had. Later: BuildFailed. Closing the iterator stops the build.
        """
        job_id = secrets.token_hex(8)
        directory = self._root / job_id
        job: Job | None = None
        try:
            with self.leases.working():
                job = await self._prepare(directory, body, options)
                if options.check:
                    yield outputs.check_result(job.file, job.warnings)
                    return
                async for found in self._execute(job, why, quiet, graph):
                    yield found
        finally:
            if job is not None:
                job.context.close()
            if directory.exists():
                self._later(self._remove, directory)

    def _remove(self, directory: Path) -> None:
        remove_tree(str(directory))
        self.quotas.release_below("build", directory.name)

    def _later(self, work: Callable[..., object], *arguments: object) -> None:
        """Do what nobody waits for in a thread."""

        async def do() -> None:
            try:
                await asyncio.to_thread(work, *arguments)
            except Exception:
                log.exception("after a build")

        task = asyncio.create_task(do())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- before the stream ------------------------------------------------------------------------------

    async def _prepare(
        self, directory: Path, body: AsyncIterator[bytes] | None, options: BuildOptions
    ) -> Job:
        names = [_name(tag) for tag in options.tags if tag]
        platform = parse_platform(options.platform) if options.platform else native()
        options.epoch  # noqa: B018 - raises when it is malformed, before anything is done
        if any("\0" in text for text in (*options.args, *options.args.values(), *options.labels) if text):
            raise errors.InvalidParameter("a build argument or label contains a NUL byte")
        context = Context(directory / "context", self._memo)
        try:
            if options.remote:
                await self._fetch_remote(context, options, directory)
            elif body is not None:
                await read_in_thread(body, context.receive)
            else:
                context.place_in_memory()
            name = options.dockerfile or "Dockerfile"
            data = context.dockerfile(options.dockerfile)
            file = read_dockerfile(data, name)
            context.apply_ignore(name)
            plan = make_plan(file, options, platform)
        except BaseException:
            context.close()
            raise
        job = Job(directory, context, file, plan, options, names)
        job.warnings = lint.check(file, options, context.ignore, self._base_env)
        if job.warnings and lint.fails(file, options) and not options.check:
            hint = "\n".join(one.text for one in job.warnings)
            rules = lint.names(job.warnings)
            raise errors.InvalidParameter(f"lint violation found for rules: {rules}", hint=hint)
        return job

    def _base_env(self, reference: str) -> set[str] | None:
        try:
            found = self.images.find(reference)
        except errors.SampanError:
            return None
        return set(env_dict(found.config)) if found else None

    async def _fetch_remote(self, context: Context, options: BuildOptions, directory: Path) -> None:
        """With the client's agent where it lends one, else with the keys of whoever runs the engine."""
        link = self.agents.get(options.ssh) if options.ssh else None
        if link is None or "default" not in link.ids:
            await in_thread(partial(self._remote, context, options, directory, fetch.HOST_KEYS))
            return
        async with link.socket(self._secrets, "default", 0, 0, 0o600) as path:
            keys = fetch.agent_keys(path, fetch.known_hosts(options.secrets, directory))
            await in_thread(partial(self._remote, context, options, directory, keys))

    def _remote(
        self,
        context: Context,
        options: BuildOptions,
        directory: Path,
        ssh: Mapping[str, str],
        stop: threading.Event,
    ) -> None:
        """Fetch the context that ``remote`` names: a git repository, an archive, or a lone Dockerfile."""
        remote = options.remote
        directory.mkdir(mode=0o700, exist_ok=True)
        if fetch.is_git(remote):
            source = fetch.parse_git(remote)
            keep = options.args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR") in ("1", "true")
            login = fetch.git_login(source, options.secrets)
            top, _ = fetch.checkout(source, directory / "git", "", keep, stop, login, ssh)
            context.replace(top)
        elif fetch.is_url(remote):
            self._downloaded(context, options, directory / "remote", stop)
        else:
            raise errors.SystemFailure(
                f"remoteURL ({remote}) could not be recognized as URL",
                hint="It is a git repository or an HTTP(S) URL; a local directory is sent in the request's body.",
            )

    def _downloaded(
        self, context: Context, options: BuildOptions, target: Path, stop: threading.Event
    ) -> None:
        """A context from a URL: an archive, or a lone Dockerfile."""
        remote = options.remote
        try:
            fetch.download(remote, target, fetch.http_login(remote, options.secrets), stop)
        except errors.SampanError as error:
            raise errors.SystemFailure(
                f"error downloading remote context {remote}: {error.message}", hint=error.hint
            ) from error
        with open(target, "rb") as file:
            archive = is_archive(file.read)
            file.seek(0)
            if archive:
                context.receive(file.read)
                return
            context.write_dockerfile(file.read(8 << 20))
            options.dockerfile = "Dockerfile"

    # -- the stream -------------------------------------------------------------------------------------

    def _worker(self, options: BuildOptions) -> EngineWorker:
        return EngineWorker(
            images=self.images,
            layers=self.layers,
            cache=self.cache,
            mounts=self.mounts,
            quotas=self.quotas,
            secrets_dir=self._secrets,
            run=self._run,
            pull=self._pull,
            auth=options.auth,
            agents=self.agents.get(options.ssh) if options.ssh else None,
        )

    async def _execute(self, job: Job, why: bool, quiet: bool, graph: bool) -> AsyncIterator[Object]:
        worker = self._worker(job.options)
        for reference in job.options.cache_from:
            await self._cache_from(worker, reference)
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        build = Build(job.plan, job.options, worker, job.context, job.directory, queue.put_nowait)
        task = self._running[build] = asyncio.create_task(build.run())
        task.add_done_callback(lambda _: queue.put_nowait(None))
        words = GraphWords(job.plan.vertices) if graph else Classic(job.plan.vertices, why=why)
        held: list[Object] = []
        try:
            while (event := await queue.get()) is not None:
                for found in words.feed(event):
                    if quiet and "id" not in found:
                        held.append(found)
                    else:
                        yield found
            if task.cancelled():
                raise errors.SystemFailure("the build was stopped: the engine is shutting down")
            try:
                async for found in self._finish(job, build, task.result(), quiet, graph):
                    yield found
            except errors.SampanError:
                for found in held:
                    yield found
                raise
        finally:
            task.cancel()
            with contextlib.suppress(BaseException):
                await task
            self._running.pop(build, None)
            self._settle_soon()

    async def _cache_from(self, worker: EngineWorker, reference: str) -> None:
        """Take in the cache that an image carries; one that can't be had is passed over, as by Docker."""
        try:
            await worker.resolve(reference, native(), False, lambda _: None)
            found = self.images.get(reference)
        except errors.SampanError:
            return
        for key, hit in outputs.inline_cache(found.document).items():
            if hit.chain is None or self.layers.has(hit.chain):
                self.cache.take_in(key, hit)

    def _settle_soon(self) -> None:
        """After the answer has gone, once for builds that follow each other closely."""
        if self._settling is None or self._settling.when() < asyncio.get_running_loop().time():
            self._settling = asyncio.get_running_loop().call_later(SETTLE_DELAY, self._later, self._settle)

    def _settle(self) -> None:
        self.cache.flush()
        if self.config.build_cache_size:
            self.kept.trim(time.time(), self.config.build_cache_size)

    async def _finish(
        self, job: Job, build: Build, image: Image, quiet: bool, graph: bool
    ) -> AsyncIterator[Object]:
        if not image.layered:
            raise errors.SystemFailure("No image was generated. Is your Dockerfile empty?")
        told = "" if graph else image.id
        if job.options.squash:
            squashed = job.directory / "squash"
            image = await asyncio.to_thread(outputs.squash, image, build.base_layers, self.layers, squashed)
        inline = job.options.args.get("BUILDKIT_INLINE_CACHE") or "0"
        if inline.lower() not in ("0", "false"):
            image = outputs.with_inline_cache(image, build.results)
        for warning in [] if quiet else _warnings(job):
            yield {"stream": warning}
        if outputs.wants_image(job.options.outputs):
            async for found in self._keep(job, image, quiet, told):
                yield found
        for output in job.options.outputs:
            pieces = outputs.archive(image, self.layers, output)
            while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
                yield outputs.chunk(piece)

    async def _keep(self, job: Job, image: Image, quiet: bool, told: str) -> AsyncIterator[Object]:
        """Store and tag the image; its id is reported unless it was ``told`` already."""
        identity = image.stored or image.id
        if self.images.find(identity) is None:
            identity = (await asyncio.to_thread(self.images.add, image.encoded())).id
        if identity != told and not quiet:
            yield {"aux": {"ID": identity}}
        yield {"stream": f"{identity}\n" if quiet else f"Successfully built {short(identity)}\n"}
        for name in job.names:
            self._tag(name, identity)
            if not quiet:
                yield {"stream": f"Successfully tagged {name.familiar}\n"}

    def _tag(self, name: Reference, identity: str) -> None:
        self.images.tag(name, identity)
        labels = self.images.get(identity).labels
        self.events.publish("image", "tag", identity, {**labels, "name": name.familiar})

    # -- cache ------------------------------------------------------------------------------------------

    async def prune(self, choice: Choice) -> Mapping[str, Any]:
        """Forget cache rows and cache mounts, never those of a running build."""
        return await asyncio.to_thread(self.kept.prune, choice)

    def _busy(self) -> set[str]:
        """The keys that running builds have found or made."""
        return {key for build in self._running for key in list(build.results)}

    def usage(self) -> list[Mapping[str, Any]]:
        """The cache as ``/system/df`` lists it."""
        return [entry.document() for entry in self.kept.entries()]


def _name(tag: str) -> Reference:
    """A name for the result. dockerd answers 500 for one that it can't read."""
    try:
        name = Reference.parse(tag)
    except errors.InvalidParameter as error:
        raise errors.SystemFailure(error.message, hint=error.hint) from None
    if name.digest:
        raise errors.SystemFailure("build tag cannot contain a digest")
    return name


def _warnings(job: Job) -> list[str]:
    lines = [f"[Warning] {finding.text}\n" for finding in job.warnings]
    unused = job.plan.scope.unused()
    if unused:
        lines.append(f"[Warning] One or more build-args [{' '.join(unused)}] were not consumed\n")
    frontend = job.file.directives.get("syntax", "")
    if frontend and not re.match(r"(docker\.io/)?docker/dockerfile(-upstream)?([:@]|$)", frontend):
        lines.append(f"[Warning] The frontend {frontend} is not run: the file was read as a Dockerfile\n")
    return lines
