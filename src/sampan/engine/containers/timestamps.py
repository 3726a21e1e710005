"""Times as the Engine API writes and reads them: RFC 3339 with nanoseconds, Unix times, Go's durations."""

from __future__ import annotations

import calendar
import re
import time
from datetime import UTC, datetime

from sampan import errors

ZERO = "0001-01-01T00:00:00Z"
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d)(?::(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?)?(Z|z|[+-]\d\d:\d\d)?\Z"
)
_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h))+\Z")
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNIT = {"ns": 1, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9, "m": 60e9, "h": 3600e9}


def rfc3339(ns: int) -> str:
    """``ns`` since 1970 as RFC 3339, trailing zeros cut (Go's RFC3339Nano); 0 is Go's zero time."""
    if ns == 0:
        return ZERO
    seconds, fraction = divmod(ns, 1_000_000_000)
    head = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    digits = f"{fraction:09d}".rstrip("0")
    return f"{head}.{digits}Z" if digits else f"{head}Z"


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since 1970 of an RFC 3339 time; parts may lack from the right; ValueError if it is none."""
    match = _RFC3339.match(text)
    if not match:
        raise ValueError(f"not an RFC 3339 time: {text!r}")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    seconds = calendar.timegm(
        (int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0))
    )
    if zone and zone not in "Zz":
        sign = 1 if zone[0] == "+" else -1
        seconds -= sign * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60)
    return seconds * 1_000_000_000 + int((fraction or "").ljust(9, "0"))


def parse_unix(text: str) -> int:
    """Nanoseconds of ``seconds[.fraction]``; ValueError with Go's words when it is no number."""
    seconds, _, fraction = text.partition(".")
    try:
        whole = int(seconds)
    except ValueError:
        raise ValueError(f'invalid timestamp "{text}": invalid seconds "{seconds}": invalid syntax') from None
    if not -(1 << 63) <= whole < 1 << 63:
        raise ValueError(f'invalid timestamp "{text}": invalid seconds "{seconds}": value out of range')
    if not fraction:
        return whole * 1_000_000_000
    if not fraction.isdigit():
        raise ValueError(f'invalid timestamp "{text}": invalid nanoseconds "{fraction}": invalid syntax')
    return whole * 1_000_000_000 + int(fraction[:9].ljust(9, "0"))


def parse_duration(text: str) -> int:
    """Nanoseconds of Go's duration format (``1h30m``, ``1.5s``, ``0``); ValueError if it is none."""
    if text in ("0", "+0", "-0"):
        return 0
    match = _DURATION.match(text)
    if not match:
        raise ValueError(f'time: invalid duration "{text}"')
    total = sum(float(number) * _UNIT[unit] for number, unit in _PART.findall(text))
    return round(-total if match.group(1) == "-" else total)


def parse_filter_time(text: str, now_ns: int) -> int:
    """What ``until`` and ``since`` filters mean: a duration back from now, a Unix time or RFC 3339 (UTC)."""
    for parse in (lambda t: now_ns - parse_duration(t), parse_rfc3339, parse_unix):
        try:
            return parse(text)
        except ValueError:
            continue
    raise errors.InvalidParameter(
        f'invalid timestamp "{text}"',
        hint="Give a duration such as 24h, a Unix time, or 2026-01-31T12:00:00.",
    )


def human_duration(seconds: float) -> str:
    """A length of time as ``docker ps`` words it: "Less than a second", "About a minute", "3 weeks"."""
    whole = int(seconds)
    minutes, hours = whole // 60, int(seconds / 3600 + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    return _human_hours(hours)


def _human_hours(hours: int) -> str:
    for limit, divisor, unit in ((48, 1, "hours"), (24 * 14, 24, "days"), (24 * 60, 24 * 7, "weeks")):
        if hours < limit:
            return "About an hour" if hours == 1 else f"{hours // divisor} {unit}"
    if hours < 24 * 365 * 2:
        return f"{hours // (24 * 30)} months"
    return f"{hours // (24 * 365)} years"


def from_datetime(when: datetime) -> int:
    """Nanoseconds since 1970 of an aware or UTC datetime."""
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return calendar.timegm(aware.utctimetuple()) * 1_000_000_000 + aware.microsecond * 1000
