"""``rename``."""

from __future__ import annotations

from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError, text_of
from sampan.client.engine import path_of
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def rename(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Give a container another name."""
    old, new = (name.strip() for name in arguments)
    if not old or not new:
        raise CLIError("Error: Neither old nor new names may be empty")
    try:
        cli.client.call("POST", f"{path_of('containers', old)}/rename", {"name": new})
    except SampanError as error:
        raise CLIError(f"{text_of(error)}\nError: failed to rename container named {old}") from None
    return 0


RENAME = Command(rename, "CONTAINER NEW_NAME", "Rename a container", (2, 2))
