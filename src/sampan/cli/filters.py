"""``--filter`` as the API's JSON."""

from __future__ import annotations

from sampan import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def encode(pairs: Iterable[tuple[str, str]]) -> str | None:
    """``{"status": {"running": true}}``; None when there are none."""
    found: dict[str, dict[str, bool]] = {}
    for name, value in pairs:
        found.setdefault(name, {})[value] = True
    return jsontext.dumps(found) if found else None
