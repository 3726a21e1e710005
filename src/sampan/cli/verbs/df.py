"""``system df``: what takes up disk space."""

from __future__ import annotations

from sampan.cli import table, units
from sampan.cli.command import CLI, Command
from sampan.cli.verbs import images as image_list
from sampan.cli.verbs import ps
from sampan.cli.verbs.volume import Volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


class Usage(table.Row):
    """One kind of objects: (type, number, active, size, reclaimable)."""


def _reclaimable(row: table.Row) -> str:
    kind, _, _, size, free = row.data
    text = units.size(free)
    # docker gives no share for the cache
    return f"{text} ({free * 100 // size}%)" if size > 0 and kind != "Build Cache" else text


Usage.FIELDS = {
    "Active": lambda row: str(row.data[2]),
    "Reclaimable": _reclaimable,
    "Size": lambda row: units.size(row.data[3]),
    "TotalCount": lambda row: str(row.data[1]),
    "Type": lambda row: row.data[0],
}
TITLES = {
    "Active": "ACTIVE",
    "Reclaimable": "RECLAIMABLE",
    "Size": "SIZE",
    "TotalCount": "TOTAL",
    "Type": "TYPE",
}


def df(cli: CLI, options: Options, arguments: list[str]) -> int:
    """A line a kind, or with ``-v`` every object."""
    found = cli.client.call("GET", "/system/df")
    if options.flag("verbose"):
        _verbose(cli, found)
        return 0
    rows = [Usage(data) for data in summary(found)]
    table.show(
        cli,
        rows,
        titles=TITLES,
        default=("Type", "TotalCount", "Active", "Size", "Reclaimable"),
        form=options.text("format"),
    )
    return 0


def summary(found: dict[str, Any]) -> list[tuple[str, int, int, int, int]]:
    """Images, containers, volumes, build cache: number, active, size and reclaimable bytes."""
    images = found.get("Images") or []
    layers = found.get("LayersSize", 0)
    used = sum(
        max(0, i["Size"] - max(0, i.get("SharedSize", 0))) for i in images if i.get("Containers", 0) > 0
    )
    containers = found.get("Containers") or []
    running = [c for c in containers if c.get("State") in ("running", "paused", "restarting")]
    sizes = [c.get("SizeRw", 0) for c in containers]
    volumes = [v.get("UsageData") or {"RefCount": 0, "Size": 0} for v in found.get("Volumes") or []]
    caches = found.get("BuildCache") or []
    own = [c for c in caches if not c.get("Shared")]
    return [
        ("Images", len(images), sum(i.get("Containers", 0) > 0 for i in images), layers, layers - used),
        (
            "Containers",
            len(containers),
            len(running),
            sum(sizes),
            sum(sizes) - sum(c.get("SizeRw", 0) for c in running),
        ),
        (
            "Local Volumes",
            len(volumes),
            sum(v["RefCount"] > 0 for v in volumes),
            sum(max(0, v["Size"]) for v in volumes),
            sum(max(0, v["Size"]) for v in volumes if v["RefCount"] == 0),
        ),
        (
            "Build Cache",
            len(caches),
            sum(bool(c.get("InUse")) for c in caches),
            sum(c["Size"] for c in own),
            sum(c["Size"] for c in own if not c.get("InUse")),
        ),
    ]


def _verbose(cli: CLI, found: dict[str, Any]) -> None:
    cli.write("Images space usage:\n\n")
    names = (*image_list.DEFAULT, "SharedSize", "UniqueSize", "Containers")
    images = [{**image, "RepoTags": (image.get("RepoTags") or [])[:1]} for image in found.get("Images") or []]
    rows = image_list.rows_of(images, full=False, digests=False)
    table.show(cli, rows, titles=image_list.TITLES, default=names)
    cli.write("\nContainers space usage:\n\n")
    containers = [ps.Container(item) for item in found.get("Containers") or []]
    names = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")
    for row in containers:
        row.data["SizeRootFs"] = 0
    table.show(cli, containers, titles=ps.TITLES, default=names)
    cli.write("\nLocal Volumes space usage:\n\n")
    titles = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
    table.show(cli, [Volume(v) for v in found.get("Volumes") or []], titles=titles, default=tuple(titles))
    caches = found.get("BuildCache") or []
    cli.write(f"\nBuild cache usage: {units.size(sum(c['Size'] for c in caches if not c.get('Shared')))}\n\n")
    cells = [["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"]]
    cells += [_cache_cells(cache) for cache in caches]
    cli.write(table.columns(cells))


def _cache_cells(cache: dict[str, Any]) -> list[str]:
    last = cache.get("LastUsedAt")
    return [
        str(cache["ID"])[:12] + ("*" if cache.get("InUse") else ""),
        str(cache.get("Type", "")),
        units.size(cache["Size"], 3),
        units.ago(units.parse_time(cache["CreatedAt"])),
        units.ago(units.parse_time(last)) if last else "",
        str(cache.get("UsageCount", 0)),
        "true" if cache.get("Shared") else "false",
    ]


DF = Command(
    df,
    "[OPTIONS]",
    "Show what takes up disk space",
    (0, 0),
    (
        ("format", "", "string", "", ps.FORMAT_HELP),
        ("verbose", "v", "bool", False, "Show every object"),
    ),
)
