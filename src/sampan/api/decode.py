"""Request bodies from JSON to typed structs, with dockerd's messages for what is wrong with them."""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

import msgspec

from sampan import errors, gojson
from sampan.api import jsonsyntax

T = TypeVar("T")
_MOST_DIGITS = 400  # beyond what a float can hold
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_json(data: bytes) -> Any:
    """Plain objects from JSON text. InvalidParameter (400) with the words of Go's decoder.

    What Go accepts and msgspec doesn't (bytes that are not UTF-8, lone surrogates) is accepted: U+FFFD
    stands in their place.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        fault = _explain(data)
    if fault == jsonsyntax.TRAILING:
        raise errors.InvalidParameter(fault)
    if fault:
        raise errors.InvalidParameter(f"invalid JSON: {fault}")
    try:
        found = json.loads(data.decode("utf-8", "replace"), parse_int=_integer, parse_float=_float)
        text = json.dumps(found, ensure_ascii=False)
        return msgspec.json.decode(_SURROGATE.sub("\ufffd", text).encode())
    except (ValueError, RecursionError):
        raise errors.InvalidParameter("invalid JSON: exceeded max depth") from None


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise errors.InvalidParameter(f"invalid JSON: number {text[:_MOST_DIGITS]}… is out of range")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise errors.InvalidParameter(f"invalid JSON: number {text[:_MOST_DIGITS]} is out of range")
    return value


def _explain(data: bytes) -> str:
    try:
        return jsonsyntax.explain(data)
    except RecursionError:
        return "exceeded max depth"


def decode_json(data: bytes, type: type[T], *, name: str | None = None) -> T:
    """``data`` as ``type``; ``name`` is the outermost struct's word in messages (see ``gojson.convert``)."""
    return gojson.convert(parse_json(data), type, root=name)
