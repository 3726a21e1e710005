"""Docker's progress objects as text: lines, or on a terminal one line a layer that is drawn again."""

from __future__ import annotations

import os

from sampan.cli import terminal, units
from sampan.cli.command import write_all
from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

BAR = 50


def show(
    objects: Iterable[dict[str, Any]],
    descriptor: int,
    aux: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Print a stream until it ends. ``aux`` gets the records between. Raises CLIError on its error line."""
    screen = _Screen(descriptor)
    for item in objects:
        if item.get("error") or item.get("errorDetail"):
            detail = item.get("errorDetail") or {}
            code = detail.get("code") or 1
            message = str(detail.get("message") or item.get("error"))
            raise CLIError(message, exit_code=int(code))
        if "aux" in item:
            if aux is not None:
                aux(item["aux"])
            continue
        screen.show(item)


class _Screen:
    """Where each layer's line is."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._terminal = terminal.is_terminal(descriptor)
        self._lines: dict[str, int] = {}

    def show(self, item: dict[str, Any]) -> None:
        """Print one object."""
        if "stream" in item:
            self._lines.clear()
            self._write(str(item["stream"]))
            return
        moving = bool(item.get("progress") or (item.get("progressDetail") or {}).get("current"))
        if moving and not self._terminal:
            return
        identifier = str(item.get("id") or "")
        text = f"{identifier}: " if identifier else ""
        text += str(item.get("status") or "")
        if moving:
            text += " " + self._bar(item)
        if not (self._terminal and identifier and "progressDetail" in item):
            if not identifier:
                self._lines.clear()
            self._write(text + "\n")
            return
        self._redraw(identifier, text)

    def _redraw(self, identifier: str, text: str) -> None:
        if identifier not in self._lines:
            self._lines[identifier] = len(self._lines)
            self._write(f"\r\x1b[K{text}\n")
            return
        up = len(self._lines) - self._lines[identifier]
        self._write(f"\x1b[{up}A\r\x1b[K{text}\r\x1b[{up}B")

    def _bar(self, item: dict[str, Any]) -> str:
        detail = item.get("progressDetail") or {}
        current, total = detail.get("current") or 0, detail.get("total") or 0
        if not current:
            return str(item.get("progress") or "")
        if detail.get("units"):
            return f"{current} {detail['units']}"
        if total <= 0 or current > total:
            return units.size(current)
        filled = current * BAR // total
        figures = f"{units.size(current)}/{units.size(total)}"
        if self._columns() < 110:
            return figures
        arrow = ">" if filled < BAR else ""
        return f"[{'=' * filled}{arrow}{' ' * (BAR - filled - len(arrow))}]  {figures}"

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._descriptor).columns
        except OSError:
            return 80

    def _write(self, text: str) -> None:
        write_all(self._descriptor, text.encode("utf-8", "surrogateescape"))
