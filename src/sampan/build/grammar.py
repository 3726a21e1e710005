"""From nodes to instructions: what follows each keyword, checked, with the messages that dockerd gives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from sampan.build import instructions as ins
from sampan.build.diagnostics import DockerfileError, Span, frame, nearest
from sampan.build.durations import parse_duration
from sampan.build.mountflag import parse_mount_flag
from sampan.build.parser import Heredoc, Node, Parsed, heredoc_head, parse, parse_json_list, split_command
from sampan.errors import InvalidParameter

_STAGE_NAME = re.compile(r"^[a-z][a-z0-9_.\-]*$")
_BLANKS = re.compile(r"[\t\v\f\r ]+")


def read_dockerfile(data: bytes, name: str = "Dockerfile") -> ins.Dockerfile:
    """Parse a whole Dockerfile.

    Raises DockerfileError (400), worded as dockerd words it, with a code frame and, where it can be
    known, the mended line.
    """
    parsed = parse(data, name)
    try:
        return _stages(parsed)
    except DockerfileError as error:
        raise error.located(name, parsed.lines) from None


def _stages(parsed: Parsed) -> ins.Dockerfile:
    file = ins.Dockerfile(parsed.name, parsed.lines, parsed.escape, parsed.directives, [], [])
    for node in parsed.nodes:
        if node.empty_continuation:
            file.empty_continuations.append((node.span, node.original))
        instruction = instruction_of(node, parsed.escape)
        if isinstance(instruction, ins.From):
            file.stages.append(ins.Stage(len(file.stages), instruction))
        elif file.stages:
            file.stages[-1].steps.append(instruction)
        elif isinstance(instruction, ins.Arg):
            file.globals.append(instruction)
        else:
            raise _no_stage(node, parsed)
    if not file.stages:
        raise DockerfileError("no build stage in current context", None, advice="It needs a FROM line.")
    return file


def _no_stage(node: Node, parsed: Parsed) -> DockerfileError:
    place = frame(parsed.name, parsed.lines, _at(node, 0, len(node.keyword)))
    advice = f"{place}\nA FROM instruction must come before {node.name}."
    return DockerfileError("no build stage in current context", None, advice=advice)


def instruction_of(node: Node, escape: str = "\\") -> ins.Instruction:
    """The instruction that ``node`` spells. Raises DockerfileError (not yet located)."""
    build = _BUILDERS.get(node.name)
    if build is None:
        raise _unknown(node)
    try:
        return build(_Line(node, escape))
    except DockerfileError as error:
        if error.span is None:
            error.span = node.span
        raise


def parse_instruction(text: str, escape: str = "\\") -> ins.Instruction:
    """One instruction from its text (an ONBUILD trigger, a ``--change``), here-documents included."""
    parsed = parse(text.encode("utf-8", "surrogateescape"), "instruction")
    try:
        if len(parsed.nodes) > 1:
            raise DockerfileError("more than one instruction given", parsed.nodes[1].span)
        return instruction_of(parsed.nodes[0], escape)
    except DockerfileError as error:
        raise error.located("instruction", parsed.lines) from None


def _unknown(node: Node) -> DockerfileError:
    """An unknown keyword, with the line as it was meant when a known one lost its space (``COPY. /app``)."""
    keyword = node.keyword
    for known in sorted(KEYWORDS, key=len, reverse=True):
        glued = keyword[len(known) :] if keyword.upper().startswith(known) else ""
        lost = bool(glued) and not glued[0].isalnum() and glued[0] != "_"
        # A slip of the finger in a keyword in capitals would be in capitals, too.
        if lost or (glued and keyword.startswith(known) and not (glued.isalpha() and glued.isupper())):
            mended = f"{keyword[: len(known)]} {glued.strip()} {' '.join([*node.flags, node.rest])}".rstrip()
            reason = f"unknown instruction: {keyword} (did you mean {known}?)"
            return DockerfileError(reason, _at(node, len(known)), mended=mended)
    close = nearest(keyword, KEYWORDS)
    if close is None:
        return DockerfileError(f"unknown instruction: {keyword}", _at(node, 0, len(keyword)))
    mended = close + node.original[len(keyword) :]
    reason = f"unknown instruction: {keyword} (did you mean {close}?)"
    return DockerfileError(reason, _at(node, 0, len(keyword)), mended=mended)


def _at(node: Node, offset: int, width: int = 1) -> Span:
    return Span(node.span.first, node.span.last, node.indent + offset, width)


class _Line:
    """A node while its instruction is being built: flags are taken one by one, and none may be left."""

    def __init__(self, node: Node, escape: str) -> None:
        self.node = node
        self.escape = escape
        self.rest = node.rest
        self.flags: dict[str, list[str | None]] = {}
        for flag in node.flags:
            name, eq, value = flag[2:].partition("=")
            self.flags.setdefault(name, []).append(value if eq else None)

    def common(self) -> tuple[str, str, Span, str]:
        return self.node.name, self.node.original, self.node.span, self.node.keyword

    def error(self, reason: str, mended: str = "") -> DockerfileError:
        return DockerfileError(reason, self.node.span, mended=mended)

    def text_flag(self, name: str) -> str:
        values = self.flags.pop(name, [])
        if len(values) > 1:
            raise self.error(f"duplicate flag specified: --{name}")
        if values and values[0] is None:
            raise self.error(f"missing a value on flag: --{name}")
        return values[0] or "" if values else ""

    def list_flag(self, name: str) -> tuple[str, ...]:
        values = self.flags.pop(name, [])
        if None in values:
            raise self.error(f"missing a value on flag: --{name}")
        return tuple(value for value in values if value is not None)

    def bool_flag(self, name: str) -> bool | None:
        values = self.flags.pop(name, [])
        if len(values) > 1:
            raise self.error(f"duplicate flag specified: --{name}")
        if not values:
            return None
        text = values[0]
        if text is None or text.lower() in ("true", "1", "t"):
            return True
        if text.lower() in ("", "false", "0", "f"):
            return False
        raise self.error(f"expecting boolean value for flag --{name}, not: {text}")

    def no_more_flags(self, known: tuple[str, ...] = ()) -> None:
        for name in self.flags:
            close = nearest(name, list(known))
            hint = f" (did you mean {close}?)" if close else ""
            raise self.error(f"unknown flag: --{name}{hint}")

    def words(self) -> list[str]:
        return [word for word in _BLANKS.split(self.rest) if word]

    def json_or_words(self) -> list[str]:
        listed = self.node.json_list()
        return self.words() if listed is None else listed

    def command(self) -> ins.Command:
        listed = self.node.json_list()
        if listed is not None:
            return ins.Command(tuple(listed), False)
        return ins.Command((self.rest,), True)


def _one(line: _Line) -> str:
    line.no_more_flags()
    if not line.rest:
        raise line.error(f"{line.node.name} requires exactly one argument")
    return line.rest


def _from(line: _Line) -> ins.From:
    platform = line.text_flag("platform")
    line.no_more_flags(("platform",))
    words = line.words()
    stage, as_keyword = "", ""
    if len(words) == 3 and words[1].lower() == "as":
        as_keyword, stage = words[1], words[2]
        if not _STAGE_NAME.match(stage.lower()):
            reason = (
                f'invalid name for build stage: "{stage}", name can\'t start with a number or contain symbols'
            )
            raise line.error(reason)
    elif len(words) != 1:
        name = "NAME" if [word.lower() for word in words[1:]] == ["as"] else words[-1] if words else ""
        mended = f"{line.node.keyword} {words[0]} AS {name}" if len(words) == 2 else ""
        if len(words) == 2 and words[0].endswith(":"):
            mended = f"{line.node.keyword} {words[0]}{words[1]}"
        raise line.error("FROM requires either one or three arguments", mended)
    comment = "\n".join(line.node.comments)
    return ins.From(*line.common(), words[0], stage, platform, as_keyword, comment)


def split_pairs(text: str, escape: str) -> list[str]:
    """``text`` split at unquoted blanks, quotes and escapes left in place (ENV, LABEL, ARG)."""
    words: list[str] = []
    current: list[str] = []
    quote = ""
    at = 0
    while at < len(text):
        ch = text[at]
        if not quote and ch.isspace():
            if current:
                words.append("".join(current))
                current = []
        elif ch == escape and quote != "'" and at + 1 < len(text):
            current.append(text[at : at + 2])
            at += 1
        else:
            if ch == quote:
                quote = ""
            elif not quote and ch in "'\"":
                quote = ch
            current.append(ch)
        at += 1
    if current:
        words.append("".join(current))
    return words


def _pairs(line: _Line) -> tuple[ins.KeyValue, ...]:
    name = line.node.name
    line.no_more_flags()
    words = split_pairs(line.rest, line.escape)
    if not words:
        raise line.error(f"{name} requires at least one argument")
    if "=" not in words[0]:
        parts = _BLANKS.split(line.rest, maxsplit=1)
        if len(parts) < 2:
            mended = f"{line.node.keyword} {parts[0]}=VALUE"
            raise DockerfileError(
                f"{name} must have two arguments", line.node.span, mended=mended, syntax=True
            )
        return (ins.KeyValue(parts[0], parts[1], legacy=True),)
    pairs = []
    for word in words:
        key, eq, value = word.partition("=")
        if not eq:
            reason = f'Syntax error - can\'t find = in "{word}". Must be of the form: name=value'
            raise DockerfileError(reason, line.node.span, syntax=True)
        if not key:
            raise line.error(f"{name} names can not be blank")
        pairs.append(ins.KeyValue(key, value))
    return tuple(pairs)


def _arg(line: _Line) -> ins.Arg:
    line.no_more_flags()
    words = split_pairs(line.rest, line.escape)
    if not words:
        raise line.error("ARG requires at least one argument")
    items = []
    for word in words:
        name, eq, default = word.partition("=")
        if not name:
            raise line.error("ARG names can not be blank")
        items.append(ins.ArgItem(name, default if eq else None))
    return ins.Arg(*line.common(), tuple(items), "\n".join(line.node.comments))


def _run(line: _Line) -> ins.Run:
    mounts = line.list_flag("mount")
    network = line.text_flag("network")
    security = line.text_flag("security")
    if "device" in line.flags:
        raise line.error("the --device flag is not supported: steps of a build are given no devices")
    line.no_more_flags(("mount", "network", "security"))
    if network and network not in ("default", "none", "host") and "$" not in network:
        raise line.error(f"invalid network mode: {network}")
    if security and security not in ("sandbox", "insecure") and "$" not in security:
        raise line.error(f"security {security} is not valid")
    for mount in mounts:
        if "$" not in mount:
            parse_mount_flag(mount, line.node.span)
    if (command := line.command()) == ins.Command((), False):
        raise line.error("RUN requires at least one argument")
    return ins.Run(*line.common(), command, tuple(line.node.heredocs), mounts, network, security)


_COPY_FLAGS = ("from", "chown", "chmod", "link", "parents", "exclude")
_ADD_FLAGS = ("chown", "chmod", "link", "exclude", "keep-git-dir", "checksum", "unpack")


def _copy(line: _Line) -> ins.Copy:
    name = line.node.name
    add = name == "ADD"
    from_ = "" if add else line.text_flag("from")
    chown, chmod = line.text_flag("chown"), line.text_flag("chmod")
    checksum = line.text_flag("checksum") if add else ""
    link = line.bool_flag("link") or False
    parents = (line.bool_flag("parents") or False) if not add else False
    exclude = line.list_flag("exclude")
    keep_git_dir = (line.bool_flag("keep-git-dir") or False) if add else False
    unpack = line.bool_flag("unpack") if add else None
    line.no_more_flags(_ADD_FLAGS if add else _COPY_FLAGS)
    words = line.json_or_words()
    if not words:
        raise line.error(f"{name} requires at least two arguments, but none were provided")
    if len(words) == 1:
        reason = f"{name} requires at least two arguments, but only one was provided. "
        raise line.error(f"{reason}Destination could not be determined", f"{line.node.keyword} {words[0]} .")
    heredocs = _copy_heredocs(line, words)
    return ins.Copy(
        *line.common(),
        sources=tuple(words[:-1]),
        destination=words[-1],
        heredocs=heredocs,
        link=link,
        parents=parents,
        exclude=exclude,
        keep_git_dir=keep_git_dir,
        unpack=unpack,
        from_=from_,
        chown=chown,
        chmod=chmod,
        checksum=checksum,
    )


def _copy_heredocs(line: _Line, words: list[str]) -> tuple[tuple[int, Heredoc], ...]:
    """The here-documents among the sources, with the places of the words that announce them."""
    waiting = list(line.node.heredocs)
    found: list[tuple[int, Heredoc]] = []
    for place, word in enumerate(words):
        if waiting and heredoc_head(word) is not None:
            if place == len(words) - 1:
                raise line.error(f"{line.node.name} cannot accept a heredoc as a destination")
            found.append((place, waiting.pop(0)))
    return tuple(found)


def _cmd(line: _Line) -> ins.Cmd:
    line.no_more_flags()
    return ins.Cmd(*line.common(), line.command())


def _entrypoint(line: _Line) -> ins.Entrypoint:
    line.no_more_flags()
    return ins.Entrypoint(*line.common(), line.command())


def _shell(line: _Line) -> ins.Shell:
    line.no_more_flags()
    words = line.node.json_list()
    if words is None:
        mended = f"{line.node.keyword} {json.dumps(line.words())}" if line.rest else ""
        raise line.error("SHELL requires the arguments to be in JSON form", mended)
    if not words:
        raise line.error("SHELL requires at least one argument")
    return ins.Shell(*line.common(), tuple(words))


def _text(line: _Line) -> ins.Text:
    return ins.Text(*line.common(), _one(line))


def _expose(line: _Line) -> ins.Words:
    line.no_more_flags()
    words = line.words()
    if not words:
        raise line.error("EXPOSE requires at least one argument")
    # Docker's parser sorts the ports, as the history shows.
    return ins.Words(*line.common(), tuple(sorted(words)))


def _volume(line: _Line) -> ins.Words:
    line.no_more_flags()
    words = line.json_or_words()
    if not words:
        raise line.error("VOLUME requires at least one argument")
    if any(not word.strip() for word in words):
        raise line.error("VOLUME specified can not be an empty string")
    return ins.Words(*line.common(), tuple(word.strip() for word in words))


def _healthcheck(line: _Line) -> ins.Healthcheck:
    times = {key: line.text_flag(key) for key in ("interval", "timeout", "start-period", "start-interval")}
    retries = line.text_flag("retries")
    line.no_more_flags(("interval", "timeout", "start-period", "start-interval", "retries"))
    kind, _, rest = line.rest.partition(" ")
    if not kind:
        raise line.error("HEALTHCHECK requires at least one argument")
    if kind.upper() == "NONE":
        if rest.strip():
            raise line.error("HEALTHCHECK NONE takes no arguments")
        return ins.Healthcheck(*line.common(), ("NONE",))
    if kind.upper() != "CMD":
        raise line.error(
            f"Unknown type {json.dumps(kind.upper())} in HEALTHCHECK (try CMD)",
            f"{line.node.keyword} CMD {line.rest}",
        )
    words = parse_json_list(rest.strip(), line.node.span)
    test = ("CMD-SHELL", rest.strip()) if words is None else ("CMD", *words)
    if not rest.strip() or words == []:
        raise line.error("Missing command after HEALTHCHECK CMD")
    values = {key: _duration(line, key, text) for key, text in times.items()}
    return ins.Healthcheck(
        *line.common(),
        test,
        values["interval"],
        values["timeout"],
        values["start-period"],
        values["start-interval"],
        _retries(line, retries),
    )


def _duration(line: _Line, name: str, text: str) -> int:
    if not text:
        return 0
    try:
        value = parse_duration(text)
    except InvalidParameter as error:
        raise line.error(error.message) from None
    if value < 0:
        raise line.error(f'Interval "{name}" cannot be negative')
    if 0 < value < 1_000_000:
        raise line.error(f'Interval "{name}" cannot be less than 1ms')
    return value


def _retries(line: _Line, text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[+-]?\d{1,9}", text):
        raise line.error(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    if int(text) < 0:
        raise line.error(f"--retries cannot be negative ({text})")
    return int(text)


def _onbuild(line: _Line) -> ins.Onbuild:
    line.no_more_flags()
    if not line.rest:
        raise line.error("ONBUILD requires at least one argument")
    keyword, _, _ = split_command(line.rest)
    if keyword.upper() == "ONBUILD":
        raise line.error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword.upper() in ("FROM", "MAINTAINER"):
        raise line.error(f"{keyword.upper()} isn't allowed as an ONBUILD trigger")
    bodies = "".join(f"\n{doc.content}{doc.name}" for doc in line.node.heredocs)
    trigger = line.rest + bodies
    _check_trigger(line, trigger)
    return ins.Onbuild(*line.common(), trigger)


def _check_trigger(line: _Line, trigger: str) -> None:
    """dockerd parses the trigger only where it fires; a mistake is told here, where it was made."""
    parsed = parse(trigger.encode("utf-8", "surrogateescape"))
    try:
        instruction_of(parsed.nodes[0], line.escape)
    except DockerfileError as error:
        raise DockerfileError(
            error.reason, line.node.span, mended=error.mended and f"ONBUILD {error.mended}"
        ) from None


_BUILDERS: dict[str, Callable[[_Line], ins.Instruction]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": lambda line: ins.Env(*line.common(), _pairs(line)),
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": lambda line: ins.Label(*line.common(), _pairs(line)),
    "MAINTAINER": _text,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _text,
    "USER": _text,
    "VOLUME": _volume,
    "WORKDIR": _text,
}
KEYWORDS = sorted(_BUILDERS)
