"""``search``: images of a registry."""

from __future__ import annotations

from sampan.cli import filters, names, table
from sampan.cli.command import CLI, Command
from sampan.cli.verbs.ps import FORMAT_HELP, shortened
from sampan.client import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


class Result(table.Row):
    """One repository found."""


Result.FIELDS = {
    "Description": lambda row: shortened(
        str(row.data.get("description") or "").replace("\n", " ").replace("\r", " "), 45, row.full
    ),
    "IsAutomated": lambda row: "[OK]" if row.data.get("is_automated") else "",
    "IsOfficial": lambda row: "[OK]" if row.data.get("is_official") else "",
    "Name": lambda row: row.data["name"],
    "StarCount": lambda row: str(row.data.get("star_count", 0)),
}
TITLES = {
    "Description": "DESCRIPTION",
    "IsAutomated": "AUTOMATED",
    "IsOfficial": "OFFICIAL",
    "Name": "NAME",
    "StarCount": "STARS",
}


def search(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Most stars first."""
    query = {
        "term": arguments[0],
        "limit": options.number("limit") or None,
        "filters": filters.encode(options.all("filter")),
    }
    domain, _ = names.split_domain(arguments[0])
    found = (
        cli.client.call("GET", "/images/search", query, headers=credentials.headers(cli.config, domain)) or []
    )
    found.sort(key=lambda item: -item.get("star_count", 0))
    table.show(
        cli,
        [Result(item, full=options.flag("no-trunc")) for item in found],
        titles=TITLES,
        default=("Name", "Description", "StarCount", "IsOfficial"),
        form=options.text("format"),
    )
    return 0


SEARCH = Command(
    search,
    "[OPTIONS] TERM",
    "Search a registry for images",
    (1, 1),
    (
        ("filter", "f", "filter", "", "Show only what matches (name=value)"),
        ("format", "", "string", "", FORMAT_HELP),
        ("limit", "", "int", 0, "At most so many"),
        ("no-trunc", "", "bool", False, "Show everything in full"),
    ),
)
