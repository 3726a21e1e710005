"""``tag``: another name for an image."""

from __future__ import annotations

from sampan.cli import names
from sampan.cli.command import CLI, Command
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def tag(cli: CLI, options: Options, arguments: list[str]) -> int:
    """TARGET becomes a name of SOURCE's image."""
    source, target = arguments
    name = names.parse(target)
    query = {"repo": name.repository, "tag": name.tag or "latest"}
    cli.client.call("POST", path_of("images", source) + "/tag", query)
    return 0


TAG = Command(tag, "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", "Give an image another name", (2, 2))
