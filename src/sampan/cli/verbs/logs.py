"""``logs``: what a container wrote."""

from __future__ import annotations

from sampan.cli import units
from sampan.cli.command import CLI, Command, write_all
from sampan.cli.errors import CLIError
from sampan.client.engine import path_of
from sampan.client.frames import STDERR, Demultiplexer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def logs(cli: CLI, options: Options, arguments: list[str]) -> int:
    """stdout on stdout, stderr on stderr."""
    container = cli.client.call("GET", path_of("containers", arguments[0]) + "/json")
    query: dict[str, str | bool | None] = {
        "stdout": True,
        "stderr": True,
        "follow": options.flag("follow"),
        "timestamps": options.flag("timestamps"),
        "details": options.flag("details"),
        "tail": options.text("tail"),
    }
    for flag in ("since", "until"):
        try:
            query[flag] = units.timestamp_parameter(options.text(flag), flag) or None
        except ValueError as error:
            raise CLIError(str(error)) from None
    response = cli.client.open("GET", path_of("containers", container["Id"]) + "/logs", query)
    if container["Config"]["Tty"]:
        for data in response.chunks():
            write_all(1, data)
        return 0
    frames = Demultiplexer()
    for data in response.chunks():
        for stream, piece in frames.feed(data):
            write_all(2 if stream == STDERR else 1, piece)
    return 0


LOGS = Command(
    logs,
    "[OPTIONS] CONTAINER",
    "Show a container's output",
    (1, 1),
    (
        ("details", "", "bool", False, "Show labels and variables kept with each line"),
        ("follow", "f", "bool", False, "Go on with what is written from now on"),
        ("since", "", "string", "", "From this time on (RFC 3339, or 42m for 42 minutes ago)"),
        ("tail", "n", "string", "all", "So many lines from the end"),
        ("timestamps", "t", "bool", False, "Show when each line was written"),
        ("until", "", "string", "", "Up to this time"),
    ),
)
