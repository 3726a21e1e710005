"""Request bodies from JSON to typed structs, with dockerd's messages for what is wrong with them."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from sampan import errors, gojson
from sampan.api import jsonsyntax

T = TypeVar("T")


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
        found = json.loads(data.decode("utf-8", "replace"))
        return msgspec.json.decode(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise errors.InvalidParameter("invalid JSON: exceeded max depth") from None


def _explain(data: bytes) -> str:
    try:
        return jsonsyntax.explain(data)
    except RecursionError:
        return "exceeded max depth"


def decode_json(data: bytes, type: type[T], *, name: str | None = None) -> T:
    """``data`` as ``type``; ``name`` is the outermost struct's word in messages (see ``gojson.convert``)."""
    return gojson.convert(parse_json(data), type, root=name)
