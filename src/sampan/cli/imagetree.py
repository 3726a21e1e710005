"""``images --tree``: names with the platforms that they stand for, as docker's client lays them out."""

from __future__ import annotations

from sampan.cli import units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TITLES = ("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA")
UNTAGGED = "<untagged>"


def lines(found: list[dict[str, Any]]) -> list[str]:
    """The table of what ``GET /images/json?manifests=1`` gave; a platform that isn't here takes nothing."""
    rows: list[tuple[str, ...]] = []
    for image in found:
        if rows:
            rows.append(())
        manifests = [one for one in image.get("Manifests") or () if one["Kind"] == "image"]
        names = [name for name in image.get("RepoTags") or () if name != "<none>:<none>"] or [UNTAGGED]
        rows += [(name,) for name in names[:-1]]
        used = any(one["ImageData"]["Containers"] for one in manifests) or image.get("Containers", -1) > 0
        content = sum(one["Size"]["Content"] for one in manifests)
        rows.append(
            (names[-1], image["Id"], units.size(image["Size"], 3), units.size(content, 3), _mark(used))
        )
        for number, one in enumerate(manifests):
            branch = "└─" if number == len(manifests) - 1 else "├─"
            rows.append((f"{branch} {_platform(one)}", one["ID"], *_sizes(one)))
    return _table([TITLES, *map(_shortened, rows)])


def _mark(used: object) -> str:
    return "U" if used else ""


def _platform(manifest: dict[str, Any]) -> str:
    platform = manifest["ImageData"]["Platform"]
    parts = (platform.get("os"), platform.get("architecture"), platform.get("variant"))
    return "/".join(part for part in parts if part)


def _sizes(manifest: dict[str, Any]) -> tuple[str, str, str]:
    size, data = manifest["Size"], manifest["ImageData"]
    return units.size(size["Total"], 3), units.size(size["Content"], 3), _mark(data["Containers"])


def _shortened(row: tuple[str, ...]) -> tuple[str, ...]:
    if len(row) < 2:
        return row
    return (row[0], row[1].removeprefix("sha256:")[:12], *row[2:])


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Names and ids to the left, sizes to the right."""
    widths = [max((len(row[place]) for row in rows if place < len(row)), default=0) for place in range(5)]
    made = []
    for row in rows:
        cells = [
            text.rjust(width) if place in (2, 3) else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=False))
        ]
        made.append("   ".join(cells).rstrip())
    return made
