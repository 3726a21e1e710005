"""Looking ahead in a stage: what its later instructions fetch, and the layers that stand on nothing of it.

No RUN changes what a later instruction's words mean, so they are known when the stage begins: downloads, checkouts
and pulls begin at once, and files of ``COPY --link`` are copied, while earlier instructions run. What came of it
is told, failed or used when the instruction's turn has come.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sampan.build import imageconfig
from sampan.build import instructions as ins
from sampan.build.mountflag import parse_mount_flag
from sampan.build.scope import Scope
from sampan.build.stepcopy import CopyStep
from sampan.errors import SampanError

if TYPE_CHECKING:
    from sampan.build.executor import Build, StageRun


class Ahead:
    """The steps of one stage that began before their turn, by their place. ``begin()`` once, then ``close()``."""

    def __init__(self, build: Build, run: StageRun) -> None:
        from sampan.build.executor import StageRun

        self.build = build
        self.steps: dict[int, CopyStep] = {}
        self._pulls: list[asyncio.Task[object]] = []
        # The stage as its words see it: image and scope change with each ENV, ARG and WORKDIR.
        self._seen = StageRun(run.plan, run.image, Scope(run.scope.outer, run.scope.args))

    def begin(self) -> None:
        """Begin whatever may. Where a text is wrong it ends: its instruction will say so."""
        plan = self._seen.plan
        for place, one in enumerate(plan.stage.steps):
            try:
                if place and isinstance(one, ins.Copy):
                    self._copy(place, one)
                elif place and isinstance(one, ins.Run) and any("from=" in text for text in one.mounts):
                    self._mounted_images(place, one)
                else:
                    self._follow(one)
            except SampanError:
                return

    async def close(self) -> None:
        """Stop what has not been used."""
        for step in self.steps.values():
            await step.abandon()
        for task in self._pulls:
            task.cancel()
        await asyncio.gather(*self._pulls, return_exceptions=True)

    def _at(self, place: int) -> StageRun:
        from sampan.build.executor import StageRun

        seen = self._seen
        scope = Scope(seen.scope.outer, seen.scope.args)
        return StageRun(seen.plan, seen.image, scope, vertex=seen.plan.first_step + place, ordinal=place)

    def _copy(self, place: int, one: ins.Copy) -> None:
        step = CopyStep(self.build, self._at(place), one)
        if step.may_begin():
            self.build.started(step.run.vertex)
            step.begin()
            self.steps[place] = step

    def _mounted_images(self, place: int, one: ins.Run) -> None:
        run = self._at(place)
        word = run.scope.expander(run.env).word
        for text in one.mounts:
            name = parse_mount_flag(text, one.span, word).from_
            if name and self.build.find_stage(name, run) is None:
                self.build.started(run.vertex)
                self._pulls.append(asyncio.create_task(self.build.from_image(name, run)))

    def _follow(self, one: ins.Instruction) -> None:
        seen = self._seen
        if isinstance(one, ins.Arg):
            for item in one.items:
                seen.scope.declare(item, seen.env)
            return
        config = seen.image.changed_config()
        if isinstance(one, ins.Env):
            imageconfig.apply(config, one, seen.scope.expander(seen.env), seen.remembered)
        elif one.name == "WORKDIR" and isinstance(one, ins.Text):
            imageconfig.set_workdir(config, seen.scope.expander(seen.env).word(one.value))
        else:
            return
        seen.image = seen.image.with_config(config)
