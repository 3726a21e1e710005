"""``top``: the processes of a container, as ``ps`` shows them."""

from __future__ import annotations

from sampan.cli import table
from sampan.cli.command import CLI, MANY, Command
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def top(cli: CLI, options: Options, arguments: list[str]) -> int:
    """The rest of the words are ps's options."""
    query = {"ps_args": " ".join(arguments[1:]) or None}
    answer = cli.client.call("GET", path_of("containers", arguments[0]) + "/top", query)
    cli.write(table.columns([answer["Titles"], *answer["Processes"]], least=20))
    return 0


TOP = Command(
    top, "CONTAINER [ps OPTIONS]", "Show the processes of a container", (1, MANY), interspersed=False
)
