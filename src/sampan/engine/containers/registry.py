"""All containers: in memory for reading, one SQLite row each for safety; lookup by id, name and prefix.

A row is ``making`` while its container is being created: found so after a crash, what it names is removed.
The row says everything that was to be made, so nothing half-made is left behind.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from sampan import errors
from sampan.engine.containers.record import Container

if TYPE_CHECKING:
    import sqlite3

    from sampan.storage.db import Database

_PREFIX = re.compile(r"[0-9a-f]{1,64}\Z")
_SCHEMA = [
    """CREATE TABLE containers (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, making INTEGER NOT NULL, record BLOB NOT NULL
    )""",
]


class Registry:
    """The containers of one engine. Only the event loop's thread changes it."""

    def __init__(self, db: Database) -> None:
        self._db = db
        db.migrate("containers", _SCHEMA)
        self._by_id: dict[str, Container] = {}
        self._names: dict[str, str] = {}
        self._making: dict[str, Container] = {}
        self._load()

    def _load(self) -> None:
        decoder = msgspec.json.Decoder(Container)
        with self._db.transaction() as tx:
            rows = list(tx.execute("SELECT making, record FROM containers ORDER BY rowid"))
        for making, record in rows:
            container = decoder.decode(record)
            self._names[container.name] = container.id
            (self._making if making else self._by_id)[container.id] = container

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, identity: str) -> bool:
        return identity in self._by_id

    def unfinished(self) -> list[Container]:
        """Containers whose creation a crash interrupted."""
        return list(self._making.values())

    def get(self, reference: str) -> Container:
        """The container with this id, name (a leading slash is fine) or unique id prefix.

        NotFound "No such container: …"; InvalidParameter when the prefix fits several.
        """
        if not reference.strip("/"):
            raise errors.InvalidParameter(f'invalid name or ID supplied: "{reference}"')
        found = self._by_id.get(reference)
        if found is None:
            found = self._by_id.get(self._names.get(reference.removeprefix("/"), ""))
        if found is None and _PREFIX.match(reference):
            found = self._by_prefix(reference)
        if found is None:
            raise errors.NotFound(f"No such container: {reference}")
        return found

    def _by_prefix(self, prefix: str) -> Container | None:
        matches = [identity for identity in self._by_id if identity.startswith(prefix)]
        if len(matches) > 1:
            raise errors.InvalidParameter(
                f"multiple IDs found with provided prefix: {prefix}", hint="Give more digits, or the name."
            )
        return self._by_id[matches[0]] if matches else None

    def taken(self, name: str) -> bool:
        """Whether a container (one being created too) has this name."""
        return name in self._names

    def begin(self, container: Container) -> None:
        """Reserve the name and note that ``container`` is being made. Conflict when the name is taken."""
        self.check_free(container.name)
        self._insert(container, making=True)
        self._making[container.id] = container

    def add(self, container: Container) -> None:
        """Store a container that is made and needs nothing more. Conflict when the name is taken."""
        self.check_free(container.name)
        self._insert(container, making=False)
        self._by_id[container.id] = container

    def _insert(self, container: Container, *, making: bool) -> None:
        self._db.execute(
            "INSERT INTO containers (id, name, making, record) VALUES (?, ?, ?, ?)",
            (container.id, container.name, making, msgspec.json.encode(container)),
        )
        self._names[container.name] = container.id

    def check_free(self, name: str) -> None:
        """Conflict in Docker's words when a container has this name."""
        holder = self._names.get(name)
        if holder is not None:
            raise errors.Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{holder}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )

    def finish(self, container: Container) -> None:
        """The container is made: from now on it is seen."""
        self._write(container)
        del self._making[container.id]
        self._by_id[container.id] = container

    def save(self, container: Container) -> None:
        """Store what changed."""
        if container.id in self._by_id:
            self._write(container)

    def _write(self, container: Container) -> None:
        self._db.execute(
            "UPDATE containers SET making = 0, name = ?, record = ? WHERE id = ?",
            (container.name, msgspec.json.encode(container), container.id),
        )

    def rename(self, container: Container, name: str) -> None:
        """Give the container another, free name. Conflict when it is taken."""
        self.check_free(name)
        old, container.name = container.name, name
        self._write(container)
        del self._names[old]
        self._names[name] = container.id

    def forget(self, container: Container, tx: sqlite3.Connection) -> None:
        """Delete the row in the caller's transaction; call ``drop`` once that is committed."""
        tx.execute("DELETE FROM containers WHERE id = ?", (container.id,))

    def drop(self, container: Container) -> None:
        """Take the container out of memory, freeing its name."""
        self._by_id.pop(container.id, None)
        self._making.pop(container.id, None)
        if self._names.get(container.name) == container.id:
            del self._names[container.name]


def new_id() -> str:
    """A random id of 64 hex digits; the first twelve, the hostname, are never all decimal."""
    while True:
        identity = secrets.token_hex(32)
        if not identity[:12].isdecimal():
            return identity
