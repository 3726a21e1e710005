"""The hooks of a bundle, run with its state. config.md, POSIX-platform Hooks."""

from __future__ import annotations

from sampan import jsontext
from sampan.runtime import hooks
from sampan.runtime.hooks import Hook, HookFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any
__all__ = ["Hook", "HookFailed", "run_all"]


def run_all(kind: str, found: list[Hook], state: dict[str, Any]) -> None:
    """Run ``found`` one after the other, with ``state`` as JSON on their stdin. Raises HookFailed."""
    if found:
        hooks.run_all(kind, found, jsontext.dumps(state, escape=False))
