"""Which word of an instruction an error is about: the one that the message names."""

from __future__ import annotations

import re

_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"|`([^`]+)`")
# Words of the messages themselves; a file called so is found only where the message quotes it.
_OURS = frozenset(
    re.findall(
        r"\S+",
        "a an and are as be build by can't command context copy excluded failed file for format found "
        "from in invalid is it key mode must name no not of on one only option or parse path secret "
        "should source stage stat such that the to type unknown used user value with",
    )
)


def blamed(message: str, lines: list[str], first: int, last: int) -> tuple[int, int, int] | None:
    """Line (1-based), column (0-based) and width of what ``message`` is about, in lines ``first`` to ``last``.

    The end of the instruction when something is missing there; None when it can't be told.
    """
    last = min(last, len(lines))
    suspects = _suspects(message[:2000])[:40]
    for inside in (r"[\w./-]", r"\w"):  # whole words first, then parts of them
        for word in suspects:
            around = re.compile(rf"(?<!{inside}){re.escape(word)}(?!{inside})")
            for number in range(first, last + 1):
                text = lines[number - 1]
                match = around.search(text, _after_keyword(text) if number == first else 0)
                if match is not None:
                    return number, match.start(), match.end() - match.start()
    if re.search(r"requires (at least|exactly|either)|must have two arguments", message):
        return last, len(lines[last - 1].rstrip()), 1
    base = re.match(r"\s*FROM\s+(?:--\S+\s+)*(\S+)", lines[first - 1], re.IGNORECASE)
    return (first, base.start(1), len(base[1])) if base is not None else None


def _after_keyword(text: str) -> int:
    match = re.match(r"\s*\w+", text)
    return match.end() if match else 0


def _suspects(message: str) -> list[str]:
    """What the message quotes, then its other words that aren't plain English, the longest first."""
    quoted = ["".join(parts) for parts in _QUOTED.findall(message)] + re.findall(r"\bstat (\S+):", message)
    bare = {word.strip("'\"`()[],;:") for word in _QUOTED.sub(" ", message).split()}
    return [*quoted, *sorted(bare - _OURS - {""}, key=lambda word: (-len(word), word))]
