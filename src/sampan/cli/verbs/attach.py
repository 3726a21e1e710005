"""``attach``: our terminal on a running container."""

from __future__ import annotations

from sampan.cli.attach import Attachment, check_tty
from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def attach(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Stay until the container ends; its exit code is ours."""
    container = cli.client.call("GET", path_of("containers", arguments[0]) + "/json")
    state, config = container["State"], container["Config"]
    if not state.get("Running"):
        raise CLIError("You cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise CLIError("You cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise CLIError("You cannot attach to a restarting container, wait until it is running")
    stdin = bool(config["OpenStdin"]) and not options.flag("no-stdin")
    check_tty(attach=True, stdin=stdin, tty=bool(config["Tty"]))
    attachment = Attachment(
        cli,
        arguments[0],
        tty=bool(config["Tty"]),
        stdin=stdin,
        keys=options.text("detach-keys"),
        proxy=options.flag("sig-proxy") and not config["Tty"],  # as docker's; run passes them on
    )
    attachment.watch("not-running")
    attachment.open(stdout=True, stderr=True)
    attachment.serve()
    if attachment.detached:
        raise CLIError("read escape sequence")  # docker attach ends so, with 1
    return attachment.exit_code()


ATTACH = Command(
    attach,
    "[OPTIONS] CONTAINER",
    "Attach your terminal to a running container",
    (1, 1),
    (
        ("detach-keys", "", "string", "", "Keys that detach (default ctrl-p,ctrl-q)"),
        ("no-stdin", "", "bool", False, "Don't attach stdin"),
        ("sig-proxy", "", "bool", True, "Pass signals on to the process"),
    ),
)
