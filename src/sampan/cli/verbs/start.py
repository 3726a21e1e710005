"""``start``: stopped containers run again, attached or not."""

from __future__ import annotations

from sampan.cli.attach import Attachment, check_tty
from sampan.cli.command import CLI, MANY, Command
from sampan.cli.errors import CLIError, text_of
from sampan.client.engine import path_of
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def start(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Without ``-a`` and ``-i`` print each name; with them stay attached to the one container."""
    if options.flag("attach") or options.flag("interactive"):
        if len(arguments) > 1:
            raise CLIError("you cannot start and attach multiple containers at once")
        return _attached(cli, options, arguments[0])
    failed = []
    for name in arguments:
        try:
            cli.client.call("POST", path_of("containers", name) + "/start", _checkpoint(options))
            cli.print(name)
        except SampanError as error:
            cli.complain(text_of(error))
            failed.append(name)
    if failed:
        raise CLIError(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _checkpoint(options: Options) -> dict[str, str | None]:
    return {
        "checkpoint": options.text("checkpoint") or None,
        "checkpoint-dir": options.text("checkpoint-dir") or None,
    }


def _attached(cli: CLI, options: Options, name: str) -> int:
    container = cli.client.call("GET", path_of("containers", name) + "/json")
    config = container["Config"]
    stdin = options.flag("interactive") and bool(config["OpenStdin"])
    check_tty(attach=True, stdin=stdin, tty=bool(config["Tty"]))
    attachment = Attachment(
        cli,
        container["Id"],
        tty=bool(config["Tty"]),
        stdin=stdin,
        keys=options.text("detach-keys"),
        proxy=options.flag("sig-proxy") and not config["Tty"],  # as docker's; run passes them on
    )
    attachment.open(stdout=True, stderr=True)
    attachment.watch("removed" if container["HostConfig"].get("AutoRemove") else "next-exit")

    def begin() -> None:
        cli.client.call("POST", path_of("containers", name) + "/start", _checkpoint(options))

    try:
        attachment.serve(begin)
    except SampanError:
        attachment.close()
        raise
    return 0 if attachment.detached else attachment.exit_code()


START = Command(
    start,
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Start stopped containers",
    (1, MANY),
    (
        ("attach", "a", "bool", False, "Attach stdout and stderr, and pass signals on"),
        ("checkpoint", "", "string", "", "Restore from this checkpoint"),
        ("checkpoint-dir", "", "string", "", "Folder of the checkpoint"),
        ("detach-keys", "", "string", "", "Keys that detach (default ctrl-p,ctrl-q)"),
        ("interactive", "i", "bool", False, "Attach stdin"),
        ("sig-proxy", "", "bool", True, "Pass signals on to the process"),
    ),
)
