"""Command-line options in the manner of runc's: ``--name value``, ``--name=value``, one or two dashes, aliases.

They end at the first word that isn't one, or after ``--``.
"""

from __future__ import annotations

from sampan.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Flag:
    """An option. ``kind``: ``text``, ``number``, ``switch`` or ``list`` (may be given several times)."""

    __slots__ = ("help", "kind", "names", "value")

    def __init__(self, names: str, kind: str, words: str, value: str = "value") -> None:
        self.names = names.split()
        self.kind = kind
        self.help = words
        self.value = value

    @property
    def key(self) -> str:
        """Its first name, as parsed options are called."""
        return self.names[0]

    def usage(self) -> str:
        """``--bundle value, -b value``."""
        value = "" if self.kind == "switch" else f" {self.value}"
        return ", ".join(f"{'-' if len(name) == 1 else '--'}{name}{value}" for name in self.names)


def parse(flags: tuple[Flag, ...], words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Options by their first names (all of them, unset ones empty) and the words after them.

    InvalidParameter for unknown options and wrong values.
    """
    known = {name: flag for flag in flags for name in flag.names}
    found: dict[str, Any] = {flag.key: _empty(flag.kind) for flag in flags}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word.lstrip("-").partition("=")
        if name in ("h", "help"):
            found["help"] = True
            continue
        if name not in known:
            raise InvalidParameter(f"flag provided but not defined: -{name}", hint="See --help.")
        flag = known[name]
        if flag.kind == "switch":
            found[flag.key] = _switch(name, value) if equals else True
            continue
        if not equals:
            if not rest:
                raise InvalidParameter(f"flag needs an argument: -{name}")
            value = rest.pop(0)
        _put(found, flag, value)
    return found, rest


def _empty(kind: str) -> Any:
    return {"switch": False, "list": [], "number": None}.get(kind, "")


def _put(found: dict[str, Any], flag: Flag, value: str) -> None:
    if flag.kind == "list":
        found[flag.key] = [*found[flag.key], value]
    elif flag.kind == "number":
        digits = value.removeprefix("-")
        if not digits.isdecimal():
            raise InvalidParameter(f'invalid value "{value}" for flag -{flag.key}: not a whole number')
        found[flag.key] = int(value)
    else:
        found[flag.key] = value


def _switch(name: str, value: str) -> bool:
    if value in ("true", "1", "t"):
        return True
    if value in ("false", "0", "f"):
        return False
    raise InvalidParameter(f'invalid boolean value "{value}" for -{name}')
