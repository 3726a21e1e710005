"""Sizes, times and durations as Docker writes and reads them."""

from __future__ import annotations

import time

DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB")
SECOND = 1_000_000_000
_DURATIONS = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "μs": 1000,
    "ms": 1_000_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3600 * SECOND,
}
_SIZES = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def significant(value: float, digits: int) -> str:
    """A number with at most so many significant digits, no trailing zeros (C's ``%.4g``)."""
    return f"{value:.{digits}g}"


def size(count: float, digits: int = 4) -> str:
    """Bytes with powers of 1000: 2.041MB."""
    return _scaled(float(count), 1000.0, DECIMAL, digits)


def binary_size(count: float) -> str:
    """Bytes with powers of 1024: 23.54GiB."""
    return _scaled(float(count), 1024.0, BINARY, 4)


def _scaled(value: float, base: float, names: tuple[str, ...], digits: int) -> str:
    at = 0
    while value >= base and at < len(names) - 1:
        value /= base
        at += 1
    return f"{significant(value, digits)}{names[at]}"


def parse_size(text: str) -> int:
    """``64m`` in bytes, powers of 1024. Raises ValueError with Docker's words."""
    body = text.lower()
    at = len(body)
    while at and not (body[at - 1].isdigit() or body[at - 1] in ". "):
        at -= 1
    number, suffix = body[:at].rstrip(), body[at:]
    if suffix not in ("", "b"):
        suffix = suffix.removesuffix("b").removesuffix("i")
    try:
        value = float(number)
    except ValueError:
        raise ValueError(f"invalid size: '{text}'") from None
    if suffix not in _SIZES or value < 0 or number[:1] in "+-":
        raise ValueError(f"invalid size: '{text}'")
    return int(value * 1024 ** _SIZES[suffix])


def parse_duration(text: str) -> int:
    """``1m30s`` in nanoseconds (Go's time.ParseDuration). Raises ValueError."""
    sign, rest = 1, text
    if rest[:1] in ("-", "+"):
        sign, rest = (-1 if rest[0] == "-" else 1), rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise ValueError(f'time: invalid duration "{text}"')
    total = 0
    while rest:
        at = 0
        while at < len(rest) and (rest[at].isdigit() or rest[at] == "."):
            at += 1
        end = at
        while end < len(rest) and not (rest[end].isdigit() or rest[end] == "."):
            end += 1
        number, unit, rest = rest[:at], rest[at:end], rest[end:]
        if not number.strip(".") or number.count(".") > 1:
            raise ValueError(f'time: invalid duration "{text}"')
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _DURATIONS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        whole, _, fraction = number.partition(".")
        total += int(whole or 0) * _DURATIONS[unit]
        if fraction:
            total += int(fraction) * _DURATIONS[unit] // 10 ** len(fraction)
    return sign * total


def duration(nanoseconds: int) -> str:
    """Nanoseconds as Go prints a duration: 1m30s."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    if rest < SECOND:
        for unit, factor in (("ms", 1_000_000), ("µs", 1000), ("ns", 1)):
            if rest >= factor:
                return f"{sign}{_trimmed(rest, factor)}{unit}"
    hours, rest = divmod(rest, 3600 * SECOND)
    minutes, rest = divmod(rest, 60 * SECOND)
    text = f"{hours}h" if hours else ""
    if hours or minutes:
        text += f"{minutes}m"
    return f"{sign}{text}{_trimmed(rest, SECOND)}s"


def _trimmed(value: int, factor: int) -> str:
    whole, rest = divmod(value, factor)
    fraction = str(rest).zfill(len(str(factor)) - 1).rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


_AGES = (
    (1, "Less than a second"),
    (2, "1 second"),
    (60, "{s} seconds"),
    (120, "About a minute"),
    (3600, "{m} minutes"),
)


def age(seconds: float) -> str:
    """A duration for people: ``5 minutes``, ``About an hour``, ``3 weeks``."""
    whole = int(seconds)
    for limit, words in _AGES:
        if whole < limit:
            return words.format(s=whole, m=whole // 60)
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    days = hours // 24
    for limit, unit in (
        (48, f"{hours} hours"),
        (24 * 7 * 2, f"{days} days"),
        (24 * 30 * 2, f"{days // 7} weeks"),
        (24 * 365 * 2, f"{days // 30} months"),
    ):
        if hours < limit:
            return unit
    return f"{int(seconds / 3600) // 24 // 365} years"


def ago(unix: float) -> str:
    """How long since a time in Unix seconds."""
    return age(time.time() - unix) + " ago"


def parse_time(text: str) -> float:
    """An RFC 3339 time in Unix seconds; 0 for Go's zero time. Raises ValueError."""
    return parse_time_ns(text) / 1e9


def parse_time_ns(text: str) -> int:
    """An RFC 3339 time in nanoseconds since 1970. Raises ValueError."""
    if len(text) < 20 or text[10] not in "Tt ":
        raise ValueError(f"not a time: {text!r}")
    year, month, day = int(text[:4]), int(text[5:7]), int(text[8:10])
    hour, minute, second = int(text[11:13]), int(text[14:16]), int(text[17:19])
    rest = text[19:]
    fraction = 0
    if rest.startswith("."):
        at = 1
        while at < len(rest) and rest[at].isdigit():
            at += 1
        fraction = int(rest[1:at][:9].ljust(9, "0"))
        rest = rest[at:]
    days = _days(year, month, day)
    total = days * 86400 + hour * 3600 + minute * 60 + second - _offset(rest)
    return total * SECOND + fraction


def _offset(zone: str) -> int:
    if zone in ("Z", "z"):
        return 0
    if len(zone) != 6 or zone[0] not in "+-" or zone[3] != ":":
        raise ValueError(f"not a time zone: {zone!r}")
    seconds = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
    return -seconds if zone[0] == "-" else seconds


def _days(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar."""
    year -= month <= 2
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def go_time(unix: float) -> str:
    """A time as Go's default format prints it: ``2026-11-24 06:56:15 +0000 UTC``."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(unix))


def timestamp_parameter(text: str, what: str) -> str:
    """``--since`` and ``--until`` for the API: a time, or a duration before now, in Unix seconds.

    Raises ValueError with Docker's words.
    """
    if not text:
        return ""
    try:
        elapsed = parse_duration(text)
    except ValueError:
        return _absolute(text, what)
    now = time.time_ns() - elapsed
    return f"{now // SECOND}.{now % SECOND:09d}"


_LAYOUTS = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d")


def _absolute(text: str, what: str) -> str:
    try:
        nanoseconds = parse_time_ns(text)
        return f"{nanoseconds // SECOND}.{nanoseconds % SECOND:09d}"
    except ValueError:
        pass
    for layout in _LAYOUTS:
        body, fraction = text, ""
        if "." in text and layout.endswith("S"):
            body, _, fraction = text.partition(".")
        try:
            parsed = time.strptime(body.rstrip("Z"), layout)
        except ValueError:
            continue
        unix = time.mktime(parsed) if not body.endswith("Z") else _utc(parsed)
        return f"{int(unix)}.{fraction[:9].ljust(9, '0')}" if fraction else f"{int(unix)}.000000000"
    if text.replace(".", "", 1).isdigit():
        return text
    lead = f'invalid value for "{what}": ' if what else ""
    raise ValueError(f'{lead}failed to parse value as time or duration: "{text}"')


def _utc(parsed: time.struct_time) -> int:
    days = _days(parsed.tm_year, parsed.tm_mon, parsed.tm_mday)
    return days * 86400 + parsed.tm_hour * 3600 + parsed.tm_min * 60 + parsed.tm_sec
