"""``docker commit --change`` and ``docker import --change``: one instruction applied to a configuration."""

from __future__ import annotations

from typing import Any

from sampan.build import imageconfig
from sampan.build.grammar import parse_instruction
from sampan.build.instructions import Text
from sampan.build.parser import split_command
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


def apply_change(config: dict[str, Any], text: str) -> dict[str, Any]:
    """A copy of ``config`` (the ``config`` object of an image) changed as the Dockerfile line ``text`` says.

    Raises InvalidParameter with dockerd's words: ``RUN is not a valid change command`` for an instruction
    that isn't allowed there, the parser's message otherwise.
    """
    keyword, _, _ = split_command(text)
    if not keyword:
        return dict(config)
    if keyword.upper() not in ALLOWED:
        hint = f"A change may be one of {', '.join(ALLOWED)}."
        raise InvalidParameter(f"{keyword} is not a valid change command", hint=hint)
    instruction = parse_instruction(text)
    changed = dict(config)
    env = imageconfig.env_dict(changed)
    lexer = Lexer()
    expand = imageconfig.Expander(lambda t: lexer.word(t, env), lambda t: lexer.words(t, env))
    if isinstance(instruction, Text) and instruction.name == "WORKDIR":
        imageconfig.set_workdir(changed, expand.word(instruction.value))
        return changed
    state = imageconfig.StageState()
    # In a list of changes the order of CMD and ENTRYPOINT is the caller's; neither clears the other.
    state.cmd_set = True
    imageconfig.apply(changed, instruction, expand, state)
    return changed
