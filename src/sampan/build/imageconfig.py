"""How instructions change an image's configuration, and the words that its history keeps of them.

A configuration is the ``config`` object of an image document: a dict with Docker's names. Nothing here
touches files. The history texts are the classic builder's (``/bin/sh -c #(nop)  ENV NAME=World``), since
clients and people read them.
"""

from __future__ import annotations

import json
import posixpath
import re
import signal
from collections.abc import Callable, Mapping
from typing import Any

from sampan.build import instructions as ins
from sampan.build.diagnostics import nearest
from sampan.build.durations import format_duration
from sampan.errors import InvalidParameter

Config = dict[str, Any]
DEFAULT_SHELL = ["/bin/sh", "-c"]
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PORT = re.compile(r"^(\d{1,5})(?:-(\d{1,5}))?$")


class Expander:
    """How an instruction's texts are expanded: ``word`` to one word, ``words`` to several."""

    def __init__(self, word: Callable[[str], str], words: Callable[[str], list[str]]) -> None:
        self.word = word
        self.words = words


def env_dict(config: Config) -> dict[str, str]:
    """The configuration's environment as a dict."""
    return dict(entry.partition("=")[::2] for entry in config.get("Env") or [])


def set_env(config: Config, name: str, value: str) -> None:
    """Set one variable, in its old place if it was there."""
    entries: list[str] = list(config.get("Env") or [])
    entry = f"{name}={value}"
    for place, old in enumerate(entries):
        if old.partition("=")[0] == name:
            entries[place] = entry
            break
    else:
        entries.append(entry)
    config["Env"] = entries


def shell_of(config: Config) -> list[str]:
    """The shell for shell forms: SHELL's, or ``/bin/sh -c``."""
    return list(config.get("Shell") or DEFAULT_SHELL)


def command_line(config: Config, command: ins.Command) -> list[str]:
    """The words to execute for ``command``."""
    if not command.shell:
        return list(command.words)
    return shell_of(config) + [word for word in command.words if word]


def nop(config: Config, comment: str) -> str:
    """The ``created_by`` of an instruction that runs nothing."""
    return f"{' '.join(shell_of(config))} #(nop)  {comment}"


def nop_close(config: Config, comment: str) -> str:
    """As `nop`, for COPY, ADD and WORKDIR, where Docker has one blank."""
    return f"{' '.join(shell_of(config))} #(nop) {comment}"


def quoted_list(words: list[str]) -> str:
    """``["a" "b"]``, as Go's ``%q`` prints a list of strings."""
    return "[" + " ".join(json.dumps(word, ensure_ascii=False) for word in words) + "]"


def apply(config: Config, instruction: ins.Instruction, expand: Expander, state: StageState) -> str:
    """Change ``config`` as ``instruction`` says; returns the history comment (without ``#(nop)``).

    ``instruction`` is one of those that only change the configuration. Raises InvalidParameter with
    dockerd's words.
    """
    handler = _HANDLERS[instruction.name]
    return handler(config, instruction, expand, state)


class StageState:
    """What a stage remembers beside the configuration: whether CMD was given in it, and the author."""

    def __init__(self) -> None:
        self.cmd_set = False
        self.author = ""


def _env(config: Config, one: ins.Instruction, expand: Expander, _: StageState) -> str:
    assert isinstance(one, ins.Env)
    values = [(expand.word(pair.key), expand.word(pair.value)) for pair in one.pairs]
    for key, value in values:
        if not key:
            raise InvalidParameter("ENV names can not be blank")
        set_env(config, key, value)
    return "ENV " + " ".join(f"{key}={value}" for key, value in values)


def _label(config: Config, one: ins.Instruction, expand: Expander, _: StageState) -> str:
    assert isinstance(one, ins.Label)
    if one.literal:
        values = [(pair.key, pair.value) for pair in one.pairs]
    else:
        values = [(expand.word(pair.key), expand.word(pair.value)) for pair in one.pairs]
    labels = dict(config.get("Labels") or {})
    for key, value in values:
        if not key:
            raise InvalidParameter("LABEL names can not be blank")
        labels[key] = value
    config["Labels"] = labels
    return "LABEL " + " ".join(f"{key}={value}" for key, value in values)


def _maintainer(_config: Config, one: ins.Instruction, _: Expander, state: StageState) -> str:
    assert isinstance(one, ins.Text)
    state.author = one.value
    return f"MAINTAINER {one.value}"


def _cmd(config: Config, one: ins.Instruction, _: Expander, state: StageState) -> str:
    assert isinstance(one, ins.Cmd)
    words = command_line(config, one.command)
    config["Cmd"] = words
    state.cmd_set = bool(one.command.words and one.command.words[0])
    return f"CMD {quoted_list(words)}"


def _entrypoint(config: Config, one: ins.Instruction, _: Expander, state: StageState) -> str:
    assert isinstance(one, ins.Entrypoint)
    words = command_line(config, one.command) if any(one.command.words) else []
    config["Entrypoint"] = words or None
    if not state.cmd_set:
        # A CMD of the base image was written for another entry point (reference, "Understand how CMD and
        # ENTRYPOINT interact").
        config["Cmd"] = None
    return f"ENTRYPOINT {quoted_list(words)}"


def _shell(config: Config, one: ins.Instruction, _: Expander, __: StageState) -> str:
    assert isinstance(one, ins.Shell)
    config["Shell"] = list(one.words)
    return f"SHELL [{' '.join(one.words)}]"


def _user(config: Config, one: ins.Instruction, expand: Expander, _: StageState) -> str:
    assert isinstance(one, ins.Text)
    config["User"] = expand.word(one.value)
    return f"USER {config['User']}"


def _stopsignal(config: Config, one: ins.Instruction, expand: Expander, _: StageState) -> str:
    assert isinstance(one, ins.Text)
    text = expand.word(one.value)
    check_signal(text)
    config["StopSignal"] = text
    return f"STOPSIGNAL {text}"


def check_signal(text: str) -> None:
    """Raise InvalidParameter unless ``text`` names or numbers a signal, as Docker takes them."""
    name = text.upper().removeprefix("SIG")
    realtime = re.fullmatch(r"RTM(?:IN(?:\+(?:1[0-5]|\d))?|AX(?:-(?:1[0-4]|\d))?)", name)
    known = f"SIG{name}" in signal.Signals.__members__
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):  # any number but 0, as dockerd has it
        known = int(text) != 0
    if not known and not realtime:
        close = nearest(f"SIG{name}", list(signal.Signals.__members__))
        raise InvalidParameter(f"invalid signal: {text}", hint=f"did you mean {close}?" if close else "")


def _expose(config: Config, one: ins.Instruction, expand: Expander, _: StageState) -> str:
    assert isinstance(one, ins.Words)
    words = [word for value in one.values for word in expand.words(value)]
    ports = dict(config.get("ExposedPorts") or {})
    for word in words:
        for port in exposed_ports(word):
            ports[port] = {}
    config["ExposedPorts"] = dict(sorted(ports.items()))
    return f"EXPOSE {' '.join(words)}"


def exposed_ports(word: str) -> list[str]:
    """``80``, ``80/udp``, ``8000-8010/tcp`` or the discouraged ``[ip:]host:container`` as ``port/proto``."""
    spec, slash, protocol = word.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    container = spec.rpartition(":")[2]
    match = _PORT.match(container)
    if not container:
        raise InvalidParameter(f"no port specified: {word}<empty>")
    low = int(match[1]) if match else -1
    high = int(match[2]) if match and match[2] else low
    if match is None or high > 65535 or low > high:
        raise InvalidParameter(f"invalid containerPort: {container}")
    if protocol not in ("tcp", "udp", "sctp"):
        raise InvalidParameter(f"invalid proto: {protocol}")
    return [f"{port}/{protocol}" for port in range(low, high + 1)]


def _volume(config: Config, one: ins.Instruction, expand: Expander, _: StageState) -> str:
    assert isinstance(one, ins.Words)
    volumes = dict(config.get("Volumes") or {})
    values = [expand.word(value).strip() for value in one.values]
    for value in values:
        if not value:
            raise InvalidParameter("VOLUME specified can not be an empty string")
        volumes[value] = {}
    config["Volumes"] = volumes
    return f"VOLUME [{' '.join(values)}]"


def _healthcheck(config: Config, one: ins.Instruction, _: Expander, __: StageState) -> str:
    assert isinstance(one, ins.Healthcheck)
    check: dict[str, Any] = {"Test": list(one.test)}
    times = {
        "Interval": one.interval,
        "Timeout": one.timeout,
        "StartPeriod": one.start_period,
        "StartInterval": one.start_interval,
    }
    check |= {key: value for key, value in (times | {"Retries": one.retries}).items() if value}
    config["Healthcheck"] = check
    shown = " ".join(f'"{format_duration(value)}"' for value in times.values())
    return f"HEALTHCHECK &{{{quoted_list(list(one.test))} {shown} {_go_rune(one.retries)}}}"


def _go_rune(number: int) -> str:
    """A number as Go's ``%q`` prints it: the character of that code, quoted."""
    names = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r", 39: "\\'", 92: "\\\\"}
    if number in names:
        return f"'{names[number]}'"
    if number < 32 or number == 127:
        return f"'\\x{number:02x}'"
    return f"'{chr(number)}'" if number < 0xD800 else "'\ufffd'"


def _onbuild(config: Config, one: ins.Instruction, _: Expander, __: StageState) -> str:
    assert isinstance(one, ins.Onbuild)
    config["OnBuild"] = [*(config.get("OnBuild") or []), one.trigger]
    return f"ONBUILD {one.trigger}"


def join_workdir(current: str, requested: str) -> str:
    """The working directory after ``WORKDIR requested``, an absolute clean path."""
    joined = posixpath.normpath(posixpath.join("/", current or "/", requested))
    return "/" + joined.lstrip("/")


def set_workdir(config: Config, requested: str) -> str:
    """Apply WORKDIR to ``config``; returns the new directory."""
    if not requested:
        raise InvalidParameter("cannot normalize nothing")
    config["WorkingDir"] = join_workdir(config.get("WorkingDir") or "", requested)
    return str(config["WorkingDir"])


def run_history(config: Config, words: list[str], args: Mapping[str, str]) -> str:
    """``created_by`` of a RUN: the command line, before it the build arguments that it saw."""
    shown = " ".join(words)
    if not args:
        return shown
    pairs = " ".join(f"{name}={value}" for name, value in sorted(args.items()))
    return f"|{len(args)} {pairs} {shown}"


_HANDLERS: dict[str, Callable[[Config, ins.Instruction, Expander, StageState], str]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
}
METADATA = frozenset(_HANDLERS)
"""The instructions that change the configuration only."""
