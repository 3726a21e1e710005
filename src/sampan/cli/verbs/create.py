"""``create``: a container that is not started."""

from __future__ import annotations

from sampan.cli.command import CLI, MANY, Command
from sampan.cli.container_options import CONTAINER_OPTIONS
from sampan.cli.creation import create as create_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def create(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Print the new container's id."""
    identifier, _ = create_container(cli, options, arguments[0], arguments[1:])
    cli.print(identifier)
    return 0


CREATE = Command(
    create,
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a container without starting it",
    (1, MANY),
    CONTAINER_OPTIONS,
    interspersed=False,
)
