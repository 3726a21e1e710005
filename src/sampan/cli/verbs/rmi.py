"""``rmi``: remove images."""

from __future__ import annotations

from sampan.cli import platforms
from sampan.cli.command import CLI, MANY, Command
from sampan.cli.each import one_by_one
from sampan.cli.errors import text_of
from sampan.client.engine import path_of
from sampan.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def remove(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Print what was untagged and deleted."""
    query: dict[str, bool | list[str]] = {
        "force": options.flag("force"),
        "noprune": options.flag("no-prune"),
        **platforms.query(options.all("platform"), "platforms"),
    }
    missing: list[str] = []

    def one(name: str) -> str:
        try:
            answer = cli.client.call("DELETE", path_of("images", name), query)
        except APIError as error:
            if not (options.flag("force") and error.status == 404):
                raise
            missing.append(text_of(error))
            return ""
        lines = [
            f"Deleted: {item['Deleted']}" if item.get("Deleted") else f"Untagged: {item['Untagged']}"
            for item in answer or []
        ]
        return "\n".join(lines)

    code = one_by_one(cli, arguments, one)
    if missing:
        cli.complain("\n".join(missing))
    return code


RMI = Command(
    remove,
    "[OPTIONS] IMAGE [IMAGE...]",
    "Remove images",
    (1, MANY),
    (
        ("force", "f", "bool", False, "Remove even if tagged several times or used by stopped containers"),
        ("no-prune", "", "bool", False, "Keep untagged parents"),
        ("platform", "", "strings", "", "Remove only these platforms' images"),
    ),
)
