"""Null characters in what the kernel is told: C would end the string there, and mount or mask another path."""

from __future__ import annotations

from typing import Any

import msgspec

from sampan import errors

# Never shown to the kernel: kept and given back as they are, as by dockerd.
_ONLY_KEPT = frozenset(("Labels", "Annotations"))


def refuse(document: msgspec.Struct, above: str = "") -> None:
    """InvalidParameter for a string with a null character in ``document``, naming its member."""
    for name, member in zip(document.__struct_encode_fields__, document.__struct_fields__, strict=True):
        if name not in _ONLY_KEPT:
            _refuse_in(getattr(document, member), f"{above}{name}")


def _refuse_in(value: Any, name: str) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise errors.InvalidParameter(f"{name}: {value!r} contains a null character")
    elif isinstance(value, list):
        for item in value:
            _refuse_in(item, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_in(key, name)
            _refuse_in(item, name)
    elif isinstance(value, msgspec.Struct):
        refuse(value, f"{name}.")
