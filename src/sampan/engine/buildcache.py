"""The build cache as a whole: layers of steps, directories of cache mounts; listed, bounded, pruned."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sampan import errors
from sampan.build.cache import MAX_AGE, Cache, Row
from sampan.engine.buildmounts import CacheMounts
from sampan.engine.containers.timestamps import rfc3339
from sampan.goregexp import Regexp, RegexpError
from sampan.images.store import ImageStore
from sampan.storage.gc import Leases

FILTERS = ("id", "parent", "type", "description", "inuse", "shared", "private")
"""What entries are chosen by, beside their age."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: times in seconds since 1970, ``size`` in bytes; ``mount`` for a cache mount's directory.
    ``parents``: the entries that made what its layer stands on.
    """

    id: str
    description: str
    size: int
    made: float
    used: float
    uses: int
    in_use: bool
    shared: bool
    mount: bool = False
    parents: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        """What BuildKit calls its kind."""
        return "exec.cachemount" if self.mount else "regular"

    def document(self) -> Mapping[str, Any]:
        """As ``/system/df`` lists it."""
        parents = {"Parents": [one[:25] for one in self.parents]} if self.parents else {}
        return {
            "ID": self.id[:25],
            **parents,
            "Type": self.type,
            "Description": self.description,
            "InUse": self.in_use,
            "Shared": self.shared,
            "Size": self.size,
            "CreatedAt": rfc3339(int(self.made * 1e9)),
            "LastUsedAt": rfc3339(int(self.used * 1e9)),
            "UsageCount": self.uses,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """What a prune is about. ``everything``: also what images use. ``before``: only what was last used earlier
    (seconds since 1970). ``filters`` by `FILTERS`. Bytes: ``reserved`` may stay in any case, ``most`` may stay at
    most, ``free`` is to be free on the disk; with none of the three all that is chosen goes.
    """

    everything: bool = False
    before: float | None = None
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reserved: int = 0
    most: int = 0
    free: int = 0

    def takes(self, entry: Entry) -> bool:
        """Whether the entry may go."""
        if entry.in_use or (entry.shared and not self.everything):
            return False
        if self.before is not None and entry.used >= self.before:
            return False
        return all(_fits(entry, name, values) for name, values in self.filters.items())

    def stays(self, total: int, available: int) -> int | None:
        """How many bytes of ``total`` may stay, with so many free on the disk; None: there is no such bound."""
        if not (self.reserved or self.most or self.free):
            return None
        bounds = [self.most] if self.most else []
        if self.free:
            bounds.append(max(0, total - max(0, self.free - available)))
        return max(self.reserved, min(bounds, default=0))


def _fits(entry: Entry, name: str, values: Sequence[str]) -> bool:
    if len(values) > 1:
        raise errors.InvalidParameter(f"filters expect only one value: {name}")
    value = values[0] if values else "true"
    flags = {"inuse": entry.in_use, "shared": entry.shared, "private": not entry.shared}
    if name in flags:
        return flags[name] == (value.lower() not in ("false", "0"))
    if name == "id":
        try:
            return Regexp(value).search(entry.id)
        except RegexpError:
            raise errors.InvalidParameter(f"invalid filter 'id={value}'") from None
    if name == "parent":
        return bool(value) and any(one.startswith(value) for one in entry.parents)
    return {"type": entry.type, "description": entry.description}[name] == value


class BuildCache:
    """Rows of layers and directories of mounts. ``busy`` tells the keys that running builds have found or made."""

    def __init__(
        self,
        cache: Cache,
        mounts: CacheMounts,
        images: ImageStore,
        leases: Leases,
        busy: Callable[[], Collection[str]],
    ) -> None:
        self.cache = cache
        self.mounts = mounts
        self._images = images
        self._leases = leases
        self._busy = busy

    def entries(self) -> list[Entry]:
        """All of it, least recently used first."""
        rows = self.cache.rows()
        shared = {layer for image in self._images.list() for layer in image.layers}
        return self._entries(rows, shared, self.cache.parents(rows))

    def _entries(
        self, rows: list[Row], shared: Collection[str], parents: Mapping[str, tuple[str, ...]]
    ) -> list[Entry]:
        busy = self._busy()
        found = [
            Entry(r.key, r.description, r.size, r.made, r.used, r.uses, r.key in busy, r.chain in shared)
            for r in rows
        ]
        found = [replace(one, parents=parents[one.id]) if one.id in parents else one for one in found]
        found += [
            Entry(m.name, m.description, m.size, m.made, m.used, 0, m.in_use, False, mount=True)
            for m in self.mounts.list()
        ]
        return sorted(found, key=lambda entry: entry.used)

    def trim(self, now: float, max_size: int, max_age: float = MAX_AGE) -> list[Entry]:
        """Forget what wasn't used for ``max_age`` seconds, then the least used above ``max_size``."""
        entries = self._entries(self.cache.rows(), (), {})
        total = sum(entry.size for entry in entries)
        gone = []
        for entry in entries:
            if entry.used >= now - max_age and total <= max_size:
                break
            if not entry.in_use:
                gone.append(entry)
                total -= entry.size
        self._remove(gone)
        return gone

    def prune(self, choice: Choice) -> Mapping[str, Any]:
        """Forget what is chosen; ``CachesDeleted`` (ids) and ``SpaceReclaimed`` (bytes)."""
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        stays = choice.stays(total, _available(self.mounts.root))
        gone = []
        for entry in entries:
            if stays is not None and total <= stays:
                break
            if choice.takes(entry):
                gone.append(entry)
                total -= entry.size
        self._remove(gone)
        freed = sum(entry.size for entry in gone if entry.mount) + self._leases.collect().size
        return {"CachesDeleted": [entry.id for entry in gone] or None, "SpaceReclaimed": freed}

    def _remove(self, gone: list[Entry]) -> None:
        self.cache.remove([entry.id for entry in gone if not entry.mount])
        for entry in gone:
            if entry.mount:
                self.mounts.remove(entry.id)


def _available(path: Path) -> int:
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize
