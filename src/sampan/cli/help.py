"""``--help``: made from the verb tables and the option tables."""

from __future__ import annotations

import os

from sampan.cli import catalog, flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sampan.cli.command import CLI, Command
    from sampan.cli.flags import Option

    Verbs = Mapping[str, tuple[str, str]]

GLOBAL_OPTIONS: Sequence[Option] = (
    ("config", "", "string", "", "Folder of the configuration (default ~/.docker)"),
    ("context", "c", "string", "", "Name of the context to use (overrides SAMPAN_HOST and DOCKER_HOST)"),
    ("debug", "D", "bool", False, "Show a trace of Python's calls when something breaks"),
    ("host", "H", "list", "", "Address of the engine: unix://, tcp://, ssh://"),
    ("log-level", "l", "string", "info", "Accepted for docker's sake"),
    ("tls", "", "bool", False, "Use TLS, trusting any server"),
    ("tlscacert", "", "string", "", "Trust servers signed by this CA (default ~/.docker/ca.pem)"),
    ("tlscert", "", "string", "", "The client's certificate (default ~/.docker/cert.pem)"),
    ("tlskey", "", "string", "", "The client's key (default ~/.docker/key.pem)"),
    ("tlsverify", "", "bool", False, "Use TLS and check the server"),
    ("version", "v", "bool", False, "Print the client's version and quit"),
)


def columns() -> int:
    """The terminal's width, 80 where there is none."""
    try:
        return max(60, os.get_terminal_size(1).columns)
    except OSError:
        return 80


def of_program(program: str) -> str:
    """What ``sampan`` alone prints."""
    groups = {name: ("", summary) for name, (_, summary) in catalog.GROUPS.items()}
    rest = {name: row for name, row in sorted(catalog.TOP.items()) if name not in catalog.COMMON}
    return "\n".join(
        [
            f"Usage:  {program} [OPTIONS] COMMAND",
            "",
            "A container engine for Linux that speaks Docker's protocols",
            "",
            *_verbs("Common Commands", catalog.COMMON),
            *_verbs("Management Commands", groups),
            *_verbs("Commands", rest),
            "Global Options:",
            *_options(GLOBAL_OPTIONS),
            "",
            f"Run '{program} COMMAND --help' for more information on a command.",
            "",
        ]
    )


def of_group(program: str, name: str) -> str:
    """What ``sampan container`` prints."""
    verbs, summary = catalog.GROUPS[name]
    return "\n".join(
        [
            f"Usage:  {program} {name} COMMAND",
            "",
            summary,
            "",
            *_verbs("Commands", verbs),
            f"Run '{program} {name} COMMAND --help' for more information on a command.",
            "",
        ]
    )


def usage(cli: CLI, command: Command) -> str:
    """The ``Usage:`` lines of a verb as the user called it."""
    forms = command.words.split("\n")
    first = f"Usage:  {cli.program} {cli.path} {forms[0]}".rstrip()
    return "\n".join([first, *(f"\t{cli.program} {cli.path} {form}" for form in forms[1:])])


def of_command(cli: CLI, command: Command) -> str:
    """What ``sampan run --help`` prints; the options by their names."""
    lines = [usage(cli, command), "", command.summary, ""]
    others = _aliases(cli.path)
    if len(others) > 1:
        lines += ["Aliases:", "  " + ", ".join(f"{cli.program} {other}" for other in others), ""]
    if command.options:
        lines += ["Options:", *_options(sorted(command.options)), ""]
    return "\n".join(lines)


def _aliases(path: str) -> list[str]:
    _, target = catalog.find(path.split(" "))
    paths = [f"{group} {verb}" for group, (verbs, _) in catalog.GROUPS.items() for verb in verbs]
    paths += [*catalog.ALIASES, *catalog.COMMON, *catalog.TOP]
    found = [other for other in paths if catalog.find(other.split(" "))[1] == target]
    return list(dict.fromkeys(found))


def _verbs(title: str, verbs: Verbs) -> list[str]:
    width = max(len(name) for name in verbs) + 2
    return [f"{title}:", *(f"  {name:{width}}{summary}" for name, (_, summary) in verbs.items()), ""]


def _options(options: Sequence[Option]) -> list[str]:
    import textwrap

    heads = [_head(option) for option in options]
    width = max(len(head) for head in heads) + 3
    room = max(24, columns() - width)
    lines = []
    for head, (_, _, kind, default, text) in zip(heads, options, strict=True):
        if default and kind != "bool" and "default" not in text:
            shown = f'"{default}"' if isinstance(default, str) else default
            text = f"{text} (default {shown})"
        elif default is True:
            text = f"{text} (default true)"
        first, *more = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
        lines.append(f"{head:{width}}{first}".rstrip())
        lines.extend(" " * width + line for line in more)
    return lines


def _head(option: Option) -> str:
    name, short, kind, _, _ = option
    shown = flags.DISPLAY.get(kind, kind)
    lead = f"  -{short}, --{name}" if short else f"      --{name}"
    return f"{lead} {shown}".rstrip()
