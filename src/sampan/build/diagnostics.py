"""Positions in a Dockerfile and errors that show them: file, line, the text, a caret, the mended line."""

from __future__ import annotations

from dataclasses import dataclass

from sampan.build.caret import blamed
from sampan.build.mistakes import in_writing
from sampan.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Span:
    """Lines ``first`` to ``last`` (1-based, inclusive); when known, a column range (0-based) in ``first``."""

    first: int
    last: int
    column: int | None = None
    width: int = 1


def frame(name: str, lines: list[str], span: Span, message: str = "") -> str:
    """The code frame of ``span``: up to five numbered lines of ``lines``, a caret under the column, or under
    what ``message`` names.
    """
    if not 1 <= span.first <= len(lines):
        return name
    last = min(span.last, span.first + 4, len(lines))
    if span.column is not None:
        mark: tuple[int, int, int] | None = (span.first, span.column, max(1, span.width))
    else:
        mark = blamed(message, lines, span.first, last) if message else None
    digits = len(str(last))
    out = [f"{name}:{span.first}"]
    for number in range(span.first, last + 1):
        text = lines[number - 1].rstrip("\r\n").expandtabs(1)
        out.append(f"  {number:>{digits}} | {text}")
        if mark is not None and mark[0] == number:
            out.append(f"  {'':>{digits}} | {' ' * mark[1]}{'^' * mark[2]}")
    return "\n".join(out)


class DockerfileError(InvalidParameter):
    """A Dockerfile that can't be accepted.

    ``reason`` is the bare cause, ``message`` dockerd's wording around it (clients match on it), and
    ``hint`` the code frame with the mended line when it can be known, or ``advice``, a sentence.
    """

    def __init__(
        self,
        reason: str,
        span: Span | None = None,
        *,
        mended: str = "",
        advice: str = "",
        syntax: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.span = span
        self.mended = mended
        self.advice = advice
        # dockerd tells errors of its line parser ("failed to parse NAME: …") from those of single
        # instructions ("dockerfile parse error on line N: …"), and clients know both.
        self.syntax = syntax

    def located(self, name: str, lines: list[str]) -> DockerfileError:
        """The same error with dockerd's prefix and a code frame of ``lines`` from the file ``name``."""
        if self.syntax:
            self.message = f"failed to parse {name}: {self.reason}"
        elif self.span is not None:
            self.message = f"dockerfile parse error on line {self.span.first}: {self.reason}"
        if self.span is not None and not (self.mended or self.advice) and self.span.first <= len(lines):
            self.advice = in_writing(self.reason, lines, self.span.first)
        shown = [frame(name, lines, self.span, self.reason)] if self.span is not None else []
        shown += [f"did you mean `{self.mended}`?"] if self.mended else []
        self.hint = "\n".join([*shown, *([self.advice] if self.advice else [])])
        self.args = (self.message,)
        return self


def nearest(word: str, known: list[str], limit: int = 2) -> str | None:
    """The entry of ``known`` closest to ``word`` (case ignored), by ``limit`` edits at most, half its letters."""
    limit = min(limit, len(word) // 2)
    best: tuple[int, str] | None = None
    for candidate in known:
        distance = edit_distance(word.lower(), candidate.lower(), limit)
        if distance <= limit and (best is None or distance < best[0]):
            best = (distance, candidate)
    return best[1] if best else None


def edit_distance(a: str, b: str, limit: int) -> int:
    """How many letters to add, drop, change or swap with the next make ``b`` of ``a``; anything above ``limit`` is
    reported as ``limit + 1``.
    """
    if abs(len(a) - len(b)) > limit:
        return limit + 1
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a):
        before, above, row = row, before, [i + 1]
        for j, y in enumerate(b):
            row.append(min(before[j + 1] + 1, row[j] + 1, before[j] + (x != y)))
            if i and j and x == b[j - 1] and a[i - 1] == y:
                row[-1] = min(row[-1], above[j - 1] + 1)
    return min(row[-1], limit + 1)
