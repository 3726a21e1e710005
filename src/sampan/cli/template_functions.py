"""The functions of ``--format`` templates: Go's built-in ones and docker's own."""

from __future__ import annotations

from sampan import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def to_text(value: Any) -> str:
    """A value as Go's ``fmt.Print`` shows it."""
    from sampan.cli.template import MISSING

    if isinstance(value, str):
        return value
    if value is True or value is False:
        return "true" if value else "false"
    if value is None:
        return "<nil>"
    if value is MISSING:
        return "<no value>"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{to_text(key)}:{to_text(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(to_text(item) for item in value) + "]"
    return str(value)


def _float(value: float) -> str:
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        sign = "-" if exponent.startswith("-") else "+"
        return f"{mantissa}e{sign}{exponent.lstrip('+-').zfill(2)}"
    return text


def to_json(value: Any) -> str:
    """``json``: the value, or a table row's fields by name."""
    fields = getattr(value, "fields", None)
    if callable(fields):
        return jsontext.dumps(fields(), sort=True)
    from sampan.cli.template import MISSING

    return jsontext.dumps(None if value is MISSING else value)


def index(value: Any, *keys: Any) -> Any:
    """``index x 1 "a"``: x[1]["a"]."""
    from sampan.cli.template import MISSING, TemplateError

    for key in keys:
        if value is None or value is MISSING:
            raise TemplateError(':1:2: executing "" at <index>: error calling index: index of untyped nil')
        if isinstance(value, dict):
            value = value.get(to_text(key), MISSING)
        elif not isinstance(key, int):
            raise TemplateError(
                f":1: error calling index: cannot index slice/array with type {type(key).__name__}"
            )
        elif not 0 <= key < len(value):
            raise TemplateError(
                ':1:2: executing "" at <index>: error calling index: reflect: '
                f"slice index out of range: {key}"
            )
        else:
            value = value[key]
    return value


def cut(value: Any, *bounds: int) -> Any:
    """``slice x 1 3``: x[1:3]."""
    start = bounds[0] if bounds else 0
    end = bounds[1] if len(bounds) > 1 else len(value)
    if not 0 <= start <= end <= len(value):
        raise ValueError(f"index out of range: {end}")
    return value[start:end]


def length(value: Any) -> int:
    """``len``: bytes of a string, items of the rest."""
    return len(value.encode()) if isinstance(value, str) else len(value)


def equal(first: Any, *others: Any) -> bool:
    """``eq a b c``: a == b || a == c."""
    if not others:
        raise ValueError("missing argument for comparison")
    for other in others:
        if isinstance(first, (int, float)) != isinstance(other, (int, float)) and None not in (first, other):
            raise ValueError("incompatible types for comparison")
    return any(first == other for other in others)


def not_equal(first: Any, other: Any) -> bool:
    """``ne``."""
    return not equal(first, other)


def verb(letter: str, value: Any) -> str:
    """One value by a printf verb without flags."""
    if letter in "vs":
        return to_text(value)
    if letter == "q":
        return (
            jsontext.quote(to_text(value))
            .replace("\\u003c", "<")
            .replace("\\u003e", ">")
            .replace("\\u0026", "&")
        )
    if letter == "t":
        return "true" if value else "false"
    if letter == "T":
        from sampan.cli.template import kind

        return kind(value)
    if letter == "c":
        return chr(value)
    if letter in "xX" and isinstance(value, str):
        digits = value.encode().hex()
        return digits.upper() if letter == "X" else digits
    if letter in "doxXb" and isinstance(value, int):
        return format(value, letter)
    if letter in "feEgG" and isinstance(value, (int, float)):
        return format(value, letter)
    from sampan.cli.template import kind

    return f"%!{letter}({kind(value)}={to_text(value)})"


def printf(form: str, *values: Any) -> str:
    """Go's ``fmt.Sprintf`` for the verbs v s q d x X o b c t f e g T, with flags, width and precision."""
    out: list[str] = []
    rest = list(values)
    at = 0
    while at < len(form):
        if form[at] != "%":
            out.append(form[at])
            at += 1
            continue
        end = at + 1
        while end < len(form) and form[end] in "+-# 0123456789.":
            end += 1
        letter = form[end : end + 1]
        if letter == "%":
            out.append("%")
        elif not letter:
            out.append("%!(NOVERB)")
        elif not rest:
            out.append(f"%!{letter}(MISSING)")
        else:
            out.append(_formatted(form[at + 1 : end], letter, rest.pop(0)))
        at = end + 1
    if rest:
        from sampan.cli.template import kind

        shown = ", ".join(f"{kind(value)}={to_text(value)}" for value in rest)
        out.append(f"%!(EXTRA {shown})")
    return "".join(out)


def _formatted(flags: str, letter: str, value: Any) -> str:
    width, dot, precision = flags.lstrip("+-# 0").partition(".")
    marks = flags[: len(flags) - len(flags.lstrip("+-# 0"))]
    if dot and letter in "feEgG":
        text = format(float(value), f".{precision or 0}{letter}")
    elif dot and letter in "svq":
        text = verb(letter, to_text(value)[: int(precision or 0)])
    else:
        text = verb(letter, value)
    if "+" in marks and letter in "dfeg" and not text.startswith("-"):
        text = f"+{text}"
    if "-" in marks:
        return text.ljust(int(width or 0))
    if "0" in marks and letter in "dxXobfeg":
        return text.zfill(int(width or 0))
    return text.rjust(int(width or 0))


def joined(*values: Any) -> str:
    """``print``: blanks only between operands that are both no strings."""
    out = ""
    for at, value in enumerate(values):
        if at and not isinstance(value, str) and not isinstance(values[at - 1], str):
            out += " "
        out += to_text(value)
    return out


def line(*values: Any) -> str:
    """``println``."""
    return " ".join(to_text(value) for value in values) + "\n"


def join(items: Any, separator: str = " ") -> str:
    """``join list ", "``."""
    return separator.join(to_text(item) for item in items or [])


def pad(text: Any, left: int, right: int) -> str:
    """``pad``: blanks on both sides of a text that isn't empty."""
    shown = to_text(text)
    return f"{' ' * left}{shown}{' ' * right}" if shown else ""


def truncate(text: Any, limit: int) -> str:
    """``truncate``: the first so many bytes."""
    return to_text(text)[:limit]


def title(text: Any) -> str:
    """``title``: the first letter of each word in upper case."""
    out = []
    before = " "
    for letter in to_text(text):
        out.append(letter.upper() if not before.isalnum() and before not in "_'" else letter)
        before = letter
    return "".join(out)


def escape_html(*values: Any) -> str:
    """``html``."""
    text = joined(*values)
    for raw, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = text.replace(raw, entity)
    return text


def escape_url(*values: Any) -> str:
    """``urlquery``."""
    from sampan.client.engine import quote

    return quote(joined(*values)).replace("%20", "+")


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """``call``."""
    return function(*arguments)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "json": to_json,
    "split": lambda text, separator: to_text(text).split(separator),
    "join": join,
    "title": title,
    "lower": lambda text: to_text(text).lower(),
    "upper": lambda text: to_text(text).upper(),
    "pad": pad,
    "truncate": truncate,
    "table": joined,
    "index": index,
    "slice": cut,
    "len": length,
    "not": lambda value: not value,
    "eq": equal,
    "ne": not_equal,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "print": joined,
    "printf": printf,
    "println": line,
    "html": escape_html,
    "js": to_json,
    "urlquery": escape_url,
    "call": call,
}
