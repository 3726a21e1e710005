"""Volumes of the ``local`` driver: directories that outlive containers, with the mount options Docker knows.

A volume without options is a directory. One with ``type``/``device``/``o`` (nfs, tmpfs, bind …) is mounted
on its directory while a container that uses it runs: several containers then share the one mount, as with
Docker. In use means: named by a container that exists, running or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from sampan import errors
from sampan.engine import localdriver
from sampan.engine.containers.timestamps import rfc3339
from sampan.engine.quotas import parse_size
from sampan.kernel import mountinfo

if TYPE_CHECKING:
    from sampan.engine.events import EventBus
    from sampan.engine.quotas import Quotas
    from sampan.storage.db import Database

ANONYMOUS = "com.docker.volume.anonymous"
_REMOVING = ".removing-"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+\Z")
_ALLOWED = "[a-zA-Z0-9][a-zA-Z0-9_.-]"
_NEEDS = {"device": ("type",), "type": ("device",), "o": ("device", "type")}
_KNOWN = frozenset(("type", "o", "device", "size"))
_SCHEMA = [
    """CREATE TABLE volumes (
        name TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, labels BLOB NOT NULL, options BLOB NOT NULL
    )""",
]


class Volume(msgspec.Struct):
    """One volume; ``labels`` and ``options`` are None when none were given."""

    name: str
    created_ns: int
    mountpoint: str
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    driver: str = "local"

    @property
    def anonymous(self) -> bool:
        """Whether the engine chose the name."""
        return ANONYMOUS in (self.labels or {})

    def document(self) -> dict[str, Any]:
        """The volume as the Engine API shows it."""
        return {
            "CreatedAt": rfc3339(self.created_ns // 1_000_000_000 * 1_000_000_000),
            "Driver": self.driver,
            "Labels": self.labels,
            "Mountpoint": self.mountpoint,
            "Name": self.name,
            "Options": self.options,
            "Scope": "local",
        }


class Volumes:
    """The volumes of one data root."""

    def __init__(self, root: Path, db: Database, events: EventBus, quotas: Quotas) -> None:
        self._root = root
        self._quotas = quotas
        self._db = db
        self._events = events
        self._volumes: dict[str, Volume] = {}
        self._users: dict[str, set[str]] = {}
        self._mounted: dict[str, set[str]] = {}
        self._mounting: dict[str, asyncio.Lock] = {}
        root.mkdir(mode=0o701, parents=True, exist_ok=True)
        db.migrate("volumes", _SCHEMA)
        self._settle()
        self._load()

    def _settle(self) -> None:
        """What a crash cut short: a removal is finished, a directory that no row came for goes if it is empty."""
        with self._db.transaction() as tx:
            names = {name for (name,) in tx.execute("SELECT name FROM volumes")}
            removing = {leftover.name.split("-")[1] for leftover in self._root.glob(f"{_REMOVING}*")}
            for name in names:
                if _mark(name) in removing and not (self._root / name).exists():
                    tx.execute("DELETE FROM volumes WHERE name = ?", (name,))
        for directory in self._root.iterdir():
            if directory.name not in names and directory.is_dir():
                with contextlib.suppress(OSError):
                    (directory / "_data").rmdir()
                with contextlib.suppress(OSError):
                    directory.rmdir()

    def _load(self) -> None:
        with self._db.transaction() as tx:
            rows = list(tx.execute("SELECT name, created_ns, labels, options FROM volumes ORDER BY rowid"))
        for name, created, labels, options in rows:
            self._volumes[name] = Volume(
                name, created, str(self.path(name)), msgspec.json.decode(labels), msgspec.json.decode(options)
            )

    def path(self, name: str) -> Path:
        """Where a volume's content is."""
        return self._root / name / "_data"

    def get(self, name: str) -> Volume:
        """The volume ``name``. NotFound "get x: no such volume"."""
        try:
            return self._volumes[name]
        except KeyError:
            raise errors.NotFound(f"get {name}: no such volume") from None

    def __contains__(self, name: str) -> bool:
        return name in self._volumes

    def all(self) -> list[Volume]:
        """All volumes, sorted by name."""
        return [self._volumes[name] for name in sorted(self._volumes)]

    def users(self, name: str) -> list[str]:
        """Ids of the containers that name this volume."""
        return sorted(self._users.get(name, ()))

    async def size(self, name: str) -> int:
        """Bytes of the regular files in a volume."""
        return await asyncio.to_thread(directory_size, self.path(name))

    def create(
        self,
        name: str = "",
        *,
        driver: str = "",
        options: dict[str, str] | None = None,
        labels: dict[str, str] | None = None,
        user: str = "",
        anonymous: bool = False,
    ) -> Volume:
        """Make a volume, or return the one of that name; ``user`` is the id of a container that will use it.

        Without a name one is chosen. InvalidParameter for names and options that aren't allowed, NotFound
        for another driver than local.
        """
        self.check(name, driver, options)
        if anonymous or not name:
            name = name or secrets.token_hex(32)
            labels = {**(labels or {}), ANONYMOUS: ""}
        volume = self._volumes.get(name)
        if volume is None:
            volume = self._make(name, options or None, labels)
        if user:
            self._users.setdefault(name, set()).add(user)
        return volume

    def check(self, name: str, driver: str = "", options: dict[str, str] | None = None) -> None:
        """Raise what ``create`` would raise, making nothing."""
        check_driver(name, driver)
        if name and name not in self._volumes:
            check_name(name)
            size = check_options(name, options)
            if size and not self._quotas.supported("volumes"):
                raise errors.InvalidParameter(
                    f"create {name}: quota size requested but no quota support",
                    hint="A tmpfs volume can have one everywhere: -o type=tmpfs -o device=tmpfs -o size=100m.",
                )

    def _make(self, name: str, options: dict[str, str] | None, labels: dict[str, str] | None) -> Volume:
        volume = Volume(name, time.time_ns(), str(self.path(name)), labels, options)
        # The directory first: a directory without a row is an orphan that the next create takes over, a
        # row without its directory would be a volume that can't be mounted.
        self.path(name).mkdir(mode=0o755, parents=True, exist_ok=True)
        os.chmod(self._root / name, 0o701)
        size = check_options(name, options)
        if size:
            try:
                self._quotas.bound("volumes", name, size, (self.path(name),))
            except errors.SystemFailure:
                shutil.rmtree(self._root / name, ignore_errors=True)
                raise
        with self._db.transaction() as tx:
            tx.execute(
                "INSERT INTO volumes (name, created_ns, labels, options) VALUES (?, ?, ?, ?)",
                (name, volume.created_ns, msgspec.json.encode(labels), msgspec.json.encode(options)),
            )
        self._volumes[name] = volume
        self._events.publish("volume", "create", name, {"driver": "local"})
        return volume

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Delete a volume with its content.

        Conflict while a container names it (also with ``force``); NotFound, unless ``force``, when missing.
        """
        if name not in self._volumes and force:
            return
        volume = self.get(name)
        users = self.users(name)
        if users:
            raise errors.Conflict(
                f"remove {name}: volume is in use - [{', '.join(users)}]",
                hint="Remove these containers first.",
            )
        doomed = self._take_out(volume)
        await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)

    def discard(self, name: str) -> None:
        """Delete a volume that nobody uses any more; its content is deleted at the next ``sweep``.

        Does nothing when a container still names it.
        """
        if name in self._volumes and not self.users(name):
            self._take_out(self._volumes[name])

    def _take_out(self, volume: Volume) -> Path:
        self._unmount(volume)
        # From here on it is removed: should we die before the row is gone, the mark tells whose it was.
        doomed = self._root / f"{_REMOVING}{_mark(volume.name)}-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            (self._root / volume.name).rename(doomed)
        with self._db.transaction() as tx:
            tx.execute("DELETE FROM volumes WHERE name = ?", (volume.name,))
            bounded = self._quotas.release("volumes", volume.name, tx)
        if bounded:
            self._quotas.sweep()
        del self._volumes[volume.name]
        self._mounting.pop(volume.name, None)
        self._users.pop(volume.name, None)
        self._events.publish("volume", "destroy", volume.name, {"driver": "local"})
        return doomed

    async def prune(self, select: Iterable[Volume]) -> tuple[list[str], int]:
        """Delete those of ``select`` that nobody uses: their names and the bytes they held."""
        names: list[str] = []
        reclaimed = 0
        for volume in list(select):
            if self.users(volume.name):
                continue
            size = await self.size(volume.name)
            try:
                await self.remove(volume.name)
            except (errors.Conflict, errors.NotFound):
                continue
            names.append(volume.name)
            reclaimed += size
        self._events.publish("volume", "prune", "", {"reclaimed": str(reclaimed)})
        return names, reclaimed

    def hold(self, name: str, user: str) -> None:
        """Note that container ``user`` names this volume. NotFound when it is gone."""
        self.get(name)
        self._users.setdefault(name, set()).add(user)

    def release(self, name: str, user: str) -> None:
        """Container ``user`` names this volume no longer."""
        users = self._users.get(name)
        if users:
            users.discard(user)
            if not users:
                del self._users[name]

    async def mount(self, name: str, user: str) -> Path:
        """The volume's content for a container that starts, mounted first if it has mount options.

        SystemFailure when the mount fails.
        """
        volume = self.get(name)
        path = self.path(name)
        if not _needs_mount(volume):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            return path
        async with self._mounting.setdefault(name, asyncio.Lock()):
            # What is mounted isn't looked at: its server may be down, and this is everybody's thread.
            if not self._mounted.get(name) and not mountinfo.is_mount_point(path):
                path.mkdir(mode=0o755, parents=True, exist_ok=True)
                await asyncio.to_thread(localdriver.mount, path, volume.options or {})
            self._mounted.setdefault(name, set()).add(user)
        return path

    def unmount(self, name: str, user: str) -> None:
        """The container has ended: unmount when it was the last one."""
        holders = self._mounted.get(name)
        if holders is None:
            return
        holders.discard(user)
        if not holders and name in self._volumes:
            self._unmount(self._volumes[name])

    def restore_mounts(self, running: dict[str, list[str]]) -> None:
        """After an engine restart: ``running`` maps volume names to the running containers that use them."""
        for name, volume in self._volumes.items():
            if not _needs_mount(volume):
                continue
            self._mounted[name] = set(running.get(name, ()))
            if not self._mounted[name]:
                self._unmount(volume)

    def _unmount(self, volume: Volume) -> None:
        self._mounted.pop(volume.name, None)
        if volume.options:
            localdriver.unmount(self.path(volume.name))

    def sweep(self) -> None:
        """Delete the content of removed volumes."""
        for leftover in self._root.glob(f"{_REMOVING}*"):
            shutil.rmtree(leftover, ignore_errors=True)


def _needs_mount(volume: Volume) -> bool:
    return any((volume.options or {}).get(name) for name in ("device", "type"))


def _mark(name: str) -> str:
    """A volume's name as part of a file's name of bounded length."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def check_name(name: str) -> None:
    """InvalidParameter in Docker's words for a name that isn't allowed."""
    if len(name) == 1:
        raise errors.InvalidParameter(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not _NAME.match(name) or len(name) > 255:
        raise errors.InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only "{_ALLOWED}" '
            "are allowed. If you intended to pass a host directory, use absolute path"
        )


def check_driver(name: str, driver: str) -> None:
    """NotFound for any driver but ``local``."""
    if driver not in ("", "local"):
        raise errors.NotFound(
            f'create {name}: error looking up volume plugin {driver}: plugin "{driver}" not found',
            hint="Only the local driver is built in.",
        )


def check_options(name: str, options: dict[str, str] | None) -> int:
    """Bytes that the volume's directory may hold, 0 for no bound.

    InvalidParameter for options that the local driver doesn't have, that are malformed or lack companions.
    """
    given = options or {}
    for option, value in given.items():
        if option not in _KNOWN:
            raise errors.InvalidParameter(f'create {name}: invalid option: "{option}"')
        if "\0" in value:
            raise errors.InvalidParameter(f"create {name}: option {option} contains a null character")
    try:
        size = parse_size(given.get("size", "0"))
    except ValueError as problem:
        raise errors.InvalidParameter(f"create {name}: {problem}") from None
    if size and given.get("type", "tmpfs") != "tmpfs":
        raise errors.InvalidParameter(
            f"create {name}: size is for directories and tmpfs, not for type {given['type']}"
        )
    for option in given:
        for needed in _NEEDS.get(option, ()):
            if needed not in given:
                raise errors.InvalidParameter(f'create {name}: missing required option: "{needed}"')
    return 0 if "type" in given else size


def directory_size(path: Path) -> int:
    """Bytes of all regular files below ``path``, hard links counted once, other file systems too."""
    total = 0
    seen: set[tuple[int, int]] = set()
    stack = [os.fspath(path)]
    while stack:
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                state = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if entry.is_dir(follow_symlinks=False):
                stack.append(entry.path)
            elif state.st_nlink == 1 or (state.st_dev, state.st_ino) not in seen:
                seen.add((state.st_dev, state.st_ino))
                total += state.st_size
    return total
