"""`.dockerignore`: reading it and matching paths exactly as Docker's clients and engine do.

The rules (Docker's documentation, "Build context", ".dockerignore files"): patterns are cleaned as paths,
a leading slash is dropped, ``**`` matches any number of directories, ``!`` takes a path back in, and the
last pattern that matches a path or one of its parents decides. A directory that is left out isn't looked into
unless a ``!`` pattern begins with its very name.

Docker makes a regular expression of a pattern with wildcards, brackets or backslashes, and doesn't escape all
that means something there: ``a|b*`` is a choice, ``?{2}`` two letters, ``\\d`` a digit (moby/patternmatcher).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass

from sampan.build.glob import MAX_PATTERN, Glob
from sampan.errors import InvalidParameter
from sampan.goregexp import Regexp, RegexpError

_FIRST_PART = re.compile(r"\A\**(?:\\.|\[[^\]]*\]|[^*])*", re.DOTALL)
"""A pattern up to the first star that isn't its first sign (and not in a class)."""
_TOKEN = re.compile(
    r"(?P<deep>\*\*/?)|(?P<star>\*)|(?P<one>\?)|(?P<sign>[.+()$])|\\(?P<after>.)|(?P<other>.)", re.DOTALL
)
_REMEMBERED = 4096
"""Directories."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line of an ignore file: its text as written and cleaned, its line number (1-based), what it matches."""

    text: str
    line: int
    exclusion: bool
    cleaned: str
    match: Callable[[str], object]
    """Whether a path itself (not a parent of it) is matched."""


@dataclass(frozen=True, slots=True)
class _Decision:
    """What is decided of one path: by which pattern, which ones matched it or a directory above it (bits), and
    whether it is left out with all that lies below.
    """

    by: Pattern | None
    left_out: bool
    matched: int
    closed: bool


_NOTHING = _Decision(None, False, 0, False)


class Ignore:
    """The patterns of one ignore file, in order. What it decides about directories is remembered."""

    def __init__(self, patterns: list[Pattern]) -> None:
        self.patterns = patterns
        self._directories: dict[str, _Decision] = {}

    @classmethod
    def parse(cls, data: bytes, name: str = ".dockerignore") -> Ignore:
        """Read the file ``data``. Raises InvalidParameter with the line when a pattern is malformed."""
        text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        patterns: list[Pattern] = []
        for number, line in enumerate(text.split("\n"), 1):
            if line.startswith("#"):
                continue
            stripped = line.strip()
            if stripped:
                patterns.append(_pattern(stripped, number, name))
        return cls(patterns)

    @classmethod
    def of(cls, lines: list[str]) -> Ignore:
        """The patterns of ``lines``, given one by one (``--exclude`` flags)."""
        return cls.parse("\n".join(lines).encode("utf-8", "surrogateescape"), "--exclude")

    def excludes(self, path: str) -> bool:
        """Whether ``path`` (relative, slashes) is left out of the context."""
        return self._decide(path).left_out

    def reason(self, path: str) -> Pattern | None:
        """The pattern that decided about ``path``, or None when none matched it."""
        return self._decide(path).by

    def prunes(self, directory: str) -> bool:
        """Whether ``directory`` is left out and nothing below it can come back in: no need to walk it."""
        return self._decide(directory).closed

    def _decide(self, path: str) -> _Decision:
        """What a walk from the top down to ``path`` finds there: patterns that match a directory count below it."""
        above, at = _NOTHING, path.find("/")
        while at >= 0 and not above.closed:
            directory = path[:at]
            known = self._directories.get(directory)
            if known is None:
                if len(self._directories) >= _REMEMBERED:
                    self._directories.clear()
                known = self._directories[directory] = self._step(directory, above)
            above, at = known, path.find("/", at + 1)
        return above if above.closed else self._step(path, above)

    def _step(self, path: str, above: _Decision) -> _Decision:
        """One path, below a directory that was decided about. A pattern that could change nothing is passed over,
        for what lies below too: that is how Docker's matcher has it.
        """
        by: Pattern | None = None
        left_out, matched = False, 0
        for number, pattern in enumerate(self.patterns):
            if not above.matched >> number & 1 and (pattern.exclusion != left_out or not pattern.match(path)):
                continue
            matched |= 1 << number
            left_out, by = not pattern.exclusion, pattern
        return _Decision(by, left_out, matched, left_out and not self._may_return(path))

    def _may_return(self, directory: str) -> bool:
        """Whether a ``!`` pattern begins with ``directory``, letter by letter: for others Docker doesn't look."""
        inside = directory + "/"
        return any(one.exclusion and f"{one.cleaned}/".startswith(inside) for one in self.patterns)


def _pattern(text: str, number: int, name: str) -> Pattern:
    # Docker reads a line twice: what begins with ! only once its slash is off is an exception, too.
    exclusion = text.startswith("!")
    cleaned = _cleaned(text[1:].strip() if exclusion else text)
    if not exclusion and cleaned.startswith("!"):
        exclusion, cleaned = True, cleaned[1:]
    if not cleaned or (exclusion and cleaned == "/"):
        raise InvalidParameter('illegal exclusion pattern: "!"', hint=f"{name}:{number}")
    try:
        # Beyond the first * Docker's check of the syntax doesn't look.
        Glob("".join(_FIRST_PART.findall(cleaned)))
        match = _matcher(cleaned)
    except InvalidParameter as error:
        raise InvalidParameter(f"{error.message}: {text}", hint=f"{name}:{number}") from None
    except RegexpError as error:
        reason = str(error).removeprefix("error parsing regexp: ")
        raise InvalidParameter(
            f"syntax error in pattern: {text}", hint=f"{name}:{number}: {reason}"
        ) from None
    return Pattern(text, number, exclusion, cleaned, match)


def _cleaned(body: str) -> str:
    cleaned = clean(body) if body else ""
    return cleaned[1:] if len(cleaned) > 1 and cleaned.startswith("/") else cleaned


def _matcher(cleaned: str) -> Callable[[str], object]:
    """What tells whether a path is matched: a comparison where Docker has one, else the expression it makes."""
    if len(cleaned) > MAX_PATTERN:
        raise InvalidParameter(f"pattern is longer than {MAX_PATTERN} characters")
    if not any(sign in cleaned for sign in "*?[]\\"):
        return cleaned.__eq__
    head, stars, tail = cleaned.partition("**")
    if stars and not any(sign in head + tail for sign in "*?[]\\") and not (head and tail):
        return _prefix(head) if head else _suffix(tail)
    expression, often = [], {"deep": 0, "star": 0}
    for token in _TOKEN.finditer(cleaned):
        kind = str(token.lastgroup)
        end = token.end() == len(cleaned)
        often[kind] = often.get(kind, 0) + 1
        pieces = {"deep": ".*" if end else "(.*/)?", "star": "[^/]*", "one": "[^/]", "other": token[0]}
        expression.append(pieces.get(kind) or "\\" + (token["sign"] or token["after"]))
    text = "".join(expression)
    # Python's matcher is the quicker one, as long as it hasn't many ways to try and means the same.
    if (
        often["deep"] <= 1
        and sum(often[kind] for kind in ("deep", "star")) <= 2
        and not set(cleaned) & set("\\[]{}|^")
    ):
        return re.compile(text).fullmatch
    return Regexp(f"^{text}$").search


def _prefix(head: str) -> Callable[[str], bool]:
    return lambda path: path.startswith(head)


def _suffix(tail: str) -> Callable[[str], bool]:
    return lambda path: path.endswith(tail) or "/" + path == tail


def clean(path: str) -> str:
    """``path`` as Go's filepath.Clean gives it: shortest equivalent, "." for the empty one."""
    cleaned = posixpath.normpath(path) if path else "."
    # POSIX keeps two leading slashes apart; Go doesn't.
    return "/" + cleaned.lstrip("/") if cleaned.startswith("//") else cleaned
