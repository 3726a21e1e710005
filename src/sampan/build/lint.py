"""Build checks: the rules of Docker's "Build checks" reference, with its names and messages."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sampan.build import instructions as ins
from sampan.build.diagnostics import Span, nearest
from sampan.build.ignore import Ignore
from sampan.build.options import BuildOptions, native
from sampan.build.plan import find_stage
from sampan.build.scope import platform_args
from sampan.build.words import Lexer
from sampan.errors import InvalidParameter

_URL = "https://docs.docker.com/go/dockerfile/rule/"
_SECRET = re.compile(
    r"(?i)(?:_|^)(?:apikey|auth|credential|credentials|key|password|pword|passwd|secret|token)(?:_|$)"
)
_NOT_SECRET = re.compile(r"(?i)(?:_|^)(?:public)(?:_|$)")
_EXPERIMENTAL = ("InvalidDefinitionDescription",)
BaseEnv = Callable[[str], set[str] | None]
"""The variables that a base image sets, None when the image isn't known."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule broken at one place."""

    rule: str
    message: str
    span: Span

    @property
    def url(self) -> str:
        """Where the rule is explained."""
        return _URL + re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", self.rule).lower() + "/"

    @property
    def text(self) -> str:
        """One line for people."""
        return f"{self.rule}: {self.message} (line {self.span.first})"


@dataclass(slots=True)
class Settings:
    """The ``check`` directive: rules to leave out or, of the experimental ones, to add (lower case; ``all``)."""

    skip: set[str] = field(default_factory=set)
    experimental: set[str] = field(default_factory=set)
    error: bool = False

    @classmethod
    def of(cls, file: ins.Dockerfile, options: BuildOptions) -> Settings:
        """The file's directive; the build argument BUILDKIT_DOCKERFILE_CHECK stands above it."""
        found = cls()
        for text in (file.directives.get("check", ""), options.args.get("BUILDKIT_DOCKERFILE_CHECK") or ""):
            for part in text.split(";"):
                key, _, value = part.strip().partition("=")
                found._take(key.strip().lower(), value)
        return found

    def _take(self, key: str, value: str) -> None:
        names = {name.strip().lower() for name in value.split(",")}
        if key == "skip":
            self.skip = names
        elif key == "experimental":
            self.experimental = names
        elif key == "error":
            self.error = value.strip().lower() in ("true", "1")
        elif key:
            known = "Known are skip, error and experimental."
            raise InvalidParameter(f"invalid check option {key!r}", hint=known)

    def wants(self, rule: str) -> bool:
        """Whether a rule's findings are to be told."""
        if rule in _EXPERIMENTAL and not {rule.lower(), "all"} & self.experimental:
            return False
        return rule.lower() not in self.skip


def fails(file: ins.Dockerfile, options: BuildOptions) -> bool:
    """Whether findings are to be errors."""
    return Settings.of(file, options).error


def names(findings: list[Finding]) -> str:
    """The rules that were broken, each once."""
    return ", ".join(dict.fromkeys(finding.rule for finding in findings))


def check(
    file: ins.Dockerfile, options: BuildOptions, ignore: Ignore | None, base_env: BaseEnv = lambda _: None
) -> list[Finding]:
    """All findings, in the order of lines."""
    wanted = Settings.of(file, options)
    if "all" in wanted.skip:
        return []
    checker = _Checker(file, options, ignore, base_env)
    found = [one for one in checker.findings() if wanted.wants(one.rule)]
    return sorted(found, key=lambda finding: (finding.span.first, finding.rule))


class _Checker:
    """One file under all rules."""

    def __init__(
        self, file: ins.Dockerfile, options: BuildOptions, ignore: Ignore | None, base_env: BaseEnv
    ) -> None:
        self.file = file
        self.options = options
        self.ignore = ignore
        self.base_env = base_env
        self.variables: dict[int, set[str] | None] = {}

    def findings(self) -> Iterator[Finding]:
        for span, text in self.file.empty_continuations:
            yield Finding("NoEmptyContinuation", f"Empty continuation line found in: {text}", span)
        yield from self._casing()
        yield from self._descriptions()
        declared = self._globals()
        seen: set[str] = set()
        for stage in self.file.stages:
            yield from self._stage_name(stage, seen)
            yield from self._from(stage, declared)
            yield from self._steps(stage)
            yield from self._undefined(stage)

    def _descriptions(self) -> Iterator[Finding]:
        """Comments directly above a stage or argument that don't begin with its name."""
        for one in self._all():
            if isinstance(one, ins.From):
                keys, comment = [one.stage], one.comment
            elif isinstance(one, ins.Arg):
                keys, comment = [item.name for item in one.items], one.comment
            else:
                continue
            if not comment or keys == [""] or comment.rsplit("\n", 1)[-1].split(" ")[0] in keys:
                continue
            key = keys[0] if len(keys) == 1 else "<arg_key>"
            message = f"Comment for {one.name} should follow the format: `# {key} <description>`"
            yield Finding("InvalidDefinitionDescription", message, one.span)

    def _all(self) -> list[ins.Instruction]:
        found: list[ins.Instruction] = list(self.file.globals)
        for stage in self.file.stages:
            found += [stage.base, *stage.steps]
        return [one for one in found if not (isinstance(one, ins.Label) and one.literal)]

    def _casing(self) -> Iterator[Finding]:
        keywords = [one.keyword for one in self._all()]
        lower = sum(word.islower() for word in keywords)
        upper = sum(word.isupper() for word in keywords)
        for one in self._all():
            word = one.keyword
            if not word.isupper() and not word.islower():
                message = f"Command '{word}' should be consistently cased"
            elif upper >= lower and not word.isupper():
                message = f"Command '{word}' should match the case of the command majority (uppercase)"
            elif lower > upper and not word.islower():
                message = f"Command '{word}' should match the case of the command majority (lowercase)"
            else:
                continue
            yield Finding("ConsistentInstructionCasing", message, one.span)

    def _globals(self) -> set[str]:
        return {item.name for arg in self.file.globals for item in arg.items}

    def _stage_name(self, stage: ins.Stage, seen: set[str]) -> Iterator[Finding]:
        base = stage.base
        name = base.stage
        if not name:
            return
        if name != name.lower():
            yield Finding("StageNameCasing", f"Stage name '{name}' should be lowercase", base.span)
        if name.lower() in ("scratch", "context"):
            message = f'Stage name should not use the same name as reserved stage "{name}"'
            yield Finding("ReservedStageName", message, base.span)
        if name.lower() in seen:
            message = f'Duplicate stage name "{name}", stage names should be unique'
            yield Finding("DuplicateStageName", message, base.span)
        seen.add(name.lower())
        if base.keyword.isupper() != base.as_keyword.isupper():
            message = f"'{base.as_keyword}' and '{base.keyword}' keywords' casing do not match"
            yield Finding("FromAsCasing", message, base.span)

    def _from(self, stage: ins.Stage, declared: set[str]) -> Iterator[Finding]:
        base = stage.base
        automatic = set(platform_args(native()))
        undefined: list[str] = []
        known = dict.fromkeys(declared | automatic, "x")
        lexer = Lexer(self.file.escape, undefined=undefined.append)
        for text in (base.base, base.platform):
            _quietly(lexer, text, known)
        for name in undefined:
            close = nearest(name, sorted(known), 3)
            hint = f" (did you mean {close}?)" if close else ""
            yield Finding("UndefinedArgInFrom", f"FROM argument '{name}' is not declared{hint}", base.span)
        yield from self._platform_flag(base)
        yield from self._default_base(base)

    def _platform_flag(self, base: ins.From) -> Iterator[Finding]:
        if base.platform in ("$TARGETPLATFORM", "${TARGETPLATFORM}"):
            message = (
                f"Setting platform to predefined {base.platform} in FROM is redundant "
                "as this is the default behavior"
            )
            yield Finding("RedundantTargetPlatform", message, base.span)
        elif base.platform and "$" not in base.platform:
            architecture = base.platform.split("/")[-1]
            if architecture in base.stage.lower() and base.stage:
                return
            message = f'FROM --platform flag should not use constant value "{base.platform}"'
            yield Finding("FromPlatformFlagConstDisallowed", message, base.span)

    def _default_base(self, base: ins.From) -> Iterator[Finding]:
        if "$" not in base.base:
            return
        defaults = dict(platform_args(native()))
        for arg in self.file.globals:
            for item in arg.items:
                defaults[item.name] = _quietly(Lexer(self.file.escape), item.default or "", defaults)
        text = _quietly(Lexer(self.file.escape), base.base, defaults)
        if not text or text.endswith((":", "@", "/")) or text.startswith((":", "/")) or "//" in text:
            message = f"Default value for ARG {base.base} results in empty or invalid base image name"
            yield Finding("InvalidDefaultArgInFrom", message, base.span)

    def _steps(self, stage: ins.Stage) -> Iterator[Finding]:
        counts: dict[str, list[ins.Instruction]] = {}
        shell = absolute = False
        for step in stage.steps:
            if step.name in ("CMD", "ENTRYPOINT", "HEALTHCHECK"):
                counts.setdefault(step.name, []).append(step)
            shell = shell or isinstance(step, ins.Shell)
            yield from self._one(step, shell)
            if step.name == "WORKDIR" and isinstance(step, ins.Text):
                if step.value.startswith(("/", "$")):
                    absolute = True
                elif not absolute:
                    reason = "can have unexpected results if the base image changes"
                    message = f"Relative workdir '{step.value}' {reason}"
                    yield Finding("WorkdirRelativePath", message, step.span)
        for name, steps in counts.items():
            for step in steps[:-1]:
                message = (
                    f"Multiple {name} instructions should not be used in the same stage "
                    "because only the last one will be used"
                )
                yield Finding("MultipleInstructionsDisallowed", message, step.span)

    def _one(self, step: ins.Instruction, shell: bool) -> Iterator[Finding]:
        if isinstance(step, ins.Cmd | ins.Entrypoint) and step.command.shell and not shell:
            message = (
                f"JSON arguments recommended for {step.name} to prevent unintended behavior "
                "related to OS signals"
            )
            if step.command.words[0].startswith("["):
                message += (
                    ": this is no JSON list (texts in double quotes, a comma between two), so a shell gets it"
                )
            yield Finding("JSONArgsRecommended", message, step.span)
        elif step.name == "MAINTAINER":
            message = "Maintainer instruction is deprecated in favor of using label"
            yield Finding("MaintainerDeprecated", message, step.span)
        elif isinstance(step, ins.Env | ins.Label):
            yield from self._pairs(step)
        elif isinstance(step, ins.Arg):
            for item in step.items:
                yield from _secret(step, item.name)
        elif isinstance(step, ins.Copy):
            yield from self._copy(step)
        elif step.name == "EXPOSE" and isinstance(step, ins.Words):
            yield from _expose(step)

    def _pairs(self, step: ins.Env | ins.Label) -> Iterator[Finding]:
        for pair in step.pairs:
            if pair.legacy:
                message = (
                    f'"{step.name} key=value" should be used instead of legacy "{step.name} key value" format'
                )
                yield Finding("LegacyKeyValueFormat", message, step.span)
            if step.name == "ENV":
                yield from _secret(step, pair.key)

    def _copy(self, step: ins.Copy) -> Iterator[Finding]:
        if step.from_ or self.ignore is None:
            return
        announced = {place for place, _ in step.heredocs}
        for place, source in enumerate(step.sources):
            path = posixpath.normpath(source.lstrip("/"))
            if place in announced or "$" in source or "://" in source or path in (".", ".."):
                continue
            if not any(ch in path for ch in "*?[") and self.ignore.excludes(path):
                message = f'Attempting to {step.name} file "{source}" that is excluded by .dockerignore'
                yield Finding("CopyIgnoredFile", message, step.span)

    # -- variables --------------------------------------------------------------------------------------

    def _undefined(self, stage: ins.Stage) -> Iterator[Finding]:
        known = self._known(stage)
        self.variables[stage.index] = known
        if known is None:
            return
        for step in stage.steps:
            for name in self._missing(step, known):
                close = nearest(name, sorted(known), 2)
                hint = f" (did you mean ${close}?)" if close else ""
                yield Finding("UndefinedVar", f"Usage of undefined variable '${name}'{hint}", step.span)
            if isinstance(step, ins.Env):
                known |= {pair.key for pair in step.pairs}
            elif isinstance(step, ins.Arg):
                known |= {item.name for item in step.items}

    def _known(self, stage: ins.Stage) -> set[str] | None:
        base = stage.base.base
        if "$" in base:
            return None
        if base == "scratch":
            return {"PATH"}
        parent = find_stage(self.file, base, stage.index) if self.file.find(base, stage.index) else None
        inherited = self.variables.get(parent) if parent is not None else self.base_env(base)
        return None if inherited is None else {"PATH", *inherited}

    def _missing(self, step: ins.Instruction, known: set[str]) -> list[str]:
        missing: list[str] = []
        lexer = Lexer(self.file.escape, undefined=missing.append)
        for text in _texts(step):
            _quietly(lexer, text, dict.fromkeys(known, "x"))
        return list(dict.fromkeys(missing))


def _texts(step: ins.Instruction) -> list[str]:
    """The texts of an instruction that the builder expands."""
    if isinstance(step, ins.Env | ins.Label):
        return [pair.value for pair in step.pairs]
    if isinstance(step, ins.Arg):
        return [item.default for item in step.items if item.default]
    if isinstance(step, ins.Copy):
        return [*step.sources, step.destination, step.chown, step.chmod]
    if isinstance(step, ins.Text) and step.name != "MAINTAINER":
        return [step.value]
    return list(step.values) if isinstance(step, ins.Words) else []


def _quietly(lexer: Lexer, text: str, variables: dict[str, str]) -> str:
    try:
        return lexer.word(text, variables)
    except InvalidParameter:
        return text


def _secret(step: ins.Instruction, name: str) -> Iterator[Finding]:
    if _SECRET.search(name) and not _NOT_SECRET.search(name):
        message = f'Do not use ARG or ENV instructions for sensitive data ({step.name} "{name}")'
        yield Finding("SecretsUsedInArgOrEnv", message, step.span)


def _expose(step: ins.Words) -> Iterator[Finding]:
    for word in step.values:
        port, _, protocol = word.partition("/")
        if protocol != protocol.lower():
            message = f"Defined protocol '{word}' in EXPOSE instruction should be lowercase"
            yield Finding("ExposeProtoCasing", message, step.span)
        if ":" in port:
            message = (
                f"EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'"
            )
            yield Finding("ExposeInvalidFormat", message, step.span)
