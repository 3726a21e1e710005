"""The nearest known word to a mistyped one (optimal string alignment distance)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is at most a third of its letters away, else one that ``word`` begins, else ""."""
    best, best_distance = "", max(1, len(word) // 3) + 1
    for candidate in known:
        apart = distance(word, candidate)
        if apart < best_distance:
            best, best_distance = candidate, apart
    if best or len(word) < 3:
        return best
    return next((candidate for candidate in known if candidate.startswith(word)), "")


def distance(left: str, right: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours that turn one word into the other."""
    two_up: list[int] = []
    above = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                best = min(best, two_up[j - 2] + 1)
            row.append(best)
        two_up, above = above, row
    return above[-1]
