"""What each Dockerfile instruction says, as types. Texts are unexpanded: a build expands them on its way."""

from __future__ import annotations

from dataclasses import dataclass, field

from sampan.build.diagnostics import Span
from sampan.build.parser import Heredoc


@dataclass(frozen=True, slots=True)
class Instruction:
    """Common to all: the capital keyword, the logical line as written, and where it stands."""

    name: str
    original: str
    span: Span
    keyword: str = ""


@dataclass(frozen=True, slots=True)
class From(Instruction):
    """``FROM [--platform=P] BASE [AS STAGE]``; ``stage`` as written, compared in lower case."""

    base: str = ""
    stage: str = ""
    platform: str = ""
    as_keyword: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """``KEY=VALUE``; ``legacy`` when written with a blank between."""

    key: str
    value: str
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class Env(Instruction):
    """``ENV``."""

    pairs: tuple[KeyValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Label(Instruction):
    """``LABEL``. ``literal``: from the command line's ``--label``, not to be expanded."""

    pairs: tuple[KeyValue, ...] = ()
    literal: bool = False


@dataclass(frozen=True, slots=True)
class ArgItem:
    """One ``NAME[=DEFAULT]`` of an ARG."""

    name: str
    default: str | None


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    """``ARG``. ``comment`` is what stands in the lines directly above."""

    items: tuple[ArgItem, ...] = ()
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """A command line: ``words``, and whether it is the shell form (then one word, for the shell)."""

    words: tuple[str, ...]
    shell: bool


@dataclass(frozen=True, slots=True)
class MountSpec:
    """One ``--mount`` of a RUN, options unexpanded but for their names; empty text means not given."""

    type: str = "bind"
    target: str = ""
    source: str = ""
    from_: str = ""
    id: str = ""
    readonly: bool | None = None
    sharing: str = "shared"
    required: bool = False
    env: str | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Run(Instruction):
    """``RUN``. ``mounts`` are the raw texts of the flags: they may hold variables."""

    command: Command = Command((), True)
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[str, ...] = ()
    network: str = ""
    security: str = ""


@dataclass(frozen=True, slots=True)
class Copy(Instruction):
    """``COPY`` and ``ADD``. ``sources`` of the here-documents are in ``heredocs`` by their place."""

    sources: tuple[str, ...] = ()
    destination: str = ""
    heredocs: tuple[tuple[int, Heredoc], ...] = ()
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    keep_git_dir: bool = False
    checksum: str = ""
    unpack: bool | None = None

    @property
    def is_add(self) -> bool:
        """Whether it is ADD."""
        return self.name == "ADD"


@dataclass(frozen=True, slots=True)
class Cmd(Instruction):
    """``CMD``."""

    command: Command = Command((), True)


@dataclass(frozen=True, slots=True)
class Entrypoint(Instruction):
    """``ENTRYPOINT``."""

    command: Command = Command((), True)


@dataclass(frozen=True, slots=True)
class Shell(Instruction):
    """``SHELL``."""

    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Text(Instruction):
    """``WORKDIR``, ``USER``, ``STOPSIGNAL``, ``MAINTAINER``: one text."""

    value: str = ""


@dataclass(frozen=True, slots=True)
class Words(Instruction):
    """``EXPOSE`` and ``VOLUME``: several words."""

    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Healthcheck(Instruction):
    """``HEALTHCHECK``; durations in nanoseconds, 0 where not given. ``test`` as the image config has it."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Onbuild(Instruction):
    """``ONBUILD``: the trigger's text."""

    trigger: str = ""


@dataclass(slots=True)
class Stage:
    """A FROM and what follows it up to the next one."""

    index: int
    base: From
    steps: list[Instruction] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The stage's name in lower case, or its number."""
        return self.base.stage.lower() or str(self.index)


@dataclass(slots=True)
class Dockerfile:
    """A whole file: global ARGs, then stages."""

    name: str
    lines: list[str]
    escape: str
    directives: dict[str, str]
    globals: list[Arg]
    stages: list[Stage]
    empty_continuations: list[tuple[Span, str]] = field(default_factory=list)

    def find(self, name: str, before: int | None = None) -> Stage | None:
        """The last stage called ``name`` (case ignored) among the first ``before`` ones."""
        end = len(self.stages) if before is None else before
        for stage in reversed(self.stages[:end]):
            if stage.base.stage and stage.base.stage.lower() == name.lower():
                return stage
        return None
