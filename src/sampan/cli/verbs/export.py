"""``export``: a container's file system as a tar archive."""

from __future__ import annotations

from sampan.cli import archives
from sampan.cli.command import CLI, Command
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def export(cli: CLI, options: Options, arguments: list[str]) -> int:
    """To ``-o FILE`` or stdout."""
    path = options.text("output")
    archives.check_output(path)
    response = cli.client.open("GET", path_of("containers", arguments[0]) + "/export")
    archives.write(cli.client, response, path)
    return 0


EXPORT = Command(
    export,
    "[OPTIONS] CONTAINER",
    "Write a container's file system as a tar archive",
    (1, 1),
    (("output", "o", "string", "", "Write to this file instead of stdout"),),
)
