"""``ps``: list containers."""

from __future__ import annotations

from sampan.cli import filters, table, units
from sampan.cli.command import CLI, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options

FORMAT_HELP = "Format with a Go template, 'table TEMPLATE', or 'json'"


class Container(table.Row):
    """One container of the list, as templates see it."""

    def Label(self, name: str) -> str:
        """One label's value."""
        return str((self.data.get("Labels") or {}).get(name, ""))


def identifier(row: table.Row) -> str:
    """The id, short unless asked in full."""
    return str(row.data["Id"] if row.full else row.data["Id"][:12])


def _command(row: table.Row) -> str:
    return quoted(shortened(row.data["Command"], 20, row.full))


def quoted(text: str) -> str:
    """As Go quotes a string."""
    from sampan.cli.template_functions import verb

    return verb("q", text)


def shortened(text: str, width: int, full: bool) -> str:
    """Cut to a width with an ellipsis at the end."""
    return text if full or len(text) <= width else text[: width - 1] + "…"


def _image(row: table.Row) -> str:
    image, digest = str(row.data.get("Image") or ""), str(row.data.get("ImageID") or "")
    if not image:
        return "<no image>"
    if row.full:
        return image
    hexadecimal = image.removeprefix("sha256:")
    if len(hexadecimal) == 64 and digest.endswith(hexadecimal):
        return hexadecimal[:12]
    name, at, _ = image.partition("@")
    return name if at else image


def _names(row: table.Row) -> str:
    names = [name.lstrip("/") for name in row.data.get("Names") or []]
    if not row.full:
        names = [name for name in names if "/" not in name] or names
    return ",".join(names)


def labels(row: table.Row) -> str:
    """All labels, ``a=b,c=d``."""
    return ",".join(f"{key}={value}" for key, value in sorted((row.data.get("Labels") or {}).items()))


def _size(row: table.Row) -> str:
    own, whole = row.data.get("SizeRw", 0), row.data.get("SizeRootFs", 0)
    text = units.size(own, 3)
    return f"{text} (virtual {units.size(whole, 3)})" if whole > 0 else text


def _mounts(row: table.Row) -> str:
    names = [str(mount.get("Name") or mount.get("Source")) for mount in row.data.get("Mounts") or []]
    return ",".join(names if row.full else [shortened(name, 15, full=False) for name in names])


def _local_volumes(row: table.Row) -> str:
    return str(sum(mount.get("Driver") == "local" for mount in row.data.get("Mounts") or []))


def _networks(row: table.Row) -> str:
    return ",".join(sorted((row.data.get("NetworkSettings") or {}).get("Networks") or {}))


def ports(row: table.Row) -> str:
    """Published and exposed ports, neighbours joined to ranges."""
    return display_ports(row.data.get("Ports") or [])


def display_ports(entries: list[dict[str, Any]]) -> str:
    """``0.0.0.0:8080->80/tcp, 81-82/udp``."""
    groups: dict[tuple[str, str, bool], list[tuple[int, int]]] = {}
    for entry in sorted(entries, key=_port_order):
        public = entry.get("PublicPort") or 0
        address = entry.get("IP") or ""
        # A host port that differs from the container's keeps its line to itself unless it follows on.
        key = (address, entry["Type"], bool(public))
        groups.setdefault(key, []).append((entry["PrivatePort"], public))
    lines = []
    for (address, protocol, published), pairs in groups.items():
        for low, high, public in _runs(pairs):
            inside = f"{low}-{high}" if high > low else str(low)
            if not published:
                lines.append((low, address, f"{inside}/{protocol}"))
                continue
            outside = f"{public}-{public + high - low}" if high > low else str(public)
            shown = f"[{address}]" if ":" in address else address
            lines.append((low, address, f"{shown}:{outside}->{inside}/{protocol}"))
    return ", ".join(line for _, _, line in lines)


def _port_order(entry: dict[str, Any]) -> tuple[int, str, int, str]:
    return entry["PrivatePort"], entry.get("IP") or "", entry.get("PublicPort") or 0, entry["Type"]


def _runs(pairs: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Join (container port, host port) pairs that follow on both sides: (first, last, first host port)."""
    runs: list[tuple[int, int, int]] = []
    for inside, public in pairs:
        if runs:
            low, high, first = runs[-1]
            if inside == high + 1 and (not public or public == first + inside - low):
                runs[-1] = (low, inside, first)
                continue
        runs.append((inside, inside, public))
    return runs


Container.FIELDS = {
    "Command": _command,
    "CreatedAt": lambda row: units.go_time(row.data["Created"]),
    "ID": identifier,
    "Image": _image,
    "Labels": labels,
    "LocalVolumes": _local_volumes,
    "Mounts": _mounts,
    "Names": _names,
    "Networks": _networks,
    "Platform": lambda row: (row.data.get("ImageManifestDescriptor") or {}).get("platform"),
    "Ports": ports,
    "RunningFor": lambda row: units.ago(row.data["Created"]),
    "Size": _size,
    "State": lambda row: row.data.get("State", ""),
    "Status": lambda row: row.data.get("Status", ""),
}
TITLES = {
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Label": "LABEL",
    "Labels": "LABELS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Mounts": "MOUNTS",
    "Names": "NAMES",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
    "Ports": "PORTS",
    "RunningFor": "CREATED",
    "Size": "SIZE",
    "State": "STATE",
    "Status": "STATUS",
}
DEFAULT = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")


def ps(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Running ones, or all."""
    form = options.text("format")
    last = 1 if options.flag("latest") else options.number("last")
    size = options.flag("size") or (
        not options.flag("quiet") and ".Size" in (form or cli.config.text("psFormat"))
    )
    query = {
        "all": options.flag("all"),
        "limit": last if last > 0 else None,
        "size": size,
        "filters": filters.encode(options.all("filter")),
    }
    found = cli.client.call("GET", "/containers/json", query) or []
    rows = [Container(item, full=options.flag("no-trunc")) for item in found]
    table.show(
        cli,
        rows,
        titles=TITLES,
        default=(*DEFAULT, "Size") if options.flag("size") else DEFAULT,
        form=form,
        quiet="ID" if options.flag("quiet") else "",
        config_key="psFormat",
    )
    return 0


PS = Command(
    ps,
    "[OPTIONS]",
    "List containers",
    (0, 0),
    (
        ("all", "a", "bool", False, "Show stopped ones too"),
        ("filter", "f", "filter", "", "Show only what matches (name=value)"),
        ("format", "", "string", "", FORMAT_HELP),
        ("last", "n", "int", -1, "Show the N newest, in any state"),
        ("latest", "l", "bool", False, "Show the newest, in any state"),
        ("no-trunc", "", "bool", False, "Show everything in full"),
        ("quiet", "q", "bool", False, "Print ids only"),
        ("size", "s", "bool", False, "Show what each takes up"),
    ),
)
