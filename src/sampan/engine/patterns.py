"""Clients' regular expressions, as filters have them: only ones that are done in a short time.

Docker's (Go's) never take long; Python's try one way after the other, and while they do, the engine stands still.
"""

from __future__ import annotations

import re

from sampan.errors import InvalidParameter

_PLAIN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_HEAD = re.compile(r"\(\?(?:P<\w+>|[imsU-]*:|[imsU]+\))")
_MOST_WAYS = 64**3


def compiled(text: str) -> re.Pattern[str]:
    """Raises re.error for what is none in Go's language, InvalidParameter for what could take long: a repeated
    group with a repetition or a choice in it, more than three repetitions (or two and 64 choices) on the way.
    """
    try:
        expression = re.compile(text)
    except (OverflowError, RecursionError):
        raise re.error("too large", text) from None
    bare = _HEAD.sub(_opened, _PLAIN.sub("x", text))
    if "(?" in bare:
        raise re.error("a group that Go's expressions have not", text)
    if _takes_long(bare):
        hint = "No repeated groups with repetitions or choices in them, and at most three repetitions."
        raise InvalidParameter(f"regular expression {text!r} could take too long", hint=hint)
    return expression


def _opened(head: re.Match[str]) -> str:
    return "" if head[0].endswith(")") else "("


def _takes_long(bare: str) -> bool:
    """``bare``: without classes, escapes and the heads of groups."""
    # 64 ways to match a repetition (a name's length), 2 what may be left out, and a group's branches.
    ways = 1
    branches = [1]  # by open group; more than one also for what is repeated or left out in it
    manifold = False  # whether what stands before is a group with several
    for letter in bare:
        if letter in "*+{":
            if manifold:
                return True
            ways *= 64
        elif letter == "?":
            ways *= 2
        manifold = False
        if letter in "*+{?|":
            branches[-1] += 1
        elif letter == "(":
            branches.append(1)
        elif letter == ")":
            inner = branches.pop()
            manifold = inner > 1
            ways *= inner
            branches[-1] += manifold
    return ways > _MOST_WAYS
