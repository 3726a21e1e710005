"""What was meant: advice for the mistakes that people make most, given below the error and its code frame."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sampan.build.instructions import Dockerfile, Instruction

_JOINERS = ("&&", "||", "|", ";")
_COMMENT = re.compile(r"\s#(?:\s|$)")
_SHELLS = ("RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK", "ONBUILD")
_VARIABLE = re.compile(r"(?<!\\)\$\{?([A-Za-z_][A-Za-z0-9_]*)")
_LEFT_IN = re.compile(r"(?:^|&&|;)\s*cd\s+([^\s;&|]+)\s*$")


def in_writing(reason: str, lines: list[str], first: int) -> str:
    """Advice for an instruction that begins in line ``first`` and is refused for ``reason``; "" without any."""
    text = lines[first - 1].strip()
    mended = _mended(reason, text)
    if mended:
        return f"did you mean `{mended}`?"
    if reason.startswith("unknown instruction"):
        return _continuation(lines, first)
    return _trailing_comment(text)


def _mended(reason: str, text: str) -> str:
    if "names can not be blank" in reason and re.search(r"\w\s+=", text):
        return re.sub(r"(\w)\s+=\s*", r"\1=", text)
    if flag := re.search(r"missing a value on flag: (--\S+)", reason):
        return re.sub(rf"{flag[1]}\s+(?=[^\s-])", f"{flag[1]}=", text) if f"{flag[1]} " in text else ""
    if number := re.search(r'missing unit in duration "([0-9.]+)"', reason):
        return re.sub(rf"=([\"']?){re.escape(number[1])}(?![0-9.])", rf"=\g<1>{number[1]}s", text, count=1)
    words = text.split()
    if reason.startswith("FROM requires") and len(words) == 4 and re.fullmatch(r"a?s+|a", words[2].lower()):
        return " ".join([*words[:2], "AS", words[3]])
    return ""


def _continuation(lines: list[str], first: int) -> str:
    """An instruction that isn't known may be the rest of the one above."""
    above = next((n for n in range(first - 1, 0, -1) if not _is_idle(lines[n - 1])), 0)
    if not above:
        return (
            ""
            if any(map(str.strip, lines[: first - 1]))
            else "A Dockerfile begins with FROM and an image's name."
        )
    before, line = lines[above - 1].rstrip(), lines[first - 1]
    if re.search(r"\\\s*#", before):
        return f"What follows the \\ of line {above} ends the instruction there; a comment needs a line of its own."
    if line[:1].isspace() or line.startswith(_JOINERS) or before.endswith(_JOINERS):
        return f"If line {above} goes on here, it needs a \\ at its end: `{before.strip()} \\`"
    return ""


def _is_idle(line: str) -> bool:
    return not line.strip() or line.lstrip().startswith("#")


def _trailing_comment(text: str) -> str:
    if _COMMENT.search(text) and not text.upper().startswith(_SHELLS):
        return "A # begins a comment only at the beginning of a line."
    return ""


def in_doing(message: str, file: Dockerfile, first: int) -> str:
    """Advice for an instruction of line ``first`` that failed with ``message``; "" without any."""
    place = next(
        (
            (stage, number)
            for stage in file.stages
            for number, one in enumerate(stage.steps)
            if one.span.first == first
        ),
        None,
    )
    if place is None:
        return _of_base(message, file, first)
    stage, number = place
    one, above = stage.steps[number], stage.steps[:number]
    if one.name == "RUN" and message.startswith("The command"):
        return _of_command(one, above) or _of_variables(one, above, file) or _of_code(message)
    return _trailing_comment(one.original) or _of_variables(one, above, file) or _of_words(one, message)


def _of_base(message: str, file: Dockerfile, first: int) -> str:
    base = next((stage.base for stage in file.stages if stage.base.span.first == first), None)
    if base is None or not ("reference format" in message or "should not be blank" in message):
        return ""
    if base.base.startswith(("http://", "https://")):
        return "An image is named without https://, and without the pages of a web site: registry/name:tag."
    if names := _VARIABLE.findall(base.base):
        known = {item.name for arg in file.globals for item in arg.items}
        missing = [name for name in names if name not in known] or names
        return (
            f"{missing[0]} has no value; `ARG {missing[0]}=…` before the first FROM or --build-arg gives one."
        )
    return ""


def _of_command(one: Instruction, above: list[Instruction]) -> str:
    command = re.sub(r"^\w+\s+(?:--\S+\s+)*", "", one.original)
    if command.startswith("["):
        return "This is no JSON list (texts in double quotes, a comma between two), so the shell got it."
    if not above or above[-1].name != "RUN":
        return ""
    left = _LEFT_IN.search(above[-1].original.partition(" ")[2])
    line = above[-1].span.last
    return (
        f"The cd of line {line} ended with its RUN; `WORKDIR {left[1]}` holds for what follows."
        if left
        else ""
    )


def _of_code(message: str) -> str:
    """Exit codes of the shell itself."""
    if message.endswith(" code: 127"):
        return "127 is the shell's: the image has no such command, or not in its PATH."
    return "126 is the shell's: it may not execute that file." if message.endswith(" code: 126") else ""


def _of_variables(one: Instruction, above: list[Instruction], file: Dockerfile) -> str:
    """A global ARG that the stage doesn't know."""
    outer = {item.name: arg.span.first for arg in file.globals for item in arg.items}
    declaring = [step.original.split()[1:] for step in above if step.name in ("ARG", "ENV")]
    declared = {word.partition("=")[0] for words in declaring for word in words}
    for name in _VARIABLE.findall(one.original):
        if name in outer and name not in declared:
            return f"{name} of line {outer[name]} is for FROM lines only; `ARG {name}` in the stage takes it over."
    return ""


def _of_words(one: Instruction, message: str) -> str:
    words = one.original.split()[1:]
    if one.name in ("COPY", "ADD") and "not found" in message:
        late = [word for word in words[1:] if re.match(r"--\w", word)]
        if words and not words[0].startswith("--") and late:
            rest = [word for word in words if word not in late]
            return f"did you mean `{' '.join([one.keyword, *late, *rest])}`?"
        if words and re.match(r"-\w[\w-]*=", words[0]):
            return f"did you mean `{one.keyword} -{' '.join(words)}`?"
        if words and words[0].startswith(("/", "~")):
            return "Sources are looked for in the context, the directory given to the build command, not elsewhere."
    if message.startswith("unable to find user"):
        return "Users are looked up in the image's own /etc/passwd; USER takes a number, too."
    return ""
