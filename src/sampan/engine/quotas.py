"""Bounds for what a container or a volume may write, by the project quotas of the data root's file system.

Each bounded directory is a project of its own. Its number is a row of the database, made before the kernel is
told and freed only after the kernel has forgotten the bound, so that a crash leaves neither a bound without an
owner nor an owner without a bound. A number is new to the kernel, too: others (a second engine, /etc/projects)
may have projects on the same file system.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sampan import errors

if TYPE_CHECKING:
    from sampan.storage.db import Database, Transaction

_FIRST = 1 << 20  # far from what people write into /etc/projects
_SCHEMA = [
    "CREATE TABLE projects (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, owner TEXT, UNIQUE (kind, owner))",
]
_HOW = (
    "Mount the data root's file system with pquota (XFS), or with prjquota after "
    "'tune2fs -O quota,project -Q prjquota' (ext4)."
)
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)i?b?", re.IGNORECASE)
_UNITS = {unit: 1 << 10 * power for power, unit in enumerate(("", "k", "m", "g", "t", "p"))}
_TRUTH = ("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False")


class Quotas:
    """The projects of one data root. A directory is known by its kind ("containers", "volumes", "build") and its
    name.
    """

    def __init__(self, root: Path, db: Database, options: Sequence[str] = ()) -> None:
        """``options`` are daemon.json's storage-opts. SystemFailure when they ask for what the disk can't do."""
        self._root = root
        self._db = db
        db.migrate("projects", _SCHEMA)
        self.default = default_size(options)
        """Bytes that bound what says nothing of its own, and each step of a build; 0 for no bound."""
        if self.default and not self.supported("containers"):
            raise errors.SystemFailure(
                "Storage option overlay2.size not supported. Filesystem does not support Project Quota: "
                "Filesystem does not support, or has not enabled quotas",
                hint=_HOW,
            )

    def supported(self, kind: str) -> bool:
        """Whether the file system that holds the directories of ``kind`` bounds projects."""
        from sampan.kernel import quota

        place = self._root / kind
        return quota.enforced(place if place.is_dir() else self._root)

    def wanted(self, options: Mapping[str, str] | None) -> int:
        """Bytes that a container with these ``--storage-opt`` may write; 0 for no bound.

        SystemFailure in dockerd's words when the file system can't do it or an option is unknown.
        """
        if not options:
            return self.default
        if "size" in options and not self.supported("containers"):
            raise errors.SystemFailure(
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option", hint=_HOW
            )
        size = self.default
        for name, value in options.items():
            if name.lower() != "size":
                raise errors.SystemFailure(f"Unknown option {name.lower()}", hint="Known is size.")
            try:
                size = parse_size(value)
            except ValueError as problem:
                raise errors.SystemFailure(str(problem)) from None
        return size

    def bound(self, kind: str, owner: str, size: int, directories: Iterable[Path]) -> None:
        """Let ``directories``, empty ones of ``owner``'s, hold at most ``size`` bytes in sum. SystemFailure."""
        from sampan.kernel import quota

        try:
            with self._db.transaction() as tx:
                project = self._free(tx, kind)
                tx.execute("INSERT INTO projects (id, kind, owner) VALUES (?, ?, ?)", (project, kind, owner))
            quota.limit(self._root / kind, project, size)
            for directory in directories:
                quota.mark(directory, project)
        except OSError as problem:
            self.release(kind, owner)
            raise errors.SystemFailure(f"setting a project quota failed: {problem}") from problem

    def _free(self, tx: Transaction, kind: str) -> int:
        """The lowest number that neither a row nor a file has."""
        from sampan.kernel import quota

        taken = {project for (project,) in tx.execute("SELECT id FROM projects")}
        project = _FIRST
        while project in taken or any(quota.usage(self._root / kind, project)):
            project += 1
        return project

    def release(self, kind: str, owner: str, tx: Transaction | None = None) -> bool:
        """The owner is gone, or is with the caller's transaction ``tx``; whether it had a bound.

        With ``tx`` the caller calls ``sweep`` once that is committed.
        """
        free = "UPDATE projects SET owner = NULL WHERE kind = ? AND owner = ?"
        if tx is not None:
            return bool(tx.execute(free, (kind, owner)).rowcount)
        found = bool(self._db.execute(free, (kind, owner)))
        if found:
            self.sweep()
        return found

    def release_below(self, kind: str, prefix: str) -> None:
        """All owners whose names begin with ``prefix/`` are gone."""
        free = "UPDATE projects SET owner = NULL WHERE kind = ? AND substr(owner, 1, ?) = ?"
        if self._db.execute(free, (kind, len(prefix) + 1, f"{prefix}/")):
            self.sweep()

    def settle(self, owners: Iterable[tuple[str, str]]) -> None:
        """After a crash: free what belongs to none of ``owners``, pairs of kind and name."""
        rows = self._db.query("SELECT kind, owner FROM projects WHERE owner IS NOT NULL")
        for kind, owner in set(rows) - set(owners):
            self._db.execute("UPDATE projects SET owner = NULL WHERE kind = ? AND owner = ?", (kind, owner))
        self.sweep()

    def sweep(self) -> None:
        """Take the bounds of freed projects from the kernel, then their numbers are free."""
        for project, kind in self._db.query("SELECT id, kind FROM projects WHERE owner IS NULL"):
            from sampan.kernel import quota

            # A file system that doesn't know the quota any more has nothing to forget.
            with contextlib.suppress(OSError):
                quota.limit(self._root / kind, project, 0)
            self._db.execute("DELETE FROM projects WHERE id = ?", (project,))


def default_size(options: Sequence[str]) -> int:
    """The bytes of ``overlay2.size`` among daemon.json's storage-opts, 0 without it.

    InvalidParameter in dockerd's words for what it doesn't know.
    """
    size = 0
    for option in options:
        name, mark, value = (part.strip() for part in option.partition("="))
        if not mark:
            raise errors.InvalidParameter(f"unable to parse storage-opt: {option}", hint="Want name=value.")
        if name.lower() == "overlay2.size":
            try:
                size = parse_size(value)
            except ValueError as problem:
                raise errors.InvalidParameter(f"storage-opt overlay2.size: {problem}") from None
        elif name.lower() != "overlay2.override_kernel_check":  # of no effect in dockerd, too
            raise errors.InvalidParameter(f"overlay2: unknown option {name.lower()}")
        elif value not in _TRUTH:
            raise errors.InvalidParameter(f'strconv.ParseBool: parsing "{value}": invalid syntax')
    return size


def parse_size(text: str) -> int:
    """Bytes of ``10m``, ``1.5GiB``, ``512``. ValueError "invalid size: 'x'"."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"invalid size: '{text}'")
    return int(float(found.group(1)) * _UNITS[found.group(2).lower()])
