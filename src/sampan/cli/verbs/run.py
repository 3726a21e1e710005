"""``run``: create, attach, start, wait; the container's exit code is ours."""

from __future__ import annotations

from sampan.cli.attach import Attachment, check_tty
from sampan.cli.command import CLI, MANY, Command
from sampan.cli.container_options import CONTAINER_OPTIONS
from sampan.cli.creation import create
from sampan.cli.errors import CLIError, text_of
from sampan.client.engine import path_of
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


def run(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Errors before the container runs give 125, 126, 127; afterwards its own code counts."""
    image, words = arguments[0], arguments[1:]
    detach = options.flag("detach")
    if detach and options.all("attach"):
        raise CLIError("conflicting options: cannot specify both --attach and --detach")
    if not detach:
        attached = options.all("attach")
        stdin = options.flag("interactive") and (not attached or "stdin" in attached)
        check_tty(attach=True, stdin=stdin, tty=options.flag("tty"))
    try:
        identifier, request = create(cli, options, image, words)
        if detach:
            return _start_detached(cli, identifier)
        return _attached(cli, options, identifier, request)
    except CLIError as error:
        raise _failure(cli, error, max(error.exit_code, 125)) from error
    except SampanError as error:
        raise _failure(cli, error, code_of(error.message)) from error


def _start_detached(cli: CLI, identifier: str) -> int:
    cli.print(identifier)
    cli.client.call("POST", path_of("containers", identifier) + "/start")
    return 0


def _attached(cli: CLI, options: Options, identifier: str, request: dict[str, Any]) -> int:
    stdout, stderr = bool(request.get("AttachStdout")), bool(request.get("AttachStderr"))
    attachment = Attachment(
        cli,
        identifier,
        tty=options.flag("tty"),
        stdin=bool(request.get("AttachStdin")),
        keys=options.text("detach-keys"),
        proxy=options.flag("sig-proxy"),
    )
    attachment.open(stdout=stdout, stderr=stderr)
    attachment.watch("removed" if options.flag("rm") else "next-exit")

    def start() -> None:
        cli.client.call("POST", path_of("containers", identifier) + "/start")

    try:
        attachment.serve(start)
    except SampanError:
        attachment.close()
        raise
    return 0 if attachment.detached else attachment.exit_code()


def code_of(message: str) -> int:
    """126 and 127 as a shell has them, told by the engine's words; everything else is 125."""
    if "executable file not found" in message or "no such file or directory" in message:
        return 127
    if "permission denied" in message or "is a directory" in message:
        return 126
    return 125


def _failure(cli: CLI, error: SampanError, code: int) -> CLIError:
    return CLIError(
        f"{cli.program}: {text_of(error)}\n\nRun '{cli.program} {cli.path} --help' for more information",
        exit_code=code,
    )


RUN = Command(
    run,
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create and start a container from an image",
    (1, MANY),
    (
        *CONTAINER_OPTIONS,
        ("detach", "d", "bool", False, "Run in the background and print the container's id"),
        ("detach-keys", "", "string", "", "Keys that detach (default ctrl-p,ctrl-q)"),
        ("sig-proxy", "", "bool", True, "Pass signals on to the process"),
    ),
    interspersed=False,
)
