"""``history``: an image's layers."""

from __future__ import annotations

from sampan.cli import platforms, table, units
from sampan.cli.command import CLI, Command
from sampan.cli.verbs.ps import FORMAT_HELP, shortened
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


class Layer(table.Row):
    """One step of the history."""

    human = True


def _identifier(row: table.Row) -> str:
    text = str(row.data["Id"])
    return text if row.full else text.removeprefix("sha256:")[:12]


def _created_by(row: table.Row) -> str:
    return shortened(str(row.data["CreatedBy"]).replace("\t", " "), 45, row.full)


def _created_at(row: table.Row) -> str:
    import time

    moment = time.localtime(row.data["Created"])
    zone = time.strftime("%z", moment)
    return time.strftime("%Y-%m-%dT%H:%M:%S", moment) + ("Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}")


def _since(row: table.Row) -> str:
    if not row.human:
        return _created_at(row)
    return units.ago(row.data["Created"]) if row.data["Created"] > -62135596800 else "N/A"


def _size(row: table.Row) -> str:
    return units.size(row.data["Size"], 3) if row.human else str(row.data["Size"])


Layer.FIELDS = {
    "Comment": lambda row: row.data["Comment"],
    "CreatedAt": _created_at,
    "CreatedBy": _created_by,
    "CreatedSince": _since,
    "ID": _identifier,
    "Size": _size,
}
TITLES = {
    "Comment": "COMMENT",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "CreatedSince": "CREATED",
    "ID": "IMAGE",
    "Size": "SIZE",
}
DEFAULT = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")


def history(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Newest first."""
    query = platforms.query([options.text("platform")])
    found = cli.client.call("GET", path_of("images", arguments[0]) + "/history", query)
    rows = [Layer(item, full=options.flag("no-trunc")) for item in found]
    for row in rows:
        row.human = options.flag("human")
    default = DEFAULT if options.flag("human") else ("ID", "CreatedAt", *DEFAULT[2:])
    table.show(
        cli,
        rows,
        titles=TITLES,
        default=default,
        form=options.text("format"),
        quiet="ID" if options.flag("quiet") else "",
    )
    return 0


HISTORY = Command(
    history,
    "[OPTIONS] IMAGE",
    "Show an image's layers and how they came about",
    (1, 1),
    (
        ("format", "", "string", "", FORMAT_HELP),
        ("human", "H", "bool", True, "Print sizes and dates for people"),
        ("no-trunc", "", "bool", False, "Show everything in full"),
        ("platform", "", "string", "", "Of this platform's image"),
        ("quiet", "q", "bool", False, "Print ids only"),
    ),
)
