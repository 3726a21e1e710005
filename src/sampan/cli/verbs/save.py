"""``save``: images into an archive."""

from __future__ import annotations

from sampan.cli import archives, platforms
from sampan.cli.command import CLI, MANY, Command
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def save(cli: CLI, options: Options, arguments: list[str]) -> int:
    """To ``-o FILE`` or stdout."""
    path = options.text("output")
    archives.check_output(path)
    query = platforms.query(options.all("platform"))
    if len(arguments) == 1:
        response = cli.client.open("GET", path_of("images", arguments[0]) + "/get", query)
    else:
        response = cli.client.open("GET", "/images/get", {"names": arguments, **query})
    archives.write(cli.client, response, path)
    return 0


SAVE = Command(
    save,
    "[OPTIONS] IMAGE [IMAGE...]",
    "Write images to an archive or stdout",
    (1, MANY),
    (
        ("output", "o", "string", "", "Write to this file instead of stdout"),
        ("platform", "", "strings", "", "Save only these platforms' images"),
    ),
)
