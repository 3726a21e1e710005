"""``wait``."""

from __future__ import annotations

from sampan.cli.command import CLI, MANY, Command
from sampan.cli.each import one_by_one
from sampan.cli.errors import CLIError
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def wait(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Print each container's exit code when it has ended."""

    def one(name: str) -> str:
        answer = cli.client.call("POST", f"{path_of('containers', name)}/wait")
        if error := (answer.get("Error") or {}).get("Message"):
            raise CLIError(str(error))
        return str(answer["StatusCode"])

    return one_by_one(cli, arguments, one)


WAIT = Command(
    wait, "CONTAINER [CONTAINER...]", "Wait until containers stop, print their exit codes", (1, MANY)
)
