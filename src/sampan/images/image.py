"""An image: its document, and what the engine knows of it beside."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sampan.images import manifest as documents
from sampan.storage.digest import Digest

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_ZERO_TIME = -62135596800  # year 1, Go's zero time


@dataclass
class Image:
    """One image. ``layers`` are chain ids, bottom first; ``size`` bytes of file content of all layers."""

    id: Digest
    document: dict[str, Any]
    manifest: Digest
    layers: list[Digest]
    size: int
    parent: Digest | str = ""
    added_ns: int = 0
    tagged_ns: int = 0
    blobs: list[Digest] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """The ``config`` object: what its containers run; Docker's names."""
        found = self.document.get("config")
        return found if isinstance(found, dict) else {}

    @property
    def diff_ids(self) -> list[Digest]:
        """Digests of the uncompressed layers, bottom first."""
        return documents.diff_ids(self.document)

    @property
    def chain(self) -> Digest | None:
        """The topmost layer, None for an image without files."""
        return self.layers[-1] if self.layers else None

    @property
    def os(self) -> str:
        """The operating system, ``linux`` when it says none."""
        return str(self.document.get("os") or "linux")

    @property
    def architecture(self) -> str:
        """The architecture in Go's names."""
        return str(self.document.get("architecture") or "")

    @property
    def variant(self) -> str:
        """The architecture's variant or ""."""
        return str(self.document.get("variant") or "")

    @property
    def platform(self) -> documents.Platform:
        """All three."""
        return documents.Platform(self.architecture, self.os, self.variant)

    @property
    def created(self) -> str:
        """When it was made, as its document says (RFC 3339), "" when it doesn't."""
        return str(self.document.get("created") or "")

    @property
    def created_ns(self) -> int:
        """The same in nanoseconds since 1970."""
        return parse_time(self.created)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its configuration."""
        found = self.config.get("Labels")
        return found if isinstance(found, dict) else {}

    @property
    def history(self) -> list[dict[str, Any]]:
        """How it was made, oldest step first."""
        return [step for step in self.document.get("history") or [] if isinstance(step, dict)]


def parse_time(text: str) -> int:
    """RFC 3339 with up to nine fraction digits, in nanoseconds since 1970; Go's zero time when malformed."""
    match = _TIME.fullmatch(text)
    if match is None:
        return _ZERO_TIME * 1_000_000_000
    zone = "+00:00" if match[3] == "Z" else match[3]
    try:
        seconds = int(datetime.fromisoformat(match[1] + zone).timestamp())
    except ValueError:
        return _ZERO_TIME * 1_000_000_000
    return seconds * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))
