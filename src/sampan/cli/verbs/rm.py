"""``rm``: remove containers."""

from __future__ import annotations

from sampan.cli.command import CLI, MANY, Command
from sampan.cli.each import each
from sampan.cli.errors import CLIError, text_of
from sampan.client.engine import path_of
from sampan.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def remove(cli: CLI, options: Options, arguments: list[str]) -> int:
    """With ``-f`` running ones too; one that isn't there is then no failure."""
    force = options.flag("force")
    query = {"v": options.flag("volumes"), "link": options.flag("link"), "force": force}

    def one(name: str) -> str | None:
        if not name.strip("/"):
            raise CLIError("invalid container name or ID: value is empty")
        client = cli.new_client()
        try:
            client.call("DELETE", path_of("containers", name.strip("/")), query)
        except APIError as error:
            if not (force and error.status == 404):
                raise
            cli.complain(text_of(error))
            return ""
        finally:
            client.close()
        return None

    return each(cli, arguments, one)


RM = Command(
    remove,
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Remove containers",
    (1, MANY),
    (
        ("force", "f", "bool", False, "Kill and remove running ones too"),
        ("link", "l", "bool", False, "Remove the link of that name"),
        ("volumes", "v", "bool", False, "Remove their anonymous volumes as well"),
    ),
)
