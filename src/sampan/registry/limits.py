"""What a registry says of its limits: how long to wait (Retry-After), and Docker Hub's pull limit in words."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import urllib3

_BUSY = frozenset((429, 500, 502, 503, 504))
_LONGEST = 60.0  # seconds that a Retry-After may make us wait
_LIMIT = re.compile(r"(\d+)(?:;w=(\d+))?")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that ``Retry-After`` (RFC 9110, 10.2.3: a number or a date) asks for, None without it."""
    text = headers.get("Retry-After", "").strip()
    if text.isdigit():
        return float(text)
    if not text:
        return None
    from email.utils import parsedate_to_datetime

    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None


def pause(response: urllib3.BaseHTTPResponse, attempt: int, longest: float = _LONGEST) -> float | None:
    """Seconds to wait before the next try; None when another one is of no use: the answer isn't that the
    registry is busy, or it wants more than ``longest``.
    """
    if response.status not in _BUSY:
        return None
    wait = retry_after(response.headers)
    if wait is None:
        return None if response.status == 429 else 0.2 * 2**attempt
    return wait if wait <= longest else None


def explained(headers: Mapping[str, str]) -> str:
    """A 429 in words: which limit, for whom, when it ends, and what to do."""
    user = _is_user(headers.get("docker-ratelimit-source", ""))
    whom = "this user" if user else "this address" if user is False else "this address or user"
    found = _LIMIT.match(headers.get("ratelimit-limit", ""))
    what = f"lets {whom} pull {found[1]} times" if found else f"limits how often {whom} may pull"
    window = f" in {_span(float(found[2]))}" if found and found[2] else ""
    wait = retry_after(headers)
    until = f"It ends in {_span(wait)}" if wait is not None else "It counts pulls of the last hours"
    do = "An account with a higher limit raises it" if user else "docker login raises it"
    return f"The registry {what}{window}. {until}. {do}; so does a mirror (registry-mirrors)."


def _is_user(source: str) -> bool | None:
    """Docker Hub names whom it counts: an address, or a user's id; None when it doesn't say."""
    return None if not source else not re.fullmatch(r"[0-9.]+|[0-9a-fA-F:]*:[0-9a-fA-F:.]*", source)


def _span(seconds: float) -> str:
    """A time for people: 90 s, 5 minutes, 6 hours."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"
