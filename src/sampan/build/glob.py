"""Wildcard patterns that can't hang: Go's path patterns, the ignore file's, and the shell's.

A pattern becomes a list of tokens and is run as a set of states, one bit each, so a match costs time in
proportion to the text whatever the pattern (backtracking matchers need exponential time for `*a*a*a*b`).
Patterns with at most one wildcard go through `re`, which can't blow up on those.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from sampan.errors import InvalidParameter

Flavor = Literal["path", "ignore", "shell"]
MAX_PATTERN = 4096
"""Characters; the length of the longest path on Linux."""
MAX_SUBJECT = 1 << 16
"""Characters of a variable's value that ``${name/pattern/…}`` accepts."""


@dataclass(frozen=True, slots=True)
class _Token:
    """One state. ``kind``: char, any (but /), class, star (run without /), deep (any run), gate and dirs.

    ``gate`` consumes nothing and leads into or past ``dirs``, which together stand for ``(.*/)?``.
    """

    kind: str
    char: str = ""
    ranges: tuple[tuple[str, str], ...] = ()
    negated: bool = False

    def accepts(self, ch: str, slash: bool) -> bool:
        """Whether the token consumes ``ch`` and goes on to the next state."""
        if self.kind == "char":
            return ch == self.char
        if self.kind == "any":
            return ch != "/" or not slash
        if self.kind == "class":
            return any(low <= ch <= high for low, high in self.ranges) != self.negated
        return self.kind == "dirs" and ch == "/"

    def loops(self, ch: str, slash: bool) -> bool:
        """Whether the token consumes ``ch`` and stays."""
        return self.kind in ("deep", "dirs") or (self.kind == "star" and (ch != "/" or not slash))

    def regex(self, slash: bool) -> str:
        """The token as a regular expression."""
        if self.kind == "char":
            return re.escape(self.char)
        if self.kind == "class":
            inner = "".join(f"{_class_char(low)}-{_class_char(high)}" for low, high in self.ranges)
            return f"[{'^' if self.negated else ''}{inner}]"
        simple = {"any": "[^/]" if slash else ".", "star": "[^/]*" if slash else ".*", "deep": ".*"}
        return simple.get(self.kind, "" if self.kind == "gate" else "(?:.*/)?")


def _class_char(ch: str) -> str:
    return "\\" + ch if not ch.isalnum() else ch


class Glob:
    """A compiled pattern. ``slash=False`` is the shell's flavor: ``*`` and ``?`` match anything.

    Flavors: ``path`` is Go's filepath.Match; ``ignore`` adds ``**`` as the ignore file has it; ``shell``
    knows ``*``, ``?`` and the backslash only. Raises InvalidParameter ("syntax error in pattern").
    """

    def __init__(self, pattern: str, flavor: Flavor = "path", *, slash: bool = True) -> None:
        if len(pattern) > MAX_PATTERN:
            raise InvalidParameter(f"pattern is longer than {MAX_PATTERN} characters")
        self.pattern = pattern
        self.flavor: Flavor = flavor if slash else "shell"
        self.slash = slash
        self.tokens = _tokens(pattern, self.flavor)
        self.wildcards = sum(token.kind in ("star", "deep", "dirs") for token in self.tokens)
        self.literal = (
            "".join(t.char for t in self.tokens) if all(t.kind == "char" for t in self.tokens) else None
        )
        self._regex = self._compile() if self.wildcards <= 1 else None
        self._forward = _Automaton(self.tokens, slash) if self._regex is None else None

    def _compile(self) -> re.Pattern[str]:
        return re.compile("".join(token.regex(self.slash) for token in self.tokens), re.DOTALL)

    def match(self, text: str) -> bool:
        """Whether the whole of ``text`` matches."""
        if self.literal is not None:
            return text == self.literal
        if self._regex is not None:
            return self._regex.fullmatch(text) is not None
        assert self._forward is not None
        return self._forward.full(text)

    def trim_prefix(self, text: str, greedy: bool) -> str:
        """``text`` without the shortest (``greedy``: longest) prefix that matches."""
        ends = self._automaton(self.tokens).ends(text)
        if not ends:
            return text
        return text[ends[-1] if greedy else ends[0] :]

    def trim_suffix(self, text: str, greedy: bool) -> str:
        """``text`` without the shortest (``greedy``: longest) suffix that matches."""
        ends = self._automaton(self.tokens[::-1]).ends(text[::-1])
        if not ends:
            return text
        return text[: len(text) - (ends[-1] if greedy else ends[0])]

    def replace(self, text: str, by: str, every: bool) -> str:
        """``text`` with the first (``every``: each) leftmost, longest match replaced."""
        if len(text) > MAX_SUBJECT:
            raise InvalidParameter(
                f"a value of more than {MAX_SUBJECT} characters can't be searched for patterns"
            )
        automaton = self._automaton(self.tokens)
        out: list[str] = []
        at = 0
        while at < len(text):
            ends = automaton.ends(text, at)
            if ends and ends[-1] > at:
                out.append(by)
                at = ends[-1]
                if not every:
                    break
            else:
                out.append(text[at])
                at += 1
        return "".join(out) + text[at:]

    def _automaton(self, tokens: list[_Token]) -> _Automaton:
        return _Automaton(tokens, self.slash)


class _Automaton:
    """The state set of a token list; bit ``i`` set means: tokens up to ``i`` have been consumed."""

    def __init__(self, tokens: list[_Token], slash: bool) -> None:
        self.tokens = tokens
        self.slash = slash
        self.accept = 1 << len(tokens)
        self.skip_one = sum(1 << i for i, t in enumerate(tokens) if t.kind in ("star", "deep", "gate"))
        self.skip_two = sum(1 << i for i, t in enumerate(tokens) if t.kind == "gate")
        self.steps: dict[str, tuple[int, int]] = {}

    def closure(self, states: int) -> int:
        while True:
            grown = states | (states & self.skip_one) << 1 | (states & self.skip_two) << 2
            if grown == states:
                return states
            states = grown

    def step(self, states: int, ch: str) -> int:
        masks = self.steps.get(ch)
        if masks is None:
            go = sum(1 << i for i, t in enumerate(self.tokens) if t.accepts(ch, self.slash))
            stay = sum(1 << i for i, t in enumerate(self.tokens) if t.loops(ch, self.slash))
            masks = self.steps[ch] = go, stay
        return self.closure((states & masks[0]) << 1 | states & masks[1])

    def full(self, text: str) -> bool:
        states = self.closure(1)
        for ch in text:
            states = self.step(states, ch)
            if not states:
                return False
        return bool(states & self.accept)

    def ends(self, text: str, start: int = 0) -> list[int]:
        """The positions in ``text`` at which a match that began at ``start`` may end, ascending."""
        states = self.closure(1)
        found = [start] if states & self.accept else []
        for at in range(start, len(text)):
            states = self.step(states, text[at])
            if not states:
                break
            if states & self.accept:
                found.append(at + 1)
        return found


def _tokens(pattern: str, flavor: Flavor) -> list[_Token]:
    tokens: list[_Token] = []
    at = 0
    while at < len(pattern):
        ch = pattern[at]
        at += 1
        if ch == "*":
            at = _stars(pattern, at, flavor, tokens)
        elif ch == "?":
            tokens.append(_Token("any"))
        elif ch == "\\":
            if at == len(pattern) and flavor == "path":
                raise InvalidParameter("syntax error in pattern")
            tokens.append(_Token("char", pattern[at : at + 1] or "\\"))
            at += 1
        elif ch == "[" and flavor != "shell":
            token, at = _bracket(pattern, at, flavor)
            tokens.append(token)
        else:
            tokens.append(_Token("char", ch))
    return tokens


def _stars(pattern: str, at: int, flavor: Flavor, tokens: list[_Token]) -> int:
    """Tokens for the star that ended at ``at``; ``**/`` and ``**`` as the ignore file means them."""
    if flavor == "ignore" and pattern.startswith("*", at):
        at += 1
        if pattern.startswith("/", at):
            at += 1
        if at == len(pattern):
            tokens.append(_Token("deep"))
        else:
            tokens += [_Token("gate"), _Token("dirs")]
        return at
    if not tokens or tokens[-1].kind != "star":
        tokens.append(_Token("star"))
    return at


def _bracket(pattern: str, at: int, flavor: Flavor) -> tuple[_Token, int]:
    """The character class that opened just before ``at``; and where it ends."""
    negated = pattern.startswith("^", at)
    at += negated
    ranges: list[tuple[str, str]] = []
    while True:
        if pattern.startswith("]", at) and (ranges or flavor == "path"):
            if not ranges:
                raise InvalidParameter("syntax error in pattern")
            return _Token("class", "", tuple(ranges), negated), at + 1
        low, at = _class_member(pattern, at, flavor)
        high = low
        if pattern.startswith("-", at) and not (flavor == "ignore" and pattern.startswith("]", at + 1)):
            high, at = _class_member(pattern, at + 1, flavor)
        if high < low:
            raise InvalidParameter("syntax error in pattern")
        ranges.append((low, high))


def _class_member(pattern: str, at: int, flavor: Flavor) -> tuple[str, int]:
    ch = pattern[at : at + 1]
    if ch == "\\":
        at += 1
        ch = pattern[at : at + 1]
    elif flavor == "path" and ch in ("-", "]"):
        raise InvalidParameter("syntax error in pattern")
    if not ch:
        raise InvalidParameter("syntax error in pattern")
    return ch, at + 1
