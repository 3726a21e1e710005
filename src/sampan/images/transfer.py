"""``docker import``: a root file system's archive as an image of one layer."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sampan.images import manifest as documents
from sampan.images.manifest import Platform
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore
from sampan.storage import compress

Change = Callable[[dict[str, Any], list[str]], dict[str, Any]]
"""Applies Dockerfile instructions to a ``config`` object and gives the new one."""


@dataclass
class ImportOptions:
    """What the client said. ``changes`` are Dockerfile instructions, ``apply`` knows how to read them."""

    name: Reference | None = None
    message: str = ""
    changes: list[str] = field(default_factory=list)
    apply: Change | None = None
    platform: Platform | None = None
    source: str = "-"


def import_tar(store: ImageStore, read: compress.Read, options: ImportOptions) -> Image:
    """Make and tag the image. Errors in the changes come before anything is read.

    ArchiveError for junk ("unexpected EOF"), SystemFailure when the disk is full.
    """
    config: dict[str, Any] = {}
    if options.changes and options.apply is not None:
        config = options.apply(config, options.changes)
    unpacked = store.layers.unpack(iter(lambda: read(compress.PIECE), b""))
    layer = store.layers.place(None, unpacked)
    created = rfc3339(time.time_ns())
    platform = options.platform or documents.host_platform()
    comment = options.message or f"Imported from {options.source}"
    document: dict[str, Any] = {
        "architecture": platform.architecture,
        "comment": comment,
        "config": config,
        "created": created,
        "history": [{"created": created, "comment": comment}],
        "os": platform.os,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    }
    if platform.variant:
        document["variant"] = platform.variant
    image = store.add(msgspec.json.encode(document), [layer.chain_id])
    if options.name is not None:
        store.tag(options.name, image.id)
    return image


def rfc3339(nanoseconds: int) -> str:
    """A moment as Go prints it: UTC, up to nine fraction digits without trailing zeros."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return text + (f".{rest:09d}".rstrip("0") if rest else "") + "Z"
