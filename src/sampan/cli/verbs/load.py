"""``load``: images from an archive."""

from __future__ import annotations

from sampan.cli import platforms, progress, terminal
from sampan.cli.archives import reading
from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def load(cli: CLI, options: Options, arguments: list[str]) -> int:
    """From ``-i FILE`` or stdin."""
    path = options.text("input")
    if not path and terminal.is_terminal(0):
        raise CLIError("requested load from stdin, but stdin is empty", hint="Name the archive with -i.")
    quiet = options.flag("quiet") or not terminal.is_terminal(1)
    with reading(path or "-") as pieces:
        stream = cli.client.stream(
            "POST",
            "/images/load",
            {"quiet": quiet, **platforms.query(options.all("platform"))},
            body=pieces,
            headers={"Content-Type": "application/x-tar"},
        )
        progress.show(stream, 1)
    return 0


LOAD = Command(
    load,
    "[OPTIONS]",
    "Load images from an archive or stdin",
    (0, 0),
    (
        ("input", "i", "string", "", "Read this file instead of stdin"),
        ("platform", "", "strings", "", "Load only these platforms' images"),
        ("quiet", "q", "bool", False, "Don't show progress"),
    ),
)
