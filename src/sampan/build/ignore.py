"""`.dockerignore`: reading it and matching paths exactly as Docker's clients and engine do.

The rules (Docker's documentation, "Build context", ".dockerignore files"): patterns are cleaned as paths,
a leading slash is dropped, ``**`` matches any number of directories, ``!`` takes a path back in, and the
last pattern that matches a path or one of its parents decides.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from sampan.build.glob import Glob
from sampan.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line of an ignore file: its text as written, its line number (1-based), and what it matches."""

    text: str
    line: int
    exclusion: bool
    glob: Glob
    suffix: str | None

    def match(self, path: str) -> bool:
        """Whether ``path`` itself (not a parent of it) is matched."""
        if self.suffix is not None:
            return path.endswith(self.suffix) or "/" + path == self.suffix
        return self.glob.match(path)


class Ignore:
    """The patterns of one ignore file, in order."""

    def __init__(self, patterns: list[Pattern]) -> None:
        self.patterns = patterns
        self.exclusions = any(pattern.exclusion for pattern in patterns)

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
        pattern = self.reason(path)
        return pattern is not None and not pattern.exclusion

    def reason(self, path: str) -> Pattern | None:
        """The pattern that decided about ``path``, or None when none matched it."""
        decided: Pattern | None = None
        candidates = _with_parents(path)
        for pattern in self.patterns:
            left_out = decided is not None and not decided.exclusion
            if pattern.exclusion == left_out and any(pattern.match(one) for one in candidates):
                decided = pattern
        return decided

    def prunes(self, directory: str) -> bool:
        """Whether ``directory`` is left out and nothing below it can come back in: no need to walk it."""
        if not self.excludes(directory):
            return False
        return not any(_may_match_below(pattern, directory) for pattern in self.patterns if pattern.exclusion)


def _pattern(text: str, number: int, name: str) -> Pattern:
    exclusion = text.startswith("!")
    body = text[1:].strip() if exclusion else text
    if not body:
        raise InvalidParameter('illegal exclusion pattern: "!"', hint=f"{name}:{number}")
    cleaned = clean(body)
    if len(cleaned) > 1 and cleaned.startswith("/"):
        cleaned = cleaned[1:]
    try:
        Glob(cleaned)
        glob = Glob(cleaned, "ignore")
    except InvalidParameter as error:
        raise InvalidParameter(f"{error.message}: {text}", hint=f"{name}:{number}") from None
    return Pattern(text, number, exclusion, glob, _suffix(cleaned))


def _suffix(cleaned: str) -> str | None:
    """What a path must end in for ``**/plain``; also for ``**plain``, where Docker looks at nothing else."""
    rest = cleaned.removeprefix("**")
    if rest != cleaned and rest.strip("/") and not any(ch in "*?[]\\" for ch in rest):
        return rest
    return None


def clean(path: str) -> str:
    """``path`` as Go's filepath.Clean gives it: shortest equivalent, "." for the empty one."""
    cleaned = posixpath.normpath(path) if path else "."
    # POSIX keeps two leading slashes apart; Go doesn't.
    return "/" + cleaned.lstrip("/") if cleaned.startswith("//") else cleaned


def _with_parents(path: str) -> list[str]:
    parts = path.split("/")
    return [path] + ["/".join(parts[:end]) for end in range(1, len(parts))]


def _may_match_below(pattern: Pattern, directory: str) -> bool:
    """Whether ``pattern`` could match something below ``directory``: by its literal beginning only."""
    literal = ""
    for token in pattern.glob.tokens:
        if token.kind != "char":
            return literal.startswith(directory + "/") or (directory + "/").startswith(literal)
        literal += token.char
    return literal.startswith(directory + "/")
