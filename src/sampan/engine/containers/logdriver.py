"""The log driver of a container as its monitor gets it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sampan import errors
from sampan.engine.containers.record import Container

DRIVERS = frozenset(("json-file", "local", "none"))
_OPTIONS = {
    "json-file": frozenset(
        ("max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode",
         "max-buffer-size")
    ),
    "local": frozenset(("max-size", "max-file", "compress", "mode", "max-buffer-size")),
    "none": frozenset(("mode", "max-buffer-size")),
}  # fmt: skip
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)i?b?", re.IGNORECASE)
DEFAULT_SIZE = 20 << 20
DEFAULT_FILES = 5
"""Logs are bounded by default: 100 MB a container."""


def check(kind: str, options: dict[str, str]) -> None:
    """What is refused at create. InvalidParameter in Docker's words."""
    if kind not in DRIVERS:
        raise errors.InvalidParameter(
            f'error looking up logging plugin {kind}: plugin "{kind}" not found',
            hint=f"known drivers: {', '.join(sorted(DRIVERS))}",
        )
    mode = options.get("mode", "")
    if mode not in ("", "blocking", "non-blocking"):
        raise errors.InvalidParameter(f"logger: logging mode not supported: {mode}")
    for name in options:
        if name not in _OPTIONS[kind]:
            raise errors.InvalidParameter(f"unknown log opt '{name}' for {kind} log driver")


def size(text: str) -> int:
    """Bytes of ``10m`` and the like, -1 for no bound. ValueError "invalid size: 'x'"."""
    if text == "-1":
        return -1
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(match.group(1)) * _UNITS[match.group(2).lower()])


def plan(container: Container, path: Path) -> dict[str, Any] | None:
    """The plan's ``log`` entry. SystemFailure for options that mean nothing, found at start as by dockerd."""
    kind = container.host.log_config.type or "json-file"
    options = container.host.log_config.config or {}
    if kind == "none":
        return None
    try:
        largest = size(options["max-size"]) if "max-size" in options else DEFAULT_SIZE
        default_files = 1 if "max-size" in options and kind == "json-file" else DEFAULT_FILES
        files = int(options.get("max-file", default_files))
        if files < 1:
            raise ValueError("max-file cannot be less than 1")
    except ValueError as problem:
        raise errors.SystemFailure(
            f"failed to create task for container: failed to initialize logging driver: {problem}"
        ) from None
    return {
        "driver": "json-file",
        "path": str(path),
        "max_size": largest,
        "max_file": files,
        "compress": options.get("compress", "false").lower() == "true",
        "attrs": attributes(container, options),
    }


def attributes(container: Container, options: dict[str, str]) -> dict[str, str]:
    """Labels and variables that the options ask to note with each line."""
    labels = container.config.labels or {}
    env = dict(entry.partition("=")[::2] for entry in container.config.env or ())
    found = _chosen(labels, options.get("labels", ""), options.get("labels-regex", ""))
    found |= _chosen(env, options.get("env", ""), options.get("env-regex", ""))
    if options.get("tag"):
        found["tag"] = _tag(options["tag"], container)
    return found


def _chosen(values: dict[str, str], names: str, pattern: str) -> dict[str, str]:
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    return {
        key: value for key, value in values.items() if key in wanted or (pattern and re.search(pattern, key))
    }


def _tag(template: str, container: Container) -> str:
    facts = {
        "ID": container.short_id,
        "FullID": container.id,
        "Name": container.name,
        "ImageName": container.config.image,
        "ImageID": container.image.removeprefix("sha256:")[:12],
        "ImageFullID": container.image,
        "DaemonName": "docker",
    }
    return re.sub(r"\{\{\s*\.(\w+)\s*\}\}", lambda m: facts.get(m.group(1), m.group(0)), template)
