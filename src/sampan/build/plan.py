"""From a Dockerfile to a graph: which stages are needed, how parts are numbered, what waits for what."""

from __future__ import annotations

from dataclasses import dataclass, field

from sampan.build import instructions as ins
from sampan.build.diagnostics import nearest
from sampan.build.imageconfig import Expander
from sampan.build.mountflag import parse_mount_flag
from sampan.build.options import BuildOptions, Platform
from sampan.build.progress import Vertex
from sampan.build.scope import GlobalScope
from sampan.build.words import Lexer
from sampan.errors import InvalidParameter


@dataclass(slots=True)
class StagePlan:
    """A stage to build. ``base`` is the expanded name; ``parent`` the stage that it names, if it does."""

    stage: ins.Stage
    base: str
    platform: str
    parent: int | None
    vertex: int
    first_step: int
    needs: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Plan:
    """Everything to do, in the order of the file."""

    file: ins.Dockerfile
    stages: dict[int, StagePlan]
    target: int
    vertices: list[Vertex]
    scope: GlobalScope

    def stage_of(self, name: str, before: int) -> int | None:
        """The number of the stage that ``--from=name`` means in stage ``before``, None for an image."""
        return find_stage(self.file, name, before)


def find_stage(file: ins.Dockerfile, name: str, before: int) -> int | None:
    """The stage called ``name``, or numbered so, among those before stage ``before``."""
    found = file.find(name, before)
    if found is not None:
        return found.index
    if name.isascii() and name.isdigit() and len(name) < 6 and int(name) < before:
        return int(name)
    return None


def make_plan(file: ins.Dockerfile, options: BuildOptions, target: Platform) -> Plan:
    """Plan the build of ``options.target`` (the last stage by default).

    Raises InvalidParameter: ``target stage "x" could not be found``.
    """
    scope = GlobalScope(options, target, file.escape)
    for arg in file.globals:
        scope.declare(arg)
    wanted = _target(file, options.target)
    plans = {stage.index: _stage_plan(file, stage, scope) for stage in file.stages[: wanted + 1]}
    needed = _closure(plans, wanted)
    kept = {index: plans[index] for index in sorted(needed)}
    _add_labels(kept[wanted].stage, options.labels)
    return Plan(file, kept, wanted, _number(file, kept), scope)


def _target(file: ins.Dockerfile, name: str) -> int:
    if not name:
        return len(file.stages) - 1
    stage = file.find(name)
    if stage is not None:
        return stage.index
    names = [stage.base.stage for stage in file.stages if stage.base.stage]
    close = nearest(name, names)
    hint = f"did you mean {close}?" if close else f"The stages are: {', '.join(names) or 'unnamed'}."
    if name.isdigit():
        hint += " A target is named, not counted: FROM … AS NAME."
    raise InvalidParameter(f'target stage "{name}" could not be found', hint=hint)


def _stage_plan(file: ins.Dockerfile, stage: ins.Stage, scope: GlobalScope) -> StagePlan:
    base = scope.expand(stage.base.base)
    parent = file.find(base, stage.index)
    plan = StagePlan(stage, base, scope.expand(stage.base.platform), parent.index if parent else None, 0, 0)
    if parent is not None:
        plan.needs.add(parent.index)
    for step in stage.steps:
        for name in sources_of(step):
            index = find_stage(file, name, stage.index)
            if index is not None:
                plan.needs.add(index)
    return plan


def sources_of(step: ins.Instruction) -> list[str]:
    """The names after ``--from=`` and ``from=`` of an instruction."""
    if isinstance(step, ins.Copy):
        return [step.from_] if step.from_ else []
    if isinstance(step, ins.Run):
        lexer = Lexer(keep_unset=True)
        keep = Expander(lambda t: lexer.word(t, {}), lambda t: lexer.words(t, {}))
        mounts = [parse_mount_flag(text, step.span, keep.word) for text in step.mounts if "from=" in text]
        return [mount.from_ for mount in mounts if mount.from_]
    return []


def _closure(plans: dict[int, StagePlan], wanted: int) -> set[int]:
    needed: set[int] = set()
    waiting = [wanted]
    while waiting:
        index = waiting.pop()
        if index not in needed:
            needed.add(index)
            waiting += plans[index].needs
    return needed


def _add_labels(stage: ins.Stage, labels: dict[str, str]) -> None:
    """``--label``s become LABEL instructions at the end, one each, as dockerd does."""
    for key, value in sorted(labels.items()):
        text = f"LABEL {key}={value}"
        pair = ins.KeyValue(key, value)
        stage.steps.append(ins.Label("LABEL", text, stage.base.span, "LABEL", (pair,), literal=True))


def _number(file: ins.Dockerfile, plans: dict[int, StagePlan]) -> list[Vertex]:
    """Number global ARGs, FROMs and steps; inputs are the instruction before and what is copied from."""
    vertices = [Vertex(number, arg.original, -1) for number, arg in enumerate(file.globals)]
    last: dict[int, int] = {}
    for index, plan in plans.items():
        plan.vertex = len(vertices)
        above = (last[plan.parent],) if plan.parent is not None else ()
        vertices.append(Vertex(plan.vertex, plan.stage.base.original, index, above))
        plan.first_step = len(vertices)
        for step in plan.stage.steps:
            froms = [find_stage(file, name, index) for name in sources_of(step)]
            others = tuple(last[found] for found in froms if found is not None and found in last)
            vertices.append(Vertex(len(vertices), step.original, index, (len(vertices) - 1, *others)))
        last[index] = len(vertices) - 1
    return vertices
