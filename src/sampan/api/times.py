"""Times in query strings: Unix seconds with a fraction, RFC 3339, or a duration back from now."""

from __future__ import annotations

import time

from sampan import errors
from sampan.engine.containers.timestamps import parse_duration, parse_rfc3339, parse_unix


def time_parameter(name: str, text: str) -> int | None:
    """Nanoseconds since 1970 of a ``since`` or ``until``; None when it isn't given. InvalidParameter."""
    if not text:
        return None
    try:
        return parse_unix(text)
    except ValueError as error:
        reason = str(error)
    for parse in (_ago, parse_rfc3339):
        try:
            return parse(text)
        except ValueError:
            continue
    raise errors.InvalidParameter(f"invalid value for '{name}': {reason}")


def _ago(text: str) -> int:
    return time.time_ns() - parse_duration(text)
