"""``volume create``, ``ls``, ``rm``, ``update``."""

from __future__ import annotations

from sampan.cli import filters, table
from sampan.cli.command import CLI, MANY, Command
from sampan.cli.container_config import pairs
from sampan.cli.each import one_by_one
from sampan.cli.errors import CLIError
from sampan.cli.verbs.ps import FORMAT_HELP, labels
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options


def create(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Print the volume's name."""
    name = options.text("name")
    if name and arguments:
        raise CLIError(
            "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
        )
    request = {
        "Name": name or (arguments[0] if arguments else ""),
        "Driver": options.text("driver"),
        "DriverOpts": pairs(options.all("opt")),
        "Labels": pairs(options.all("label")),
    }
    cli.print(cli.client.call("POST", "/volumes/create", json=request)["Name"])
    return 0


class Volume(table.Row):
    """One volume of the list."""

    def Label(self, name: str) -> str:
        """One label's value."""
        return str((self.data.get("Labels") or {}).get(name, ""))


def _usage(row: table.Row, key: str) -> str:
    usage = row.data.get("UsageData")
    return "N/A" if not usage else str(usage[key])


def _size(row: table.Row) -> str:
    from sampan.cli import units

    usage = row.data.get("UsageData")
    return "N/A" if not usage else units.size(usage["Size"])


Volume.FIELDS = {
    "Availability": lambda row: "N/A",
    "Driver": lambda row: row.data["Driver"],
    "Group": lambda row: "N/A",
    "Labels": labels,
    "Links": lambda row: _usage(row, "RefCount"),
    "Mountpoint": lambda row: row.data["Mountpoint"],
    "Name": lambda row: row.data["Name"],
    "Scope": lambda row: row.data["Scope"],
    "Size": _size,
    "Status": lambda row: "N/A",
}
TITLES = {
    "Availability": "AVAILABILITY",
    "Driver": "DRIVER",
    "Group": "GROUP",
    "Label": "LABEL",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Mountpoint": "MOUNTPOINT",
    "Name": "VOLUME NAME",
    "Scope": "SCOPE",
    "Size": "SIZE",
    "Status": "STATUS",
}


def natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key by which v2 comes before v10."""
    found: list[tuple[int, int, str]] = []
    at = 0
    while at < len(text):
        end = at
        digits = text[at].isdigit()
        while end < len(text) and text[end].isdigit() == digits:
            end += 1
        found.append((0, int(text[at:end]), "") if digits else (1, 0, text[at:end]))
        at = end
    return found


def listing(cli: CLI, options: Options, arguments: list[str]) -> int:
    """By name."""
    query = {"filters": filters.encode(options.all("filter"))}
    found = cli.client.call("GET", "/volumes", query).get("Volumes") or []
    rows = [Volume(item) for item in sorted(found, key=lambda item: natural(item["Name"]))]
    table.show(
        cli,
        rows,
        titles=TITLES,
        default=("Driver", "Name"),
        form=options.text("format"),
        quiet="Name" if options.flag("quiet") else "",
        config_key="volumesFormat",
    )
    return 0


def remove(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Print each removed one's name."""
    query = {"force": options.flag("force")}
    return one_by_one(cli, arguments, lambda name: cli.client.call("DELETE", path_of("volumes", name), query))


def update(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Cluster volumes are Swarm's; other volumes can't be changed."""
    cli.client.call("GET", path_of("volumes", arguments[0]))
    raise CLIError("can only update cluster volumes")


CREATE = Command(
    create,
    "[OPTIONS] [VOLUME]",
    "Create a volume",
    (0, 1),
    (
        ("driver", "d", "string", "local", "The volume's driver"),
        ("label", "", "label", "", "Set a label (key=value)"),
        ("name", "", "string", "", "The volume's name (old form)"),
        ("opt", "o", "opts", "", "Option of the driver (key=value)"),
    ),
)
LS = Command(
    listing,
    "[OPTIONS]",
    "List volumes",
    (0, 0),
    (
        ("filter", "f", "filter", "", "Show only what matches (name=value)"),
        ("format", "", "string", "", FORMAT_HELP),
        ("quiet", "q", "bool", False, "Print names only"),
    ),
)
RM = Command(
    remove,
    "[OPTIONS] VOLUME [VOLUME...]",
    "Remove volumes",
    (1, MANY),
    (("force", "f", "bool", False, "A missing one is no error"),),
)
UPDATE = Command(
    update,
    "[OPTIONS] VOLUME",
    "Update a cluster volume",
    (1, 1),
    (("availability", "", "string", "active", "Availability of a cluster volume"),),
)
