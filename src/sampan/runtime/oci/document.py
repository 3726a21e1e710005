"""Reading a JSON object field by field, with types, limits and errors that name the field.

What msgspec does elsewhere in sampan; a command that lives for some milliseconds can't wait 45 ms for its
import. Unknown fields are ignored, as the specification wants (config.md, Extensibility); null is the same
as absent, as Go's encoders mean it.
"""

from __future__ import annotations

from sampan.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

UINT32 = (1 << 32) - 1
INT64 = (1 << 63) - 1
UINT64 = (1 << 64) - 1


class Node:
    """One JSON object and where it stands in its document (``linux.namespaces[2]``)."""

    __slots__ = ("_fields", "path")

    def __init__(self, value: Any, path: str = "") -> None:
        self.path = path
        if not isinstance(value, dict):
            raise InvalidParameter(f"{path or 'the document'}: an object is expected, not {_kind(value)}")
        self._fields: dict[str, Any] = value

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self._fields.get(name) is not None

    def where(self, name: str) -> str:
        """The field's place, for messages."""
        return f"{self.path}.{name}" if self.path else name

    def _get(self, name: str, kind: type, words: str) -> Any:
        value = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InvalidParameter(f"{self.where(name)}: {words} is expected, not {_kind(value)}")
        return value

    def required(self, name: str) -> None:
        """InvalidParameter when the field is absent."""
        if not self.has(name):
            raise InvalidParameter(f"{self.where(name)}: this field is required")

    def text(self, name: str, default: str = "") -> str:
        """A string."""
        found = self._get(name, str, "a string")
        return default if found is None else str(found)

    def needed_text(self, name: str) -> str:
        """A string that must be there and not empty."""
        found = self.text(name)
        if not found:
            raise InvalidParameter(f"{self.where(name)}: this field is required")
        return found

    def choice(self, name: str, allowed: tuple[str, ...], default: str = "") -> str:
        """A string that is one of ``allowed``; "" when absent."""
        found = self.text(name, default)
        if found and found not in allowed:
            raise InvalidParameter(f"{self.where(name)}: {found!r} isn't one of {', '.join(allowed)}")
        return found

    def flag(self, name: str) -> bool:
        """A boolean, false when absent."""
        return bool(self._get(name, bool, "true or false"))

    def number(self, name: str, low: int = 0, high: int = UINT32) -> int | None:
        """A whole number within limits; None when absent."""
        found = self._get(name, int, "a whole number")
        if found is None:
            return None
        if not low <= found <= high:
            raise InvalidParameter(f"{self.where(name)}: {found} isn't between {low} and {high}")
        return int(found)

    def needed_number(self, name: str, low: int = 0, high: int = UINT32) -> int:
        """A whole number that must be there."""
        self.required(name)
        return self.number(name, low, high) or 0

    def texts(self, name: str) -> list[str]:
        """A list of strings; empty when absent."""
        return [self._item(name, index, item, str, "a string") for index, item in enumerate(self._list(name))]

    def numbers(self, name: str, low: int = 0, high: int = UINT32) -> list[int]:
        """A list of whole numbers; empty when absent."""
        found = []
        for index, item in enumerate(self._list(name)):
            value = self._item(name, index, item, int, "a whole number")
            if not low <= value <= high:
                raise InvalidParameter(f"{self.where(name)}[{index}]: {value} isn't between {low} and {high}")
            found.append(value)
        return found

    def objects(self, name: str, make: Callable[[Node], T]) -> list[T]:
        """A list of objects, each given to ``make``."""
        return [
            make(Node(item, f"{self.where(name)}[{index}]")) for index, item in enumerate(self._list(name))
        ]

    def object(self, name: str, make: Callable[[Node], T]) -> T | None:
        """One object given to ``make``; None when absent."""
        found = self._fields.get(name)
        return None if found is None else make(Node(found, self.where(name)))

    def node(self, name: str) -> Node:
        """One object; an empty one when absent."""
        found = self._fields.get(name)
        return Node({} if found is None else found, self.where(name))

    def mapping(self, name: str) -> dict[str, str]:
        """An object of strings."""
        found = self._get(name, dict, "an object") or {}
        for key, value in found.items():
            if not isinstance(value, str):
                raise InvalidParameter(f"{self.where(name)}.{key}: a string is expected, not {_kind(value)}")
        return dict(found)

    def members(self, name: str, make: Callable[[Node], T]) -> dict[str, T]:
        """An object of objects, each given to ``make``."""
        found = self._get(name, dict, "an object") or {}
        return {key: make(Node(value, f"{self.where(name)}.{key}")) for key, value in found.items()}

    def raw(self, name: str) -> dict[str, Any] | None:
        """An object as it is."""
        found: dict[str, Any] | None = self._get(name, dict, "an object")
        return found

    def _list(self, name: str) -> list[Any]:
        return self._get(name, list, "a list") or []

    def _item(self, name: str, index: int, item: Any, kind: type, words: str) -> Any:
        if not isinstance(item, kind) or (kind is int and isinstance(item, bool)):
            raise InvalidParameter(f"{self.where(name)}[{index}]: {words} is expected, not {_kind(item)}")
        return item


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number"}
    return names.get(type(value), "null" if value is None else "a number")
