"""``port``: where a container's ports are published."""

from __future__ import annotations

from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def port(cli: CLI, options: Options, arguments: list[str]) -> int:
    """All of them, or those of one port."""
    name = arguments[0]
    container = cli.client.call("GET", path_of("containers", name) + "/json")
    ports = container["NetworkSettings"].get("Ports") or {}
    if len(arguments) == 1:
        lines = [
            f"{inside} -> {_address(binding)}"
            for inside, bindings in ports.items()
            for binding in bindings or []
        ]
        for line in sorted(lines, key=_by_number):
            cli.print(line)
        return 0
    number, _, protocol = arguments[1].partition("/")
    bindings = ports.get(f"{number}/{protocol or 'tcp'}")
    if not bindings:
        raise CLIError(f"Error: No public port '{arguments[1]}' published for {name}")
    for binding in bindings:
        cli.print(_address(binding))
    return 0


def _address(binding: dict[str, str]) -> str:
    address = binding["HostIp"]
    return f"[{address}]:{binding['HostPort']}" if ":" in address else f"{address}:{binding['HostPort']}"


def _by_number(line: str) -> tuple[int, str]:
    number = line.partition("/")[0]
    return int(number), line


PORT = Command(port, "CONTAINER [PRIVATE_PORT[/PROTO]]", "Show a container's published ports", (1, 2))
