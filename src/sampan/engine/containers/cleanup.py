"""Clean-up that nobody waits for: done after the answer, from a queue that survives a crash.

A job is a row that is written in the same transaction as the deletion of what owned it. It says what to
remove: a directory or a cgroup. Jobs can be repeated safely.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sampan.storage.removal import remove_tree

if TYPE_CHECKING:
    import sqlite3

    from sampan.storage.db import Database

_SCHEMA = [
    "CREATE TABLE cleanup (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, argument TEXT NOT NULL)",
]
_GATHER = 0.1  # seconds
_END_PATIENCE = 0.5  # seconds that the engine's end waits for the present batch
_log = logging.getLogger(__name__)


class Cleaner:
    """Works the queue off, one batch after the other, in a thread."""

    def __init__(self, db: Database, kinds: Mapping[str, Callable[[str], None]]) -> None:
        self._db = db
        self._kinds = {"tree": remove_tree, **kinds}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._ending = False
        db.migrate("cleanup", _SCHEMA)

    def start(self) -> None:
        """Begin, with what a former engine left undone."""
        self._wake.set()
        self._task = asyncio.create_task(self._work(), name="cleanup")

    def add(self, tx: sqlite3.Connection, kind: str, argument: str) -> None:
        """Queue a job in the caller's transaction; call ``wake`` after it."""
        tx.execute("INSERT INTO cleanup (kind, argument) VALUES (?, ?)", (kind, argument))

    def pending(self, kind: str) -> list[str]:
        """The arguments of the jobs of one kind that are still to be done."""
        rows = self._db.query("SELECT argument FROM cleanup WHERE kind = ? ORDER BY id", (kind,))
        return [argument for (argument,) in rows]

    def wake(self) -> None:
        """There is work."""
        self._idle.clear()
        self._wake.set()

    async def drained(self) -> None:
        """Return when the queue is empty."""
        await self._idle.wait()

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            # One thread switch for all that has gathered; answers that are under way go first.
            await asyncio.sleep(_GATHER)
            last = 0
            while last := await asyncio.to_thread(self._batch, last):
                pass
            if not self._wake.is_set():
                self._idle.set()

    def _batch(self, last: int) -> int:
        """Try the next jobs behind the one with the id ``last``; the last one's id, 0 when there are no more."""
        query = "SELECT id, kind, argument FROM cleanup WHERE id > ? ORDER BY id LIMIT 100"
        with self._db.transaction() as tx:
            jobs = list(tx.execute(query, (last,)))
        done = [job for job, kind, argument in jobs if not self._ending and self._run(kind, argument)]
        if done:
            with self._db.transaction() as tx:
                tx.executemany("DELETE FROM cleanup WHERE id = ?", [(job,) for job in done])
        return jobs[-1][0] if jobs else 0

    def _run(self, kind: str, argument: str) -> bool:
        action = self._kinds.get(kind)
        if action is None:
            _log.warning("clean-up job of an unknown kind %r dropped", kind)
            return True
        try:
            action(argument)
        except OSError as problem:
            _log.warning("clean-up of %s %s: %s; tried again later", kind, argument, problem)
            return False
        except ValueError as problem:  # no file can have that name
            _log.warning("clean-up of %s %r dropped: %s", kind, argument, problem)
        except Exception:  # one job that can't be done must not hold up all others
            _log.exception("clean-up of %s %s", kind, argument)
            return False
        return True

    async def close(self) -> None:
        """Finish the present batch if that is soon done, and stop; the rest is done at the next start."""
        if self._task is not None:
            if not self._idle.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.drained(), _END_PATIENCE)
            self._ending = True
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
