"""``images``: list images."""

from __future__ import annotations

from sampan.cli import filters, imagetree, table, units
from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError
from sampan.cli.verbs.ps import FORMAT_HELP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options

NONE = "<none>"


class Image(table.Row):
    """One name of one image."""

    def __init__(self, data: dict[str, Any], repository: str, tag: str, digest: str, *, full: bool) -> None:
        super().__init__(data, full=full)
        self.repository, self.tag, self.digest = repository, tag, digest


def _identifier(row: Any) -> str:
    text = str(row.data["Id"])
    return text if row.full else text.removeprefix("sha256:")[:12]


def _shared(row: Any, key: str) -> str:
    value = row.data.get(key, -1)
    return "N/A" if value == -1 else units.size(value, 4)


def _unique(row: Any) -> str:
    size, shared = row.data.get("Size", -1), row.data.get("SharedSize", -1)
    return "N/A" if -1 in (size, shared) else units.size(size - shared, 4)


Image.FIELDS = {
    "Containers": lambda row: "N/A" if row.data.get("Containers", -1) == -1 else str(row.data["Containers"]),
    "CreatedAt": lambda row: units.go_time(row.data["Created"]) if row.data["Created"] > 0 else "N/A",
    "CreatedSince": lambda row: units.ago(row.data["Created"]) if row.data["Created"] > 0 else "N/A",
    "Digest": lambda row: row.digest,
    "ID": _identifier,
    "Repository": lambda row: row.repository,
    "SharedSize": lambda row: _shared(row, "SharedSize"),
    "Size": lambda row: units.size(row.data["Size"], 3),
    "Tag": lambda row: row.tag,
    "UniqueSize": _unique,
    "VirtualSize": lambda row: units.size(row.data["Size"], 4),
}
TITLES = {
    "Containers": "CONTAINERS",
    "CreatedAt": "CREATED AT",
    "CreatedSince": "CREATED",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "SharedSize": "SHARED SIZE",
    "Size": "SIZE",
    "Tag": "TAG",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "SIZE",
}
DEFAULT = ("Repository", "Tag", "ID", "CreatedSince", "Size")


def rows_of(found: list[dict[str, Any]], *, full: bool, digests: bool) -> list[Image]:
    """A row for each name, and each digest with ``--digests``."""
    rows = []
    for image in found:
        tags = [tag for tag in image.get("RepoTags") or [] if tag != f"{NONE}:{NONE}"]
        known = [entry for entry in image.get("RepoDigests") or [] if entry != f"{NONE}@{NONE}"]
        by_repository: dict[str, list[str]] = {}
        for entry in known:
            name, _, digest = entry.partition("@")
            by_repository.setdefault(name, []).append(digest)
        for tag in tags:
            repository, _, name = tag.rpartition(":")
            for digest in (by_repository.get(repository) if digests else None) or [NONE]:
                rows.append(Image(image, repository, name, digest, full=full))
        tagged = {tag.rpartition(":")[0] for tag in tags}
        untagged = [(name, all_of) for name, all_of in by_repository.items() if name not in tagged]
        for repository, all_of in untagged:
            for digest in all_of if digests else [NONE]:
                rows.append(Image(image, repository, NONE, digest, full=full))
        if not tags and not untagged:
            rows.append(Image(image, NONE, NONE, NONE, full=full))
    return rows


def images(cli: CLI, options: Options, arguments: list[str]) -> int:
    """All, or those of one name."""
    pairs = options.all("filter") + [("reference", argument) for argument in arguments]
    query = {"all": options.flag("all"), "filters": filters.encode(pairs)}
    form = options.text("format")
    if options.flag("tree"):
        return _tree(cli, options, query)
    found = cli.client.call("GET", "/images/json", query) or []
    found.sort(key=lambda image: -image["Created"])
    digests = options.flag("digests")
    rows = rows_of(found, full=options.flag("no-trunc"), digests=digests or ".Digest" in form)
    default = (*DEFAULT[:2], "Digest", *DEFAULT[2:]) if digests else DEFAULT
    table.show(
        cli,
        rows,
        titles=TITLES,
        default=default,
        form=form,
        quiet="ID" if options.flag("quiet") else "",
        config_key="imagesFormat",
    )
    return 0


def _tree(cli: CLI, options: Options, query: dict[str, Any]) -> int:
    for other in ("quiet", "no-trunc", "digests", "format"):
        if options.flag(other) if other != "format" else options.text(other):
            raise CLIError(f"--{other} is not yet supported with --tree")
    found = cli.client.call("GET", "/images/json", {**query, "manifests": True}) or []
    found.sort(key=lambda image: -image["Created"])
    for line in imagetree.lines(found):
        cli.print(line)
    return 0


IMAGES = Command(
    images,
    "[OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    (0, 1),
    (
        ("all", "a", "bool", False, "Show intermediate ones too"),
        ("digests", "", "bool", False, "Show digests"),
        ("filter", "f", "filter", "", "Show only what matches (name=value)"),
        ("format", "", "string", "", FORMAT_HELP),
        ("no-trunc", "", "bool", False, "Show everything in full"),
        ("quiet", "q", "bool", False, "Print ids only"),
        ("tree", "", "bool", False, "Show each image's platforms"),
    ),
)
