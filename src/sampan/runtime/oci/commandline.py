"""One command line: global options, the verb, its options, errors and exit codes."""

from __future__ import annotations

import os
import sys

from sampan.errors import SampanError
from sampan.runtime.oci import flags
from sampan.runtime.oci.commands import COMMANDS, GLOBAL, Command
from sampan.runtime.oci.context import Context

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_EXEC_FAILED = 255  # as runc's, so that it isn't taken for the program's own


def run(arguments: list[str]) -> int:
    """Run it; the exit code. Messages go to the log that the options name."""
    _open_standard()
    try:
        options, rest = flags.parse(GLOBAL, arguments)
        context = Context(options)
    except (SampanError, OSError) as error:
        os.write(2, f"sampan-runtime: {error}\n".encode())
        return 1
    if options["version"] or not rest or options.get("help") or rest[0] in ("help", "h"):
        return _about(options, rest[1:])
    if rest[0] not in COMMANDS:
        context.log.error(f"No help topic for '{rest[0]}'")
        return 3
    try:
        return _run(context, rest[0], rest[1:])
    except SampanError as error:
        context.log.error(_text(rest[0], error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        context.log.error(f"{where}{(error.strerror or str(error)).lower()}")
    except KeyboardInterrupt:
        return 130
    return _EXEC_FAILED if rest[0] == "exec" else 1


def _text(verb: str, error: SampanError) -> str:
    """On one line, as logs want it; failures of the three that make processes say which."""
    lead = {"create": "", "run": "", "exec": "exec failed: "}.get(verb, "")
    return lead + error.message + (f" ({error.hint})" if error.hint else "")


def _run(context: Context, verb: str, words: list[str]) -> int:
    command = COMMANDS[verb]
    options, rest = flags.parse(command.flags, words)
    if options.get("help"):
        return _help(verb, command)
    carry_out = _load(command.target)
    return int(carry_out(context, options, rest))


def _load(target: str) -> Any:
    name, _, function = target.partition(":")
    module = __import__(f"sampan.runtime.oci.{name}", fromlist=[function])
    return getattr(module, function)


def _open_standard() -> None:
    """Whoever closed 0, 1 or 2 must not find the container's files there."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)


def _about(options: dict[str, Any], words: list[str]) -> int:
    if options["version"]:
        from sampan import __version__
        from sampan.runtime.oci.spec import VERSION

        _say(f"sampan-runtime version {__version__}\nspec: {VERSION}\n")
        return 0
    if words and words[0] in COMMANDS:
        return _help(words[0], COMMANDS[words[0]])
    lines = ["Usage: sampan-runtime [OPTIONS] COMMAND [OPTIONS] [ARG...]", "", "Commands:"]
    lines += [f"   {name:12}{command.about}" for name, command in COMMANDS.items()]
    lines += ["", "Options:", *_table(GLOBAL)]
    _say("\n".join(lines) + "\n")
    return 0


def _help(verb: str, command: Command) -> int:
    lines = [f"Usage: sampan-runtime {verb} [OPTIONS] {command.usage}".rstrip(), "", command.about]
    if command.flags:
        lines += ["", "Options:", *_table(command.flags)]
    _say("\n".join(lines) + "\n")
    return 0


def _table(found: tuple[flags.Flag, ...]) -> list[str]:
    width = max(len(flag.usage()) for flag in found) + 2
    return [f"   {flag.usage():{width}}{flag.help}" for flag in found]


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
