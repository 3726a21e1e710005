"""The ``prune`` verbs: remove what nothing uses, after asking."""

from __future__ import annotations

import os

from sampan.cli import filters, units
from sampan.cli.command import CLI, Command
from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options

    Pairs = list[tuple[str, str]]

_FORCE = ("force", "f", "bool", False, "Don't ask")
_FILTER = ("filter", "", "filter", "", "Only what matches (until=…, label=…)")


def confirmed(cli: CLI, options: Options, warning: str) -> bool:
    """Ask unless ``--force``; anything but yes is no."""
    if options.flag("force"):
        return True
    cli.write(f"{warning}\nAre you sure you want to continue? [y/N] ")
    return os.read(0, 1024).decode("utf-8", "replace").strip().lower() in ("y", "yes")


def _call(cli: CLI, kind: str, pairs: Pairs) -> dict[str, Any]:
    found: dict[str, Any] = (
        cli.client.call("POST", f"/{kind}/prune", {"filters": filters.encode(pairs)}) or {}
    )
    return found


def _containers(cli: CLI, pairs: Pairs) -> tuple[str, int]:
    found = _call(cli, "containers", pairs)
    return _block("Deleted Containers", found.get("ContainersDeleted")), found.get("SpaceReclaimed", 0)


def _volumes(cli: CLI, pairs: Pairs) -> tuple[str, int]:
    found = _call(cli, "volumes", pairs)
    return _block("Deleted Volumes", found.get("VolumesDeleted")), found.get("SpaceReclaimed", 0)


def _networks(cli: CLI, pairs: Pairs) -> tuple[str, int]:
    return _block("Deleted Networks", _call(cli, "networks", pairs).get("NetworksDeleted")), 0


def _images(cli: CLI, pairs: Pairs) -> tuple[str, int]:
    found = _call(cli, "images", pairs)
    lines = [
        f"untagged: {item['Untagged']}" if item.get("Untagged") else f"deleted: {item['Deleted']}"
        for item in found.get("ImagesDeleted") or []
    ]
    return _block("Deleted Images", lines), found.get("SpaceReclaimed", 0)


_BOUNDS = ("keep-storage", "max-used-space", "min-free-space", "reserved-space")


def _build_cache(
    cli: CLI, pairs: Pairs, *, everything: bool, bounds: dict[str, int] | None = None
) -> tuple[str, int]:
    query = {"all": everything, "filters": filters.encode(pairs), **(bounds or {})}
    found = cli.client.call("POST", "/build/prune", query) or {}
    return _block("Deleted build cache objects", found.get("CachesDeleted")), found.get("SpaceReclaimed", 0)


def _block(title: str, lines: list[str] | None) -> str:
    return "\n".join([f"{title}:", *lines, "\n"]) if lines else ""


def _total(cli: CLI, text: str, space: int) -> None:
    cli.write(f"{text}Total reclaimed space: {units.size(space)}\n")


def containers(cli: CLI, options: Options, arguments: list[str]) -> int:
    """All that don't run."""
    if not confirmed(cli, options, "WARNING! This will remove all stopped containers."):
        return 0
    _total(cli, *_containers(cli, options.all("filter")))
    return 0


def volumes(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Anonymous ones, or all."""
    pairs = list(options.all("filter"))
    named = options.flag("all") or not cli.client.at_least("1.42")  # older engines know no difference
    which = "all local volumes" if named else "anonymous local volumes"
    if not confirmed(cli, options, f"WARNING! This will remove {which} not used by at least one container."):
        return 0
    if options.flag("all"):
        if any(name == "all" for name, _ in pairs):
            raise CLIError("conflicting options: cannot specify both --all and --filter all=1")
        if cli.client.at_least("1.42"):
            pairs.append(("all", "true"))
    _total(cli, *_volumes(cli, pairs))
    return 0


def networks(cli: CLI, options: Options, arguments: list[str]) -> int:
    """All that no container is connected to."""
    if not confirmed(
        cli, options, "WARNING! This will remove all custom networks not used by at least one container."
    ):
        return 0
    text, _ = _networks(cli, options.all("filter"))
    cli.write(text)
    return 0


def images(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Those without a name, or all that no container uses."""
    everything = options.flag("all")
    which = "images without at least one container associated to them" if everything else "dangling images"
    if not confirmed(cli, options, f"WARNING! This will remove all {which}."):
        return 0
    pairs = [*options.all("filter"), ("dangling", "false" if everything else "true")]
    _total(cli, *_images(cli, pairs))
    return 0


def build_cache(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Cache that nothing refers to, or all."""
    which = "all build cache" if options.flag("all") else "all dangling build cache"
    if not confirmed(cli, options, f"WARNING! This will remove {which}."):
        return 0
    bounds = {name: options.number(name) for name in _BOUNDS if options.number(name)}
    text, space = _build_cache(cli, options.all("filter"), everything=options.flag("all"), bounds=bounds)
    _total(cli, text, space)
    return 0


_PARTS = ("all stopped containers", "all networks not used by at least one container")


def system(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Containers, networks, images, build cache; volumes only when asked for."""
    everything, pairs = options.flag("all"), list(options.all("filter"))
    parts = list(_PARTS)
    if options.flag("volumes"):
        if any(name == "until" for name, _ in pairs):
            raise CLIError('ERROR: The "until" filter is not supported with "--volumes"')
        parts.append("all anonymous volumes not used by at least one container")
    parts.append(
        "all images without at least one container associated to them"
        if everything
        else "all dangling images"
    )
    parts.append("all build cache" if everything else "unused build cache")
    warning = "WARNING! This will remove:\n" + "".join(f"  - {part}\n" for part in parts)
    if pairs:
        warning += "\n  Items to be pruned will be filtered with:\n"
        warning += "".join(f"  - {name}={value}\n" for name, value in pairs)
    if not confirmed(cli, options, warning):
        return 0
    results = [_containers(cli, pairs), _networks(cli, pairs)]
    if options.flag("volumes"):
        results.append(_volumes(cli, pairs))
    results.append(_images(cli, [*pairs, ("dangling", "false" if everything else "true")]))
    until = [(name, value) for name, value in pairs if name == "until"]
    results.append(_build_cache(cli, until, everything=everything))
    _total(cli, "".join(text for text, _ in results), sum(space for _, space in results))
    return 0


CONTAINERS = Command(containers, "[OPTIONS]", "Remove all stopped containers", (0, 0), (_FILTER, _FORCE))
NETWORKS = Command(networks, "[OPTIONS]", "Remove networks that no container uses", (0, 0), (_FILTER, _FORCE))
VOLUMES = Command(
    volumes,
    "[OPTIONS]",
    "Remove volumes that no container uses",
    (0, 0),
    (("all", "a", "bool", False, "Named ones too"), _FILTER, _FORCE),
)
IMAGES = Command(
    images,
    "[OPTIONS]",
    "Remove unused images",
    (0, 0),
    (
        ("all", "a", "bool", False, "All that no container uses, not only those without a name"),
        _FILTER,
        _FORCE,
    ),
)
BUILD_CACHE = Command(
    build_cache,
    "[OPTIONS]",
    "Remove build cache",
    (0, 0),
    (
        ("all", "a", "bool", False, "All of it, not only what nothing refers to"),
        ("filter", "", "filter", "", "Only what matches (until=24h, type=exec.cachemount, id=…)"),
        _FORCE,
        ("keep-storage", "", "bytes", 0, "Keep so much"),
        ("max-used-space", "", "bytes", 0, "Bring it down to so much"),
        ("min-free-space", "", "bytes", 0, "Until so much of the disk is free"),
        ("reserved-space", "", "bytes", 0, "Keep so much"),
    ),
)
SYSTEM = Command(
    system,
    "[OPTIONS]",
    "Remove everything unused",
    (0, 0),
    (
        ("all", "a", "bool", False, "All unused images, not only those without a name"),
        _FILTER,
        _FORCE,
        ("volumes", "", "bool", False, "Anonymous volumes too"),
    ),
)
