"""``diff``: what a container added, changed and deleted."""

from __future__ import annotations

from sampan.cli.command import CLI, Command
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options

KINDS = "CAD"


def diff(cli: CLI, options: Options, arguments: list[str]) -> int:
    """One line a path: A added, C changed, D deleted."""
    for change in cli.client.call("GET", path_of("containers", arguments[0]) + "/changes") or []:
        cli.print(f"{KINDS[change['Kind']]} {change['Path']}")
    return 0


DIFF = Command(diff, "CONTAINER", "Show what a container changed in its file system", (1, 1))
