"""Command-line flags with docker's syntax, driven by tables.

A table row is ``(name, short, kind, default, help)``. Flags may be combined (``-it``), carry their value
attached (``-p80``, ``-p=80``, ``--name=x``) or in the next word, and repeat. Booleans take a value only
with ``=``. ``--`` ends them; so does the first argument where a command's own words follow (run, exec).
"""

from __future__ import annotations

from sampan.cli.errors import FlagError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    Option = tuple[str, str, str, Any, str]

REPEATED = frozenset(
    {"list", "strings", "map", "env", "label", "mount", "ulimit", "network", "filter", "add-host", "dns"}
    | {"ip-list", "attach-list", "device-rule", "throttle-bytes", "throttle-count", "weight-device", "opts"}
    | {"gpu-request", "secret", "dns-search", "link", "sysctl", "tag-list"}
)
"""Kinds that may be given many times; their value is a list."""

DISPLAY = {
    "env": "list",
    "label": "list",
    "add-host": "list",
    "dns": "list",
    "dns-search": "list",
    "link": "list",
    "ip-list": "list",
    "attach-list": "list",
    "device-rule": "list",
    "throttle-bytes": "list",
    "throttle-count": "list",
    "weight-device": "list",
    "tag-list": "list",
    "opts": "map",
    "sysctl": "map",
    "count": "int",
    "bool": "",
}
"""What ``--help`` calls a kind where that differs from its name."""

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Options:
    """Parsed flags: typed access by name, and whether one was given."""

    __slots__ = ("_values", "given")

    def __init__(self, table: Sequence[Option]) -> None:
        self._values: dict[str, Any] = {
            name: [] if kind in REPEATED else default for name, _, kind, default, _ in table
        }
        self.given: set[str] = set()

    def set(self, option: Option, text: str) -> None:
        """Convert and store a flag's value. Raises FlagError with Docker's words."""
        name, short, kind, _, _ = option
        try:
            value = convert(kind, text)
        except ValueError as error:
            shown = f"-{short}, --{name}" if short else f"--{name}"
            raise FlagError(f'invalid argument "{text}" for "{shown}" flag: {error}') from None
        self.given.add(name)
        if kind not in REPEATED:
            self._values[name] = value
        elif isinstance(value, list):
            self._values[name].extend(value)
        else:
            self._values[name].append(value)

    def __contains__(self, name: str) -> bool:
        """Whether the verb has such a flag."""
        return name in self._values

    def flag(self, name: str) -> bool:
        """A boolean flag."""
        return bool(self._values[name])

    def text(self, name: str) -> str:
        """A string flag, "" when absent."""
        return str(self._values[name] or "")

    def number(self, name: str) -> int:
        """An integer flag (also sizes in bytes and durations in nanoseconds)."""
        return int(self._values[name] or 0)

    def all(self, name: str) -> list[Any]:
        """A repeated flag's values, in order."""
        found: list[Any] = self._values[name]
        return found


def parse(
    table: Sequence[Option], words: Sequence[str], *, interspersed: bool = True
) -> tuple[Options, list[str]]:
    """Split words into options and arguments. Raises FlagError."""
    options = Options(table)
    by_name = {row[0]: row for row in table}
    by_short = {row[1]: row for row in table if row[1]}
    arguments: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            arguments.extend(words[at:])
            break
        if word.startswith("--"):
            at = _long(options, by_name, word, words, at)
        elif word.startswith("-") and word != "-":
            at = _short(options, by_short, word, words, at)
        else:
            arguments.append(word)
            if not interspersed:
                arguments.extend(words[at:])
                break
    return options, arguments


def _long(options: Options, table: dict[str, Option], word: str, words: Sequence[str], at: int) -> int:
    name, equals, value = word[2:].partition("=")
    option = table.get(name)
    if option is None or not name:
        raise _unknown_long(name, table)
    if equals:
        options.set(option, value)
    elif option[2] == "bool":
        options.set(option, "true")
    elif at >= len(words):
        raise FlagError(f"flag needs an argument: --{name}")
    else:
        options.set(option, words[at])
        return at + 1
    return at


def _unknown_long(name: str, table: dict[str, Option]) -> FlagError:
    if name == "help":
        return HelpAsked()
    from sampan.cli.suggest import nearest

    guess = nearest(name, list(table))
    return FlagError(f"unknown flag: --{name}", hint=f"Did you mean --{guess}?" if guess else "")


class HelpAsked(FlagError):
    """``--help`` was given: no error, but it ends the parsing just so."""

    def __init__(self) -> None:
        super().__init__("help")


def _short(options: Options, table: dict[str, Option], word: str, words: Sequence[str], at: int) -> int:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = table.get(letter)
        if option is None:
            raise FlagError(f"unknown shorthand flag: '{letter}' in {word}")
        if letters.startswith("="):
            options.set(option, letters[1:])
            return at
        if option[2] == "bool":
            options.set(option, "true")
        elif letters:
            options.set(option, letters)
            return at
        elif at >= len(words):
            raise FlagError(f"flag needs an argument: '{letter}' in -{letter}")
        else:
            options.set(option, words[at])
            return at + 1
    return at


def convert(kind: str, text: str) -> Any:
    """A flag's text as its kind wants it. Raises ValueError with the reason as Docker words it."""
    simple = _SIMPLE.get(kind)
    if simple is not None:
        return simple(text)
    from sampan.cli import values

    return values.convert(kind, text)


def _boolean(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def _integer(text: str) -> int:
    try:
        value = int(text, 0 if text.lower().startswith(("0x", "-0x", "0o", "0b")) else 10)
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
    return value


def _itself(text: str) -> str:
    return text


_SIMPLE: dict[str, Callable[[str], Any]] = {
    "bool": _boolean,
    "string": _itself,
    "list": _itself,
    "int": _integer,
    "count": _integer,
    "strings": lambda text: text.split(",") if text else [],
}
