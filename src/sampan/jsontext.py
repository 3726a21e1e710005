"""JSON on top of the interpreter's C scanner and encoder.

Importing :mod:`json` costs a command-line program some 9 ms, because its pure Python fallbacks compile
regular expressions; the two C functions below it cost nothing. Where they are missing (another Python),
:mod:`json` itself is used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_BLANK = " \t\n\r"


class _Scanning:
    """The attributes that ``_json.make_scanner`` reads from its context."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012 - the scanner clears it after each document

    @staticmethod
    def parse_constant(name: str) -> Any:
        """NaN and the infinities are not JSON; Go never sends them, so their names will do."""
        return name


def _scanner() -> Callable[[str, int], tuple[Any, int]]:
    try:
        from _json import make_scanner
    except ImportError:  # pragma: no cover - other interpreters
        import json

        return json.JSONDecoder(strict=False).raw_decode
    context: Any = _Scanning  # it reads attributes, as of a decoder
    scan: Callable[[str, int], tuple[Any, int]] = make_scanner(context)
    return scan


def loads(text: str | bytes) -> Any:
    """Decode one JSON document. Raises ValueError on anything else."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    start, end = 0, len(text)
    while start < end and text[start] in _BLANK:
        start += 1
    try:
        value, stop = _scanner()(text, start)
    except StopIteration as error:
        raise ValueError(f"not JSON at offset {error.value}") from None
    if text[stop:].strip(_BLANK):
        raise ValueError(f"unexpected text after JSON at offset {stop}")
    return value


def documents(pieces: Iterable[bytes]) -> Iterable[Any]:
    """Decode a stream of JSON documents, one a line (Docker's progress, events, stats) or run together."""
    scan = _scanner()
    pending = b""
    for piece in pieces:
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            yield from _run_together(scan, line)
        # A server may leave out the newline of a document that it flushes and then wait.
        if pending.endswith(b"}") and _complete(scan, pending):
            yield from _run_together(scan, pending)
            pending = b""
    yield from _run_together(scan, pending)


def _complete(scan: Callable[[str, int], tuple[Any, int]], line: bytes) -> bool:
    try:
        list(_run_together(scan, line))
    except ValueError:
        return False
    return True


def _run_together(scan: Callable[[str, int], tuple[Any, int]], line: bytes) -> Iterable[Any]:
    text = line.decode("utf-8", "replace").strip("\x1e \t\r\n")
    at = 0
    while at < len(text):
        try:
            value, at = scan(text, at)
        except StopIteration as error:
            raise ValueError(f"not JSON at offset {error.value}") from None
        yield value
        while at < len(text) and text[at] in _BLANK:
            at += 1


def plain_quote(text: str) -> str:
    """A JSON string literal; only what JSON itself forbids is escaped."""
    try:
        from _json import encode_basestring
    except ImportError:  # pragma: no cover - other interpreters
        from json.encoder import encode_basestring
    out: str = encode_basestring(text)
    return out


def quote(text: str) -> str:
    """A JSON string literal with Go's escapes: UTF-8 stays, ``<``, ``>``, ``&`` and U+2028/9 are escaped."""
    out = plain_quote(text)
    for raw, escaped in _GO_ESCAPES:
        if raw in out:
            out = out.replace(raw, escaped)
    return out


_GO_ESCAPES = (
    ("<", "\\u003c"),
    (">", "\\u003e"),
    ("&", "\\u0026"),
    ("\u2028", "\\u2028"),
    ("\u2029", "\\u2029"),
)


def dumps(value: Any, indent: int = 0, *, sort: bool = False, escape: bool = True) -> str:
    """Encode as Go's ``json.Marshal`` (or, with ``indent`` blanks a level, ``MarshalIndent``) writes it.

    ``escape`` False leaves ``<``, ``>``, ``&`` readable.
    """
    writer = _Writer(" " * indent, sort=sort, quote=quote if escape else plain_quote)
    writer.value(value, "\n" if indent else "")
    return "".join(writer.out)


class _Writer:
    """Encodes into a list of pieces."""

    def __init__(self, indent: str, *, sort: bool, quote: Callable[[str], str]) -> None:
        self.out: list[str] = []
        self._indent, self._sort, self._quote = indent, sort, quote

    def value(self, value: Any, line: str) -> None:
        """Any value; ``line`` is the line break with the present indentation, "" on one line."""
        if isinstance(value, str):
            self.out.append(self._quote(value))
        elif value is None or value is True or value is False:
            self.out.append({None: "null", True: "true", False: "false"}[value])
        elif isinstance(value, float):
            self.out.append(_number(value))
        elif isinstance(value, int):
            self.out.append(str(value))
        elif isinstance(value, dict):
            self._object(value, line)
        else:
            self._array(list(value), line)

    def _object(self, value: dict[Any, Any], line: str) -> None:
        inner, colon = line and line + self._indent, ": " if line else ":"
        lead = "{" + inner
        for key in sorted(value) if self._sort else value:
            self.out.append(lead + self._quote(str(key)) + colon)
            self.value(value[key], inner)
            lead = "," + inner
        self.out.append(line + "}" if value else "{}")

    def _array(self, value: list[Any], line: str) -> None:
        inner = line and line + self._indent
        lead = "[" + inner
        for item in value:
            self.out.append(lead)
            self.value(item, inner)
            lead = "," + inner
        self.out.append(line + "]" if value else "[]")


def _number(value: float) -> str:
    """A float as Go prints it: no exponent between 1e-6 and 1e21, no ``.0`` on whole numbers."""
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    sign = "-" if exponent.startswith("-") else "+"
    return f"{mantissa}e{sign}{exponent.lstrip('+-').zfill(2)}"
