"""``commit``: an image from a container's changes."""

from __future__ import annotations

from sampan.cli import names
from sampan.cli.command import CLI, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def commit(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Print the new image's id."""
    repository, tag = None, None
    if len(arguments) > 1:
        name = names.parse(arguments[1])
        repository, tag = name.repository, name.tag or "latest"
    pause = options.flag("pause") and not options.flag("no-pause")
    query = {
        "container": arguments[0],
        "repo": repository,
        "tag": tag,
        "comment": options.text("message") or None,
        "author": options.text("author") or None,
        "changes": options.all("change") or None,
        "pause": None if pause else 0,
    }
    cli.print(cli.client.call("POST", "/commit", query, json={})["Id"])
    return 0


COMMIT = Command(
    commit,
    "[OPTIONS] CONTAINER [REPOSITORY[:TAG]]",
    "Make an image from a container's changes",
    (1, 2),
    (
        ("author", "a", "string", "", "Who made it"),
        ("change", "c", "list", "", "Apply a Dockerfile instruction"),
        ("message", "m", "string", "", "Say why"),
        ("no-pause", "", "bool", False, "Don't pause the container meanwhile"),
        ("pause", "p", "bool", True, "Pause the container meanwhile"),
    ),
)
