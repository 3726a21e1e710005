"""Running a plan: stages as tasks, each instruction from the cache or executed, the result as an image."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.build import imageconfig
from sampan.build import instructions as ins
from sampan.build.cache import Hit, Inputs, explain, opaque
from sampan.build.context import Context
from sampan.build.diagnostics import Span, nearest
from sampan.build.failure import BuildFailed, located
from sampan.build.grammar import parse_instruction
from sampan.build.image import Image, scratch, timestamp
from sampan.build.options import BuildOptions, Platform, native, parse_platform
from sampan.build.pieces import PiecesReader
from sampan.build.plan import Plan, StagePlan, find_stage
from sampan.build.progress import Event, Kind
from sampan.build.rootfs import RootFs, changed, clamp_times
from sampan.build.scope import Scope
from sampan.build.worker import Worker
from sampan.errors import InvalidParameter, SampanError, SystemFailure
from sampan.storage.layers import Layer

if TYPE_CHECKING:
    from sampan.build.ahead import Ahead

log = logging.getLogger(__name__)
Emit = Callable[[Event], None]


@dataclass(slots=True)
class Made:
    """What executing a step gave: its layer, None when no file changed."""

    layer: Layer | None


@dataclass(slots=True)
class StageRun:
    """A stage while it is built."""

    plan: StagePlan
    image: Image
    scope: Scope
    remembered: imageconfig.StageState = field(default_factory=imageconfig.StageState)
    # The vertex whose events the current instruction's are, and its place for the cache's explanations.
    vertex: int = 0
    ordinal: int = 0
    base_layers: int = 0

    @property
    def env(self) -> dict[str, str]:
        """The environment at this point."""
        return imageconfig.env_dict(self.image.config)


class Build:
    """One build of one plan; ``run()`` once."""

    def __init__(
        self,
        plan: Plan,
        options: BuildOptions,
        worker: Worker,
        context: Context,
        directory: Path,
        emit: Emit,
    ) -> None:
        self.plan = plan
        self.file = plan.file
        self.options = options
        self.worker = worker
        self.context = context
        self.directory = directory
        self.emit = emit
        self.epoch = options.epoch
        self.platform = parse_platform(options.platform) if options.platform else native()
        self._stages: dict[int, asyncio.Task[StageRun]] = {}
        self._numbered = 0
        self._started: set[int] = set()
        # How many steps fetch before their turn at a time: each holds a thread.
        self.early = asyncio.Semaphore(3)
        # What the cache knew or learned of each step, for images that carry their cache along.
        self.results: dict[str, Hit] = {}
        # How many layers of the result come from the image that its first stage began with.
        self.base_layers = 0

    async def run(self) -> Image:
        """Build the target's stages, independent ones at the same time.

        Raises BuildFailed (located) for the first failure, after the other stages were stopped. Cancelling
        stops everything.
        """
        for number, _arg in enumerate(self.file.globals):
            self.tell("start", number)
            self.tell("done", number)
        try:
            waiting = {self.stage(index) for index in self.plan.stages}
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
            run = await self.stage(self.plan.target)
            self.base_layers = run.base_layers
            return run.image
        finally:
            for task in self._stages.values():
                task.cancel()
            await asyncio.gather(*self._stages.values(), return_exceptions=True)

    def stage(self, index: int) -> asyncio.Task[StageRun]:
        """The task that builds stage ``index``."""
        task = self._stages.get(index)
        if task is None:
            task = self._stages[index] = asyncio.create_task(self._build_stage(index))
        return task

    def tell(
        self,
        kind: Kind,
        vertex: int,
        text: str = "",
        *,
        data: bytes = b"",
        stream: int = 1,
        reasons: tuple[str, ...] = (),
    ) -> None:
        """Emit an event."""
        self.emit(Event(kind, vertex, text, data, stream, reasons))

    def scratch_directory(self) -> Path:
        """A fresh directory for one step's upper directory, downloads and the like."""
        self._numbered += 1
        path = self.directory / str(self._numbered)
        path.mkdir(mode=0o700, parents=True)
        return path

    # -- stages -----------------------------------------------------------------------------------------

    async def _build_stage(self, index: int) -> StageRun:
        plan = self.plan.stages[index]
        run = await self._from(plan)
        ahead = self._look_ahead(run)
        try:
            for offset, step in enumerate(plan.stage.steps):
                run.vertex = plan.first_step + offset
                run.ordinal = offset
                self.started(run.vertex)
                begun = ahead.steps.pop(offset, None) if ahead else None
                work = self.step(run, step) if begun is None else begun.apply_to(run)
                await self._located(step.span, run.vertex, work)
                self.tell("done", run.vertex, run.image.id)
        finally:
            if ahead is not None:
                await ahead.close()
        return run

    def _look_ahead(self, run: StageRun) -> Ahead | None:
        """Begin what later instructions of the stage can do now, if it has such."""
        if not any(isinstance(step, ins.Copy | ins.Run) for step in run.plan.stage.steps[1:]):
            return None
        from sampan.build.ahead import Ahead

        self.started(run.plan.first_step)
        ahead = Ahead(self, run)
        ahead.begin()
        return ahead

    def started(self, vertex: int) -> None:
        """Tell that a step has begun, once."""
        if vertex not in self._started:
            self._started.add(vertex)
            self.tell("start", vertex)

    async def _located(self, span: Span, vertex: int, work: Awaitable[None]) -> None:
        try:
            await work
        except SampanError as error:
            self.tell("failed", vertex, error.message)
            raise located(error, self.file, span) from error
        except OSError as error:
            failure = SystemFailure(_worded(error))
            self.tell("failed", vertex, failure.message)
            raise located(failure, self.file, span) from error
        except Exception as error:
            # A fault of the engine's own: the client's stream ends with words, not in the middle.
            log.exception("building %s", self.file.name)
            failure = SystemFailure(f"internal error: {type(error).__name__}: {error}")
            self.tell("failed", vertex, failure.message)
            raise located(failure, self.file, span) from error

    async def _from(self, plan: StagePlan) -> StageRun:
        run = StageRun(plan, scratch(self.platform), Scope(self.plan.scope))
        run.vertex = plan.vertex
        if plan.parent is not None:
            parent = await self.stage(plan.parent)
            run.image, run.scope = parent.image, Scope(self.plan.scope, parent.scope.args)
            run.base_layers = parent.base_layers
        self.tell("start", plan.vertex)
        await self._located(plan.stage.base.span, plan.vertex, self._base(run))
        self.tell("done", plan.vertex, run.image.id if run.image.layered else "")
        return run

    async def _base(self, run: StageRun) -> None:
        plan = run.plan
        base = plan.stage.base
        if not plan.base:
            raise InvalidParameter(f"base name ({base.base}) should not be blank")
        if base.platform and not plan.platform:
            raise InvalidParameter(f"empty platform value from expression {base.platform}")
        platform = parse_platform(plan.platform) if plan.platform else self.platform
        self._check_platform(platform)
        if plan.parent is None and plan.base != "scratch":
            run.image = await self.worker.resolve(
                plan.base, platform, self.options.pull, lambda text: self.tell("note", plan.vertex, text)
            )
            run.base_layers = len(run.image.document["rootfs"]["diff_ids"])
        if base.stage and self.file.find(base.stage, plan.stage.index) is not None:
            raise InvalidParameter(f"{base.stage} stage name already used")
        await self._triggers(run)

    def _check_platform(self, platform: Platform) -> None:
        here = native()
        if (platform.os, platform.architecture) != (here.os, here.architecture):
            raise InvalidParameter(
                f"platform {platform} can't run here: this machine is {here}",
                hint="Building for another architecture needs emulation, which this engine doesn't set up.",
            )

    async def _triggers(self, run: StageRun) -> None:
        """Execute the ONBUILD triggers of the base image, which are taken out of the result."""
        triggers = list(run.image.config.get("OnBuild") or [])
        if not triggers:
            return
        word = "trigger" if len(triggers) == 1 else "triggers"
        self.tell("note", run.vertex, f"# Executing {len(triggers)} build {word}")
        config = run.image.changed_config()
        config["OnBuild"] = None
        run.image = run.image.with_config(config)
        for number, text in enumerate(triggers):
            run.ordinal = -1 - number
            await self.step(run, parse_instruction(text, self.file.escape))

    # -- instructions -----------------------------------------------------------------------------------

    async def step(self, run: StageRun, one: ins.Instruction) -> None:
        """Apply one instruction to the stage's image."""
        from sampan.build.stepcopy import CopyStep
        from sampan.build.steprun import RunStep

        if isinstance(one, ins.Run):
            await RunStep(self, run, one).apply()
        elif isinstance(one, ins.Copy):
            await CopyStep(self, run, one).apply()
        elif isinstance(one, ins.Arg):
            await self._arg(run, one)
        elif one.name == "WORKDIR" and isinstance(one, ins.Text):
            await self._workdir(run, one)
        else:
            await self._metadata(run, one)

    async def _arg(self, run: StageRun, one: ins.Arg) -> None:
        shown = []
        for item in one.items:
            run.scope.declare(item, run.env)
            default = run.scope.expander(run.env).word(item.default) if item.default is not None else None
            shown.append(item.name if default is None else f"{item.name}={default}")
        comment = "ARG " + " ".join(shown)
        await self._record(run, one.name, imageconfig.nop(run.image.config, comment), comment, None)

    async def _metadata(self, run: StageRun, one: ins.Instruction) -> None:
        config = run.image.changed_config()
        comment = imageconfig.apply(config, one, run.scope.expander(run.env), run.remembered)
        # SHELL words its own entry with the new shell already.
        created_by = imageconfig.nop(config, comment)
        await self._record(run, one.name, created_by, comment, config)

    async def _record(
        self, run: StageRun, name: str, created_by: str, comment: str, config: imageconfig.Config | None
    ) -> None:
        """Add an entry without a layer; the cache keeps its time, so an equal build gives the same id."""
        inputs = self.inputs(name, run.image.id, {"instruction": comment})
        hit = await self.cached(run, inputs)
        if hit is None:
            hit = Hit(None, timestamp(self.epoch))
            self.store(run, inputs, comment, hit, 0)
        run.image = run.image.then(created_by, hit.created, config=config, author=run.remembered.author)

    async def _workdir(self, run: StageRun, one: ins.Text) -> None:
        config = run.image.changed_config()
        path = imageconfig.set_workdir(config, run.scope.expander(run.env).word(one.value))
        inputs = self.inputs(one.name, run.image.chain or "", {"directory": path})
        created_by = imageconfig.nop_close(run.image.config, f"WORKDIR {path}")

        async def make() -> Made:
            return await asyncio.to_thread(self._make_workdir, run.image.chain, path)

        await self.layered(run, inputs, f"WORKDIR {path}", created_by, make, config=config)

    def _make_workdir(self, chain: str | None, path: str) -> Made:
        upper, work, lowers = self.upper(chain)
        with RootFs(lowers, upper, work) as rootfs:
            try:
                os.close(rootfs.make_directories(path))
            except NotADirectoryError:
                raise InvalidParameter(f"mkdir {path}: not a directory") from None
        return self.adopt(chain, upper, lowers)

    # -- layers and cache -------------------------------------------------------------------------------

    def upper(self, chain: str | None) -> tuple[Path, Path, list[Path]]:
        """An upper and a work directory for a step on top of ``chain``, and the directories below."""
        lowers = self.worker.layers.lowers(chain)
        upper, work = self.worker.layers.make_upper(chain, self.scratch_directory())
        self.worker.bound(upper, work)
        return upper, work, lowers

    def adopt(self, chain: str | None, upper: Path, lowers: list[Path]) -> Made:
        """Make a step's upper directory a layer, unless nothing is in it."""
        if not changed(upper, lowers):
            return Made(None)
        if self.epoch is not None:
            clamp_times(upper, self.epoch)
        layers = self.worker.layers
        # The files of a bounded step belong to its project for good; those of a layer must not.
        return Made((layers.capture if self.worker.bounded else layers.adopt)(chain, upper))

    async def layered(
        self,
        run: StageRun,
        inputs: Inputs,
        description: str,
        created_by: str,
        make: Callable[[], Awaitable[Made]],
        *,
        config: imageconfig.Config | None = None,
    ) -> Hit:
        """Take the step's layer from the cache or ``make`` it; then add it to the stage's image."""
        hit = await self.cached(run, inputs)
        if hit is None:
            made = await make()
            chain = made.layer.chain_id if made.layer else None
            hit = Hit(chain, timestamp(self.epoch))
            self.store(run, inputs, description, hit, made.layer.size if made.layer else 0)
        await self.add_layer(run, created_by, hit, config)
        return hit

    async def add_layer(
        self, run: StageRun, created_by: str, hit: Hit, config: imageconfig.Config | None = None
    ) -> None:
        """Put a step's layer, made or found, on top of the stage's image."""
        layer = None
        if hit.chain is not None:
            found = self.worker.layers.get(hit.chain)
            if found.parent != run.image.chain:
                found = await asyncio.to_thread(self._on_top, run.image.chain, found)
            layer = (found.chain_id, found.diff_id)
        run.image = run.image.then(
            created_by, hit.created, config=config, layer=layer, author=run.remembered.author
        )

    def _on_top(self, parent: str | None, layer: Layer) -> Layer:
        """The same layer on top of ``parent``: it was made over another one (``--link``)."""
        layers = self.worker.layers
        stream = io.BufferedReader(PiecesReader(layers.tar(layer.chain_id)))
        return layers.apply(parent, stream, diff_id=layer.diff_id)

    def inputs(self, kind: str, below: str, values: Mapping[str, object]) -> Inputs:
        """What a step depends on; SOURCE_DATE_EPOCH as well, which its times are by."""
        dated = {} if self.epoch is None else {"SOURCE_DATE_EPOCH": self.epoch}
        return Inputs(kind, below, {**values, **dated})

    async def cached(self, run: StageRun, inputs: Inputs) -> Hit | None:
        """The cache's answer for a step; tells the client, and why not when it isn't there."""
        if self.builds_anew(run):
            self.tell("why", run.vertex, reasons=("the cache was not to be used",))
            return None
        hit = self.worker.cache.lookup(inputs.key())
        if hit is not None:
            self.tell("cached", run.vertex)
            self.results[inputs.key()] = hit
            return hit
        previous = self.worker.cache.previous(self.slot(run))
        self.tell("why", run.vertex, reasons=explain(previous, inputs))
        return None

    def builds_anew(self, run: StageRun) -> bool:
        """Whether the cache isn't to be used for this stage."""
        name = run.plan.stage.base.stage.lower()
        return self.options.no_cache or name in (one.lower() for one in self.options.no_cache_filter)

    def store(self, run: StageRun, inputs: Inputs, description: str, hit: Hit, size: int) -> None:
        """Put a step's result into the cache."""
        self.results[inputs.key()] = Hit(hit.chain, hit.created, description)
        self.worker.cache.store(inputs, self.slot(run), description, hit, size)

    def slot(self, run: StageRun) -> str:
        """The place of the current instruction in what the user takes for "the same build"."""
        name = self.options.tags[0] if self.options.tags else self.file.name
        text = json.dumps([name, run.plan.stage.name, run.ordinal])
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    def find_stage(self, name: str, run: StageRun) -> int | None:
        """The stage that ``--from=name`` means."""
        return find_stage(self.file, name, run.plan.stage.index)

    async def from_image(self, name: str, run: StageRun) -> Image:
        """The stage or image that ``--from=name`` means, built or pulled."""
        index = self.find_stage(name, run)
        if index is not None:
            if index not in self.plan.stages:
                reason = f"invalid from flag value {name}: the stage is named only by an ONBUILD trigger"
                raise InvalidParameter(reason, hint="Refer to it in the Dockerfile itself, by COPY --from.")
            return (await self.stage(index)).image
        self._check_from(name, run)
        try:
            return await self.worker.resolve(
                name, self.platform, self.options.pull, lambda text: self.tell("note", run.vertex, text)
            )
        except SampanError as error:
            hint = self._other_stage(name, run) or error.hint
            raise BuildFailed(f"invalid from flag value {name}: {error.message}", hint=hint) from error

    def _other_stage(self, name: str, run: StageRun) -> str:
        """What ``--from=name``, which is no image either, may have meant."""
        if self.file.find(name):
            return f"Stage {name} comes later in the file."
        earlier = self.file.stages[: run.plan.stage.index]
        close = nearest(name, [stage.base.stage for stage in earlier if stage.base.stage])
        return f"did you mean stage {close}?" if close else ""

    def _check_from(self, name: str, run: StageRun) -> None:
        """Refuse what means a stage that can't be: this one, or a number that none has."""
        own = run.plan.stage
        if name == str(own.index) or (own.base.stage and name.lower() == own.base.stage.lower()):
            raise BuildFailed(f"invalid from flag value {name}: refers to current build stage")
        if name.isascii() and name.isdigit():
            raise BuildFailed(f"invalid from flag value {name}: index out of bounds")


def _worded(error: OSError) -> str:
    """An error of the system as Go words it: what it is about, then what is wrong."""
    reason = (error.strerror or str(error)).lower()
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    return f"{name if len(name) <= 200 else name[:200] + '…'}: {reason}" if name else reason


def opaque_values(values: dict[str, str]) -> dict[str, str]:
    """Variables for a cache row: their values as digests, since they may be secret."""
    return {name: opaque(value) for name, value in values.items()}
