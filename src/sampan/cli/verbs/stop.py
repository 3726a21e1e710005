"""``stop``, ``restart`` and ``kill``."""

from __future__ import annotations

from sampan.cli.command import CLI, MANY, Command
from sampan.cli.each import each
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def stop(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Ask the process to end, kill it after the timeout."""
    return _ending(cli, options, arguments, "stop")


def restart(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Stop and start."""
    return _ending(cli, options, arguments, "restart")


def _ending(cli: CLI, options: Options, arguments: list[str], verb: str) -> int:
    timeout = None
    for flag in ("timeout", "time"):
        if flag in options.given:
            timeout = options.number(flag)
    query = {"t": timeout, "signal": options.text("signal") or None}
    return each(cli, arguments, lambda name: _post(cli, name, verb, query))


def _post(cli: CLI, name: str, verb: str, query: dict[str, int | str | None]) -> None:
    client = cli.new_client()
    try:
        client.call("POST", f"{path_of('containers', name)}/{verb}", query)
    finally:
        client.close()


def kill(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Send a signal."""
    query: dict[str, int | str | None] = {"signal": options.text("signal") or "KILL"}
    return each(cli, arguments, lambda name: _post(cli, name, "kill", query))


_OPTIONS = (
    ("signal", "s", "string", "", "Signal to send first"),
    ("timeout", "t", "int", 0, "Seconds to wait before killing (-1: for ever)"),
    ("time", "", "int", 0, "Old name of --timeout"),
)
STOP = Command(stop, "[OPTIONS] CONTAINER [CONTAINER...]", "Stop running containers", (1, MANY), _OPTIONS)
RESTART = Command(restart, "[OPTIONS] CONTAINER [CONTAINER...]", "Restart containers", (1, MANY), _OPTIONS)
KILL = Command(
    kill,
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Send a signal to running containers",
    (1, MANY),
    (("signal", "s", "string", "", "Signal to send (default KILL)"),),
)
