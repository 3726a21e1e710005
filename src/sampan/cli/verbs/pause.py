"""``pause`` and ``unpause``."""

from __future__ import annotations

from sampan.cli.command import CLI, MANY, Command
from sampan.cli.each import one_by_one
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def pause(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Freeze."""
    return one_by_one(cli, arguments, lambda name: cli.client.call("POST", _path(name, "pause")))


def unpause(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Thaw."""
    return one_by_one(cli, arguments, lambda name: cli.client.call("POST", _path(name, "unpause")))


def _path(name: str, verb: str) -> str:
    return f"{path_of('containers', name)}/{verb}"


PAUSE = Command(pause, "CONTAINER [CONTAINER...]", "Freeze all processes of containers", (1, MANY))
UNPAUSE = Command(unpause, "CONTAINER [CONTAINER...]", "Thaw paused containers", (1, MANY))
