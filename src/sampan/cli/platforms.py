"""``--platform`` of verbs on images: ``linux/arm64/v8`` as the engine wants it, JSON in the query."""

from __future__ import annotations

from sampan import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def query(platforms: Iterable[str], name: str = "platform") -> dict[str, list[str]]:
    """The query's part for some platforms; empty when none is named."""
    found = [_encode(text) for text in platforms if text]
    return {name: found} if found else {}


def _encode(text: str) -> str:
    system, _, rest = text.partition("/")
    machine, _, variant = rest.partition("/")
    found = {"os": system, "architecture": machine}
    return jsontext.dumps({**found, "variant": variant} if variant else found)
