"""Query strings as Docker reads them: Go's escapes, Docker's booleans, and filters in both of their forms."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from sampan import errors

_FALSE = frozenset(("", "0", "no", "false", "none"))
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_INTEGER = re.compile(r"[+-]?[0-9]+\Z")


def unescape(text: str) -> str:
    """Undo percent escapes; bytes that are not UTF-8 become surrogates. InvalidParameter as Go words it."""
    if "%" not in text:
        return text
    bad = _BAD_ESCAPE.search(text)
    if bad:
        raise errors.InvalidParameter(f'invalid URL escape "{bad.group()}"')
    return _ESCAPES.sub(lambda run: _decode_run(run.group()), text)


def _decode_run(run: str) -> str:
    return bytes.fromhex(run.replace("%", "")).decode("utf-8", "surrogateescape")


def parse_query(text: str) -> dict[str, list[str]]:
    """Fields of a query string; a field may repeat. InvalidParameter for bad escapes and ';'."""
    fields: dict[str, list[str]] = {}
    for pair in text.split("&"):
        if not pair:
            continue
        if ";" in pair:
            raise errors.InvalidParameter("invalid semicolon separator in query")
        name, _, value = pair.replace("+", " ").partition("=")
        fields.setdefault(unescape(name), []).append(unescape(value))
    return fields


def parse_int(text: str, go_function: str = "strconv.Atoi") -> int:
    """A decimal integer that fits 64 bits, or InvalidParameter in the words of Go's ``strconv``."""
    if not _INTEGER.match(text):
        raise errors.InvalidParameter(f'{go_function}: parsing "{text}": invalid syntax')
    number = int(text) if len(text) < 25 else 1 << 64
    if not -(1 << 63) <= number < 1 << 63:
        raise errors.InvalidParameter(f'{go_function}: parsing "{text}": value out of range')
    return number


Filters = dict[str, list[str]]


class Query:
    """The parameters behind the question mark of one request."""

    __slots__ = ("fields",)

    def __init__(self, fields: dict[str, list[str]] | None = None) -> None:
        self.fields = fields or {}

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def get(self, name: str, default: str = "") -> str:
        """The first value of a parameter."""
        values = self.fields.get(name)
        return values[0] if values else default

    def bool(self, name: str, default: bool = False) -> bool:
        """Docker's idea of a boolean: "", 0, no, false, none are false, everything else is true."""
        if name not in self.fields:
            return default
        return self.fields[name][0].strip().lower() not in _FALSE

    def int(self, name: str, default: int = 0) -> int:
        """An integer, ``default`` when absent or empty. InvalidParameter (Go's words) when it is none."""
        text = self.get(name)
        return parse_int(text) if text else default

    def list(self, name: str) -> list[str]:
        """All values of a repeated parameter."""
        return self.fields.get(name, [])

    def filters(self, allowed: Iterable[str] | None = None) -> Filters:
        """The ``filters`` parameter; names outside ``allowed`` are refused as dockerd refuses them (400)."""
        found = parse_filters(self.get("filters"))
        if allowed is not None:
            names = frozenset(allowed)
            for name in found:
                if name not in names:
                    raise errors.InvalidParameter(
                        f"invalid filter '{name}'", hint=f"known filters: {', '.join(sorted(names))}"
                    )
        return found


def parse_filters(text: str) -> dict[str, list[str]]:
    """Filters from JSON: ``{"status": {"running": true}}`` or ``{"status": ["running"]}``."""
    if not text:
        return {}
    try:
        found = msgspec.json.decode(text.encode("utf-8", "surrogateescape"))
    except (msgspec.DecodeError, UnicodeError):
        raise _no_filters() from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise _no_filters()
    return {name: _filter_values(values) for name, values in found.items()}


def _filter_values(values: object) -> list[str]:
    if values is None:
        return []
    if isinstance(values, dict) and all(isinstance(flag, bool) for flag in values.values()):
        return list(values)
    if isinstance(values, list) and all(isinstance(value, str) for value in values):
        return values
    raise _no_filters()


def _no_filters() -> errors.InvalidParameter:
    return errors.InvalidParameter(
        "invalid filter", hint='Filters are JSON such as {"label": ["name=value"]}.'
    )


def filter_bool(filters: dict[str, list[str]], name: str, default: bool) -> bool:
    """A filter that is a boolean (``dangling``, ``is-automated``). InvalidParameter for anything else."""
    values = filters.get(name)
    if not values:
        return default
    wanted = {"1": True, "true": True, "0": False, "false": False}
    flags = {wanted.get(value.lower()) for value in values}
    if len(flags) != 1 or None in flags:
        raise errors.InvalidParameter(f"invalid filter '{name}=[{' '.join(values)}]'")
    return bool(flags.pop())


def filter_matches(pattern: str, text: str) -> bool:
    """Whether a filter's value, a regular expression, is found in ``text``; what is none is taken literally."""
    try:
        return re.search(pattern, text) is not None
    except re.error:
        return pattern in text
