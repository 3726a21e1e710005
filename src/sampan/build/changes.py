"""``docker commit --change`` and ``docker import --change``: instructions applied to a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from sampan.build import imageconfig
from sampan.build.diagnostics import DockerfileError
from sampan.build.grammar import instruction_of
from sampan.build.instructions import Instruction, Text
from sampan.build.parser import parse
from sampan.build.words import Lexer
from sampan.errors import InvalidParameter

ALLOWED = (
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
)


def apply_changes(config: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """A copy of ``config`` (the ``config`` object of an image) changed as the Dockerfile lines ``changes`` say.

    They are read as one file: an instruction may go on in the next one, comments are passed over. Raises
    InvalidParameter with dockerd's words: ``RUN is not a valid change command`` for an instruction that isn't
    allowed there, the parser's message otherwise.
    """
    changed = dict(config)
    if not changes:
        return changed
    try:
        instructions = _parsed("\n".join(changes))
    except DockerfileError as problem:
        raise InvalidParameter(problem.reason, hint=problem.hint) from None
    state = imageconfig.StageState()
    for instruction in instructions:
        env = imageconfig.env_dict(changed)
        lexer = Lexer()
        expand = imageconfig.Expander(partial(lexer.word, env=env), partial(lexer.words, env=env))
        if isinstance(instruction, Text) and instruction.name == "WORKDIR":
            imageconfig.set_workdir(changed, expand.word(instruction.value))
        else:
            imageconfig.apply(changed, instruction, expand, state)
    return changed


def _parsed(text: str) -> list[Instruction]:
    if not text:
        raise DockerfileError("file with no instructions")
    file = parse(text.encode("utf-8", "surrogateescape"), "change")
    for node in file.nodes:
        if node.name not in ALLOWED:
            hint = f"A change may be one of {', '.join(ALLOWED)}."
            raise InvalidParameter(f"{node.keyword} is not a valid change command", hint=hint)
    try:
        return [instruction_of(node, file.escape) for node in file.nodes]
    except DockerfileError as problem:
        raise problem.located("change", file.lines) from None
