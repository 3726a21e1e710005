"""Decode and encode JSON objects with the manners of Go's encoding/json, for any msgspec struct.

Docker's clients are written against a Go server: they send ``null`` for empty lists, maps and strings,
write keys in other case, add fields that nobody knows, and match on the words of Go's error messages.
msgspec itself is strict about all of these, so this module walks the plain objects that a JSON parser
returned and builds the structs.

What a struct may say about itself, as class variables:

``go_name``
    Its Go type for messages, such as ``container.HostConfig`` (default: the class's name).
``go_omitempty``
    Names of the attributes that are left out of the encoded object when empty.

What a field's type may say, by ``typing.Annotated``: :class:`Go` (its Go type, with the range of that
integer type) and :class:`Parse` (a function that checks and normalises a string).
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import msgspec

from sampan.errors import InvalidParameter

T = TypeVar("T")
Decoder = Callable[[Any], Any]
Encoder = Callable[[Any], Any]


class Go:
    """The name of a Go type, for messages and, for integers, for their range."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Parse:
    """A check on strings: returns the value to keep, raises ValueError with Go's words."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[[str], str]) -> None:
        self.function = function


_INTEGER_RANGES = {
    "int": (-(2**63), 2**63 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint": (0, 2**64 - 1),
    "uint64": (0, 2**64 - 1),
    "uint32": (0, 2**32 - 1),
    "uint16": (0, 2**16 - 1),
    "uint8": (0, 2**8 - 1),
}


class _Mismatch(Exception):
    """A value of the wrong JSON kind; the struct decoders on the way out put the path before it."""

    def __init__(self, kind: str, go_type: str) -> None:
        super().__init__(kind, go_type)
        self.kind = kind
        self.go_type = go_type
        self.path: list[str] = []


def convert(value: Any, type_: type[T], *, root: str | None = None) -> T:
    """Build a ``type_`` (a msgspec struct or any type made of them) from parsed JSON, as Go would.

    ``root`` is the name of the outermost struct in messages; by default the last part of its ``go_name``.
    ``null`` gives the default, keys match without regard to case, unknown keys are ignored.

    Raises InvalidParameter (400) with Go's words, such as ``invalid JSON: json: cannot unmarshal number
    into Go struct field .Image of type string``.
    """
    if value is None:
        return typing.cast(T, _zero(type_)())
    try:
        return typing.cast(T, _decoder(typing.cast(Any, type_))(value))
    except _Mismatch as error:
        if error.path:
            name = _go_name(type_).rpartition(".")[2] if root is None else root
            where = f"Go struct field {name}.{'.'.join(reversed(error.path))}"
        else:
            where = "Go value"
        raise InvalidParameter(
            f"invalid JSON: json: cannot unmarshal {error.kind} into {where} of type {error.go_type}"
        ) from None
    except _Refused as error:
        raise InvalidParameter(f"invalid JSON: {error}") from None


class _Refused(Exception):
    """A :class:`Parse` function refused the string."""


def encode(value: Any) -> Any:
    """Turn a struct (or lists and dicts of them) into plain objects under their JSON names.

    Empty attributes named in ``go_omitempty`` are left out: ``None`` always, other empty values only
    where the type isn't an optional scalar (Go: a pointer to ``false`` is not empty).
    """
    if isinstance(value, msgspec.Struct):
        return _struct_encoder(type(value))(value)
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    return value


def _kind(value: Any) -> str:
    """Go's word for the kind of a JSON value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, (int, float)):
        return "number"
    return "object" if isinstance(value, dict) else "array"


def _go_name(type_: Any) -> str:
    """The Go spelling of a Python type: ``[]string``, ``map[string]string``, ``container.HostConfig``."""
    type_, marks = _unwrap(type_)
    for mark in marks:
        if isinstance(mark, Go):
            return mark.name
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if origin is list:
        return "[]" + _go_name(arguments[0])
    if origin is dict:
        return f"map[{_go_name(arguments[0])}]{_go_name(arguments[1])}"
    plain = {str: "string", int: "int64", bool: "bool", float: "float64", Any: "interface {}"}
    if type_ in plain:
        return plain[type_]
    return str(getattr(type_, "go_name", getattr(type_, "__name__", str(type_))))


def _unwrap(type_: Any) -> tuple[Any, tuple[Any, ...]]:
    """Take ``Annotated`` and ``| None`` off a type; return the rest and the annotations."""
    marks: tuple[Any, ...] = ()
    while True:
        if hasattr(type_, "__metadata__"):
            marks += type_.__metadata__
            type_ = type_.__origin__
        elif typing.get_origin(type_) in (typing.Union, types.UnionType):
            (type_,) = (item for item in typing.get_args(type_) if item is not type(None))
        else:
            return type_, marks


def _is_optional(type_: Any) -> bool:
    """Whether ``None`` is one of the type's values."""
    while hasattr(type_, "__metadata__"):
        type_ = type_.__origin__
    return type(None) in typing.get_args(type_)


@cache
def _decoder(type_: Any) -> Decoder:
    """The decoder of a type. Types are few and fixed, so the cache has no bound."""
    bare, marks = _unwrap(type_)
    go_type = _go_name(type_)
    origin, arguments = typing.get_origin(bare), typing.get_args(bare)
    parse = next((mark.function for mark in marks if isinstance(mark, Parse)), None)
    if bare is Any:
        return lambda value: value
    if go_type == "struct {}":
        return _empty_decoder()
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        return _struct_decoder(bare)
    if origin is list:
        return _sequence_decoder(_decoder(arguments[0]), _zero(arguments[0]), go_type)
    if origin is dict:
        return _dict_decoder(arguments[0], arguments[1], go_type)
    if bare is str:
        return _string_decoder(go_type, parse)
    if bare is bool:
        return _exact_decoder(bool, go_type)
    if bare is int:
        return _integer_decoder(go_type)
    if bare is float:
        return _exact_decoder((int, float), go_type)
    raise TypeError(f"gojson doesn't know {type_!r}")


def _zero(type_: Any) -> Callable[[], Any]:
    """A maker of Go's zero value of a type: what ``null`` inside a list or map becomes."""
    if _is_optional(type_):
        return lambda: None
    bare, _ = _unwrap(type_)
    if bare is Any:
        return lambda: None
    return bare if isinstance(bare, type) else (typing.get_origin(bare) or (lambda: None))


def _empty_decoder() -> Decoder:
    def decode(value: Any) -> dict[str, Any]:
        if value is not None and not isinstance(value, dict):
            raise _Mismatch(_kind(value), "struct {}")
        return {}

    return decode


def _exact_decoder(accepted: type | tuple[type, ...], go_type: str) -> Decoder:
    def decode(value: Any) -> Any:
        if not isinstance(value, accepted) or (isinstance(value, bool) and accepted is not bool):
            raise _Mismatch(_kind(value), go_type)
        return value

    return decode


def _string_decoder(go_type: str, parse: Callable[[str], str] | None) -> Decoder:
    def decode(value: Any) -> str:
        if type(value) is not str:
            raise _Mismatch(_kind(value), go_type)
        if parse is None:
            return value
        try:
            return parse(value)
        except ValueError as error:
            raise _Refused(str(error)) from None

    return decode


def _integer_decoder(go_type: str) -> Decoder:
    low, high = _INTEGER_RANGES.get(go_type, _INTEGER_RANGES["int64"])

    def decode(value: Any) -> int:
        if type(value) is int:
            if low <= value <= high:
                return value
            raise _Mismatch(f"number {value}", go_type)
        if type(value) is float:
            raise _Mismatch(f"number {value!r}", go_type)
        raise _Mismatch(_kind(value), go_type)

    return decode


def _list_decoder(item: Decoder, zero: Callable[[], Any], go_type: str) -> Decoder:
    def decode(value: Any) -> list[Any]:
        if type(value) is not list:
            raise _Mismatch(_kind(value), go_type)
        return [zero() if entry is None else item(entry) for entry in value]

    return decode


def _sequence_decoder(item: Decoder, zero: Callable[[], Any], go_type: str) -> Decoder:
    """A slice's decoder; an array's (``[2]uint``) fills up with zeros and ignores what is too much."""
    decode = _list_decoder(item, zero, go_type)
    length = re.match(r"\*?\[(\d+)\]", go_type)
    if length is None:
        return decode
    size = int(length[1])

    def decode_array(value: Any) -> list[Any]:
        found: list[Any] = decode(value[:size] if type(value) is list else value)
        return found + [zero() for _ in range(size - len(found))]

    return decode_array


def _dict_decoder(key_type: Any, value_type: Any, go_type: str) -> Decoder:
    key, item, zero = _decoder(key_type), _decoder(value_type), _zero(value_type)

    def decode(value: Any) -> dict[Any, Any]:
        if type(value) is not dict:
            raise _Mismatch(_kind(value), go_type)
        return {key(name): zero() if entry is None else item(entry) for name, entry in value.items()}

    return decode


def _struct_decoder(type_: type[msgspec.Struct]) -> Decoder:
    """Keys are looked up exactly first, then folded; a later key overrides an earlier one, as in Go."""
    hints = typing.get_type_hints(type_, include_extras=True)
    table: dict[str, tuple[str, str, Decoder]] = {}
    for field in msgspec.structs.fields(type_):
        entry = (field.name, field.encode_name, _decoder(hints[field.name]))
        table.setdefault(field.encode_name.casefold(), entry)
        table[field.encode_name] = entry
    go_type = _go_name(type_)

    def decode(value: Any) -> msgspec.Struct:
        if type(value) is not dict:
            raise _Mismatch(_kind(value), go_type)
        arguments = {}
        for key, item in value.items():
            found = table.get(key) or table.get(key.casefold())
            if found is None or item is None:
                continue
            try:
                arguments[found[0]] = found[2](item)
            except _Mismatch as error:
                error.path.append(found[1])
                raise
        return type_(**arguments)

    return decode


@cache
def _struct_encoder(type_: type[msgspec.Struct]) -> Encoder:
    """The encoder of one struct class."""
    hints = typing.get_type_hints(type_, include_extras=True)
    omit: frozenset[str] = getattr(type_, "go_omitempty", frozenset())
    plan = []
    for field in msgspec.structs.fields(type_):
        bare, _ = _unwrap(hints[field.name])
        pointer = _is_optional(hints[field.name]) and bare in (bool, int, float, str)
        plan.append((field.name, field.encode_name, field.name in omit, pointer))

    def run(value: Any) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, json_name, omitempty, pointer in plan:
            item = getattr(value, name)
            if omitempty and (item is None or (not pointer and not item)):
                continue
            result[json_name] = item if type(item) in _SCALARS else encode(item)
        return result

    return run


_SCALARS = frozenset({str, int, bool, float, type(None)})
