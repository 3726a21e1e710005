"""``--chmod``: octal and symbolic modes, as chmod(1) has them (no umask is taken into account)."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable

from sampan.errors import InvalidParameter

_CLAUSE = re.compile(r"([ugoa]*)((?:[+\-=](?:[ugo]|[rwxXst]*))+)")
_ACTION = re.compile(r"([+\-=])([ugo]|[rwxXst]*)")
_SHIFT = {"u": 6, "g": 3, "o": 0}

Change = Callable[[int, bool], int]
"""From the present mode (permission bits) and whether it is a directory to the new mode."""


def parse_mode(text: str) -> Change:
    """The change that ``text`` asks for. Raises InvalidParameter with BuildKit's words."""
    if re.fullmatch(r"0*[0-7]{1,4}", text):
        number = int(text, 8)
        return lambda _mode, _directory: number
    clauses = []
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            reason = f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            raise InvalidParameter(reason, hint="A symbolic mode like u=rwX,go=rX is taken too.")
        clauses.append((match[1].replace("a", "ugo") or "ugo", _ACTION.findall(match[2])))
    return lambda mode, directory: _apply(clauses, mode, directory)


def _apply(clauses: list[tuple[str, list[tuple[str, str]]]], mode: int, directory: bool) -> int:
    for who, actions in clauses:
        for operator, permissions in actions:
            mode = _action(mode, who, operator, permissions, directory)
    return mode


def _action(mode: int, who: str, operator: str, permissions: str, directory: bool) -> int:
    bits = mask = 0
    for one in set(who):
        bits |= _bits(mode, one, permissions, directory)
        mask |= 0o7 << _SHIFT[one]
    if "u" in who:
        mask |= stat.S_ISUID
    if "g" in who:
        mask |= stat.S_ISGID
    if "o" in who:
        mask |= stat.S_ISVTX
    if operator == "+":
        return mode | bits
    if operator == "-":
        return mode & ~bits
    if directory:  # chmod(1): setuid and setgid of a directory stay unless named
        mask &= ~(stat.S_ISUID | stat.S_ISGID)
    return mode & ~mask | bits


def _bits(mode: int, who: str, permissions: str, directory: bool) -> int:
    shift = _SHIFT[who]
    if permissions and permissions in "ugo":
        return (mode >> _SHIFT[permissions] & 0o7) << shift
    value = 0
    for letter in permissions:
        if letter in "rwx":
            value |= {"r": 4, "w": 2, "x": 1}[letter] << shift
        elif letter == "X" and (directory or mode & 0o111):
            value |= 1 << shift
        elif letter == "s" and who != "o":
            value |= stat.S_ISUID if who == "u" else stat.S_ISGID
        elif letter == "t":
            value |= stat.S_ISVTX
    return value
