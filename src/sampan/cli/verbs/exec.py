"""``exec``: another process in a running container; its exit code is ours."""

from __future__ import annotations

from sampan.cli import signals, terminal
from sampan.cli.attach import check_tty
from sampan.cli.command import CLI, MANY, Command
from sampan.cli.container_config import environment
from sampan.cli.errors import CLIError
from sampan.cli.session import Session
from sampan.client.engine import path_of
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


def execute(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Attached unless ``-d``."""
    detach, tty = options.flag("detach"), options.flag("tty")
    stdin = options.flag("interactive")
    keys_text = options.text("detach-keys") or cli.config.text("detachKeys")
    keys = terminal.detach_keys(keys_text)
    if not detach:
        check_tty(attach=True, stdin=stdin, tty=tty)
    request = _request(options, arguments[1:], keys_text)
    name = path_of("containers", arguments[0])
    identifier = cli.client.call("POST", f"{name}/exec", json=request)["Id"]
    path = path_of("exec", identifier)
    if detach:
        cli.client.call("POST", f"{path}/start", json={"Detach": True, "Tty": tty})
        return 0
    start: dict[str, Any] = {"Detach": False, "Tty": tty}
    rows, columns = terminal.size(1) if tty else (0, 0)
    if rows and columns:
        start["ConsoleSize"] = [rows, columns]
    stream = cli.client.upgrade(f"{path}/start", json=start)

    def resize(number: int = signals.SIGWINCH) -> None:
        _resize(cli, path)

    with signals.Catcher((signals.SIGWINCH,) if tty else ()) as catcher:
        session = Session(stream, tty=tty, stdin=stdin, keys=keys, on_signal=resize, catcher=catcher)
        with terminal.Raw(0 if tty and stdin else -1):
            if rows and columns:
                resize()
            session.run()
    stream.close()
    if session.detached:
        raise CLIError("read escape sequence")
    return int(cli.client.call("GET", f"{path}/json").get("ExitCode") or 0)


def _request(options: Options, words: list[str], keys: str) -> dict[str, Any]:
    attach = not options.flag("detach")
    request: dict[str, Any] = {
        "AttachStdin": attach and options.flag("interactive"),
        "AttachStdout": attach,
        "AttachStderr": attach,
        "Tty": options.flag("tty"),
        "Privileged": options.flag("privileged"),
        "User": options.text("user"),
        "WorkingDir": options.text("workdir"),
        "Env": environment(options, {}),
        "Cmd": words,
    }
    if keys:
        request["DetachKeys"] = keys
    return request


def _resize(cli: CLI, path: str) -> None:
    rows, columns = terminal.size(1)
    client = cli.new_client()
    try:
        client.call("POST", f"{path}/resize", {"h": rows, "w": columns})
    except SampanError:
        pass  # it has ended meanwhile, or never began; the stream tells
    finally:
        client.close()


EXEC = Command(
    execute,
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    "Run a command in a running container",
    (2, MANY),
    (
        ("detach", "d", "bool", False, "Run it in the background"),
        ("detach-keys", "", "string", "", "Keys that detach (default ctrl-p,ctrl-q)"),
        ("env", "e", "env", "", "Set an environment variable"),
        ("env-file", "", "list", "", "Read environment variables from a file"),
        ("interactive", "i", "bool", False, "Keep stdin open"),
        ("privileged", "", "bool", False, "Give all capabilities to the process"),
        ("tty", "t", "bool", False, "Give the process a terminal"),
        ("user", "u", "string", "", "User and group (name|uid[:group|gid])"),
        ("workdir", "w", "string", "", "Working directory"),
    ),
    interspersed=False,
)
