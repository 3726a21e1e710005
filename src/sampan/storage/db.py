"""The metadata of one data root: SQLite with a write-ahead log.

An acknowledged transaction survives the death of the process; on loss of power the file stays consistent
and may miss the last ones (synchronous=NORMAL), unless it is opened as ``durable``. One connection, one
lock: every thread may use it.

On a full disk the removal of containers and images must still work, and removing is writing, too: blocks for
the write-ahead log are reserved when the database is opened (:func:`_reserve`).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from sampan import errors
from sampan.kernel.reserve import reserve

_SCHEMA = "CREATE TABLE IF NOT EXISTS migrations (component TEXT PRIMARY KEY, version INTEGER NOT NULL)"


RESERVE = 4 << 20
"""Bytes kept for the write-ahead log: as much as it has grown to when SQLite writes it back by itself."""

Transaction: TypeAlias = sqlite3.Connection
"""What ``transaction()`` gives: execute() on it joins the transaction."""


class Database:
    """An open database. ``transaction()`` for writing, ``query()`` for reading."""

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._depth = 0
        try:
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._connection.execute("PRAGMA foreign_keys=ON")
            self._connection.execute(_SCHEMA)
            _reserve(Path(f"{path}-wal"))
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
                    f"{self.path} was written by a newer sampan ({component} {done})",
                    hint="Use that version or a later one.",
                )
            for statement in statements[done:]:
                tx.execute(statement)
            tx.execute("INSERT OR REPLACE INTO migrations VALUES (?, ?)", (component, len(statements)))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """A write transaction, rolled back on any exception; an inner one joins the outer one."""
        with self._lock:
            if self._depth == 0:
                self._connection.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield self._connection
                if self._depth == 1:
                    self._connection.execute("COMMIT")
            except BaseException as error:
                if self._depth == 1 and self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                    raise self._full() from error
                raise
            finally:
                self._depth -= 1

    def _full(self) -> errors.SystemFailure:
        return errors.SystemFailure(
            f"write {self.path}: no space left on device",
            hint="Free some space on that file system, e.g. by 'docker system prune'.",
        )

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a SELECT."""
        with self._lock:
            return self._connection.execute(statement, parameters).fetchall()

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """One writing statement, in the open transaction or one of its own; the number of rows it changed."""
        with self._lock:
            try:
                return self._connection.execute(statement, parameters).rowcount
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode == sqlite3.SQLITE_FULL and self._depth == 0:
                    raise self._full() from error
                raise

    def close(self) -> None:
        """Write the log back and close; further use raises sqlite3.ProgrammingError."""
        with self._lock:
            self._connection.close()


def _reserve(log: Path) -> None:
    """Set blocks aside for the log, where the file system can and there are any left."""
    with contextlib.suppress(OSError):
        file = os.open(log, os.O_RDWR | os.O_CLOEXEC)
        try:
            reserve(file, RESERVE)
        finally:
            os.close(file)
