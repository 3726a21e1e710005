"""The directories of ``RUN --mount=type=cache``, kept between builds."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sampan.storage.removal import remove_tree

_ABOUT = ".about"
"""Ends the name of the file beside a directory that says what it is for."""


@dataclass(frozen=True, slots=True)
class CacheMount:
    """One directory: bytes on disk, when it was made and last used (seconds since 1970)."""

    name: str
    description: str
    size: int
    made: float
    used: float
    in_use: bool


class CacheMounts:
    """The directories below ``root``. Listing and removing may be done from any thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}
        # Sizes as they were measured, with the time of the last use at that time.
        self._sizes: dict[str, tuple[float, int]] = {}

    @asynccontextmanager
    async def use(self, identity: str, sharing: str) -> AsyncIterator[Path]:
        """The directory of ``identity`` while it is used, by its sharing mode (shared, private, locked)."""
        name = hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        if sharing == "locked":
            lock = self._locks.setdefault(name, asyncio.Lock())
            async with lock, self._counted(name, identity) as path:
                yield path
            return
        wanted, number = name, 1
        while sharing == "private" and self._users.get(wanted):
            wanted = f"{name}.{number}"
            number += 1
        async with self._counted(wanted, identity) as used:
            yield used

    @asynccontextmanager
    async def _counted(self, name: str, identity: str) -> AsyncIterator[Path]:
        self._users[name] = self._users.get(name, 0) + 1
        path = self.root / name
        try:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            about = self.root / f"{name}{_ABOUT}"
            if not about.exists():
                about.write_text("cached mount " + identity.rpartition("\0")[2], errors="surrogateescape")
            yield path
        finally:
            self._users[name] -= 1
            with suppress(FileNotFoundError):
                os.utime(path)

    def list(self) -> list[CacheMount]:
        """All of them."""
        found = []
        for path in sorted(self.root.iterdir()) if self.root.is_dir() else []:
            with suppress(FileNotFoundError):
                if path.is_dir():
                    found.append(self._described(path))
        return found

    def _described(self, path: Path) -> CacheMount:
        used = path.stat().st_mtime
        busy = bool(self._users.get(path.name))
        measured, size = self._sizes.get(path.name, (0.0, 0))
        if measured != used or busy:
            size = tree_size(path)
            self._sizes[path.name] = (used, size)
        about, made = "cached mount", used
        with suppress(FileNotFoundError):
            beside = self.root / f"{path.name}{_ABOUT}"
            about, made = beside.read_text(errors="replace"), beside.stat().st_mtime
        return CacheMount(path.name, about, size, made, used, busy)

    def remove(self, name: str) -> None:
        """Remove one, unless a step has taken it meanwhile."""
        if self._users.get(name):
            return
        with suppress(OSError):
            remove_tree(str(self.root / name))
        (self.root / f"{name}{_ABOUT}").unlink(missing_ok=True)
        self._sizes.pop(name, None)


def tree_size(path: Path) -> int:
    """Bytes that the files below ``path`` take."""
    total = 0
    for directory, _, files in os.walk(path):
        for name in files:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * 512
            except OSError:
                continue
    return total
