"""The metadata of one data root: SQLite with a write-ahead log.

An acknowledged transaction survives the death of the process; on loss of power the file stays consistent
and may miss the last ones (synchronous=NORMAL). One connection, one lock: every thread may use it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from sampan import errors

_SCHEMA = "CREATE TABLE IF NOT EXISTS migrations (component TEXT PRIMARY KEY, version INTEGER NOT NULL)"


Transaction: TypeAlias = sqlite3.Connection
"""What ``transaction()`` gives: execute() on it joins the transaction."""


class Database:
    """An open database. ``transaction()`` for writing, ``query()`` for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._depth = 0
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("PRAGMA foreign_keys=ON")
            self._connection.execute(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise errors.SystemFailure(
                f"cannot open the database {path}: {error}",
                hint="Restore it from a copy, or start with another data root.",
            ) from error

    def migrate(self, component: str, statements: Sequence[str]) -> None:
        """Run those of ``statements`` that this database hasn't seen; only ever append to the list."""
        with self.transaction() as tx:
            row = tx.execute("SELECT version FROM migrations WHERE component = ?", (component,)).fetchone()
            done = row[0] if row else 0
            if done > len(statements):
                raise errors.SystemFailure(
                    f"the data root was written by a newer sampan ({component} {done})",
                    hint="Use that version or a later one.",
                )
            for statement in statements[done:]:
                tx.execute(statement)
            tx.execute("INSERT OR REPLACE INTO migrations VALUES (?, ?)", (component, len(statements)))

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A write transaction, rolled back on any exception; an inner one joins the outer one."""
        with self._lock:
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield self._connection
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._connection.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._connection.execute("COMMIT")

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT."""
        with self._lock:
            return self._connection.execute(statement, parameters).fetchall()

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """One writing statement in a transaction of its own; the number of rows it changed."""
        with self.transaction() as tx:
            return tx.execute(statement, parameters).rowcount

    def close(self) -> None:
        """Write the log back and close; further use raises sqlite3.ProgrammingError."""
        with self._lock:
            self._connection.close()
