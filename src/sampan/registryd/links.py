"""Which repository has what: manifests, tags, blobs, in SQLite. The content itself lies in the blob store."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from sampan import errors
from sampan.registryd.content import Page, Referrers
from sampan.registryd.documents import Pushed
from sampan.registryd.refusals import Refusal
from sampan.storage.db import Database, Transaction
from sampan.storage.digest import Digest

_SCHEMA = (
    "CREATE TABLE repositories (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
    """CREATE TABLE links (
        repository INTEGER NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, seen INTEGER NOT NULL,
        PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID""",
    "CREATE INDEX links_by_digest ON links (digest)",
    """CREATE TABLE manifests (
        repository INTEGER NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
        subject TEXT NOT NULL, artifact_type TEXT NOT NULL, annotations TEXT NOT NULL, seen INTEGER NOT NULL,
        PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID""",
    "CREATE INDEX manifests_by_digest ON manifests (digest)",
    "CREATE INDEX manifests_by_subject ON manifests (repository, subject, digest)",
    """CREATE TABLE tags (
        repository INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, updated INTEGER NOT NULL,
        PRIMARY KEY (repository, name)
    ) WITHOUT ROWID""",
    "CREATE INDEX tags_by_digest ON tags (repository, digest)",
    """CREATE TABLE needs (
        repository INTEGER NOT NULL, manifest TEXT NOT NULL, digest TEXT NOT NULL,
        PRIMARY KEY (repository, manifest, digest)
    ) WITHOUT ROWID""",
    "CREATE INDEX needs_by_digest ON needs (repository, digest)",
    # Numbers are never given again: who looked one up before its repository went finds nothing, no other's.
    "CREATE TABLE numbered (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE)",
    "INSERT INTO numbered SELECT id, name FROM repositories",
    "DROP TABLE repositories",
    "ALTER TABLE numbered RENAME TO repositories",
)
_ORPHANS = (
    "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM links WHERE digest = value) "
    "AND NOT EXISTS (SELECT 1 FROM manifests WHERE digest = value)"
)
_PAGE = 1000  # descriptors of one answer to a question for referrers
FRESHEN = 900  # seconds after which what a client asks for is noted as wanted again
_TURN = 0.005  # seconds for which a collection keeps those who push waiting
_T = TypeVar("_T")

_OLD = "m.seen < ?1"
_LOOSE = (
    f"{_OLD} "
    "AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.repository = m.repository AND t.digest = m.digest) "
    "AND NOT EXISTS (SELECT 1 FROM needs n WHERE n.repository = m.repository AND n.digest = m.digest) "
    "AND NOT EXISTS (SELECT 1 FROM manifests s WHERE m.subject != '' "
    "AND s.repository = m.repository AND s.digest = m.subject)"
)
_UNNEEDED = (
    "seen < ?1 AND NOT EXISTS "
    "(SELECT 1 FROM needs n WHERE n.repository = links.repository AND n.digest = links.digest)"
)
_EMPTY = (
    "NOT EXISTS (SELECT 1 FROM links l WHERE l.repository = repositories.id) "
    "AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.repository = repositories.id)"
)


class Links:
    """The register of one data directory. Every method may be called from any thread.

    ``reader`` is a connection of its own to the same file, so that pulls don't wait for the disk to take pushes;
    ``watcher`` is another one, so that they don't wait for a collection to look through everything.
    What a client asks for is noted again after ``freshen`` seconds.
    """

    def __init__(
        self,
        db: Database,
        reader: Database | None = None,
        watcher: Database | None = None,
        freshen: int = FRESHEN,
    ) -> None:
        self._db, self._reader, self._freshen = db, reader or db, freshen
        self._watcher = watcher or self._reader
        db.migrate("registry", _SCHEMA)

    def transaction(self) -> Any:
        """A write transaction that several changes, and renames of files, join."""
        return self._db.transaction()

    def repository(self, name: str) -> int:
        """The repository's number (NAME_UNKNOWN)."""
        rows = self._reader.query("SELECT id FROM repositories WHERE name = ?", (name,))
        if not rows:
            raise Refusal("NAME_UNKNOWN", "repository name not known to registry", detail={"name": name})
        return int(rows[0][0])

    def make(self, tx: Transaction, name: str) -> int:
        """The number of a repository that begins to exist when it didn't."""
        tx.execute("INSERT OR IGNORE INTO repositories (name) VALUES (?)", (name,))
        found: int = tx.execute("SELECT id FROM repositories WHERE name = ?", (name,)).fetchone()[0]
        return found

    # -- blobs ------------------------------------------------------------------------------------------

    def link(self, tx: Transaction, name: str, digest: Digest, size: int) -> None:
        """Let a repository have a blob."""
        row = (self.make(tx, name), digest, size, int(time.time()))
        tx.execute("INSERT OR REPLACE INTO links VALUES (?, ?, ?, ?)", row)

    def has_blob(self, name: str, digest: Digest) -> bool:
        """Whether a repository has a blob. Who asks may build on the answer: the blob counts as wanted."""
        number = self.repository(name)
        rows = self._reader.query(
            "SELECT seen FROM links WHERE repository = ? AND digest = ?", (number, digest)
        )
        if not rows:
            return self.has_manifest(name, digest)
        now = int(time.time())
        if now - rows[0][0] > self._freshen:
            statement = "UPDATE links SET seen = ? WHERE repository = ? AND digest = ?"
            return self._note(statement, (now, number, digest))
        return True

    def somewhere(self, digest: Digest) -> bool:
        """Whether any repository has the blob."""
        return bool(self._reader.query("SELECT 1 FROM links WHERE digest = ? LIMIT 1", (digest,)))

    def unlink(self, name: str, digest: Digest) -> bool:
        """Take a blob from a repository; False when it didn't have it."""
        number = self.repository(name)
        statement = "DELETE FROM links WHERE repository = ? AND digest = ?"
        return self._db.execute(statement, (number, digest)) > 0

    # -- manifests --------------------------------------------------------------------------------------

    def missing(self, name: str, digests: Iterable[Digest]) -> list[Digest]:
        """Those that the repository has neither as blobs nor as manifests."""
        try:
            number = self.repository(name)
        except Refusal:
            return list(digests)
        statement = (
            "SELECT 1 FROM links WHERE repository = ?1 AND digest = ?2 "
            "UNION SELECT 1 FROM manifests WHERE repository = ?1 AND digest = ?2"
        )
        return [digest for digest in digests if not self._reader.query(statement, (number, digest))]

    def put(self, tx: Transaction, name: str, digest: Digest, pushed: Pushed, tags: Iterable[str]) -> None:
        """Register a manifest whose bytes are in the store, and point tags to it."""
        number, now = self.make(tx, name), int(time.time())
        annotations = msgspec.json.encode(pushed.annotations).decode()
        row = (number, digest, pushed.media_type, len(pushed.raw), pushed.subject, pushed.artifact_type)
        tx.execute(
            "INSERT OR REPLACE INTO manifests VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, annotations, now)
        )
        needs = [(number, digest, one) for one in (*pushed.needs, *pushed.optional)]
        tx.executemany("INSERT OR IGNORE INTO needs VALUES (?, ?, ?)", needs)
        rows = [(number, tag, digest, now) for tag in tags]
        tx.executemany("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?)", rows)

    def by_tag(self, name: str, tag: str) -> tuple[Digest, str] | None:
        """Digest and media type of a tag's manifest (NAME_UNKNOWN)."""
        statement = (
            "SELECT m.digest, m.media_type FROM tags t JOIN manifests m "
            "ON m.repository = t.repository AND m.digest = t.digest WHERE t.repository = ? AND t.name = ?"
        )
        rows = self._reader.query(statement, (self.repository(name), tag))
        return (rows[0][0], rows[0][1]) if rows else None

    def by_digest(self, name: str, digest: Digest) -> tuple[Digest, str] | None:
        """The same of a manifest's digest (NAME_UNKNOWN)."""
        statement = "SELECT digest, media_type FROM manifests WHERE repository = ? AND digest = ?"
        rows = self._reader.query(statement, (self.repository(name), digest))
        return (rows[0][0], rows[0][1]) if rows else None

    def touch(self, name: str, digest: Digest) -> bool:
        """Note that somebody wants this manifest, unless that was noted a short while ago; whether it is there."""
        now = int(time.time())
        statement = "UPDATE manifests SET seen = ? WHERE repository = ? AND digest = ?"
        key = (self.repository(name), digest)
        rows = self._reader.query("SELECT seen FROM manifests WHERE repository = ? AND digest = ?", key)
        if rows and now - rows[0][0] > self._freshen:
            return self._note(statement, (now, *key))
        return bool(rows)

    def _note(self, statement: str, parameters: tuple[Any, ...]) -> bool:
        """Write down that something is wanted; False when a collection was faster, and it is gone.

        On a full disk reading goes on without.
        """
        try:
            return self._db.execute(statement, parameters) > 0
        except (errors.SystemFailure, sqlite3.OperationalError):
            return True

    def has_manifest(self, name: str, digest: Digest) -> bool:
        """Whether a repository has this manifest (NAME_UNKNOWN)."""
        return self.by_digest(name, digest) is not None

    def delete_manifest(self, name: str, digest: Digest) -> bool:
        """Remove a manifest and the tags that point to it; False when there is none."""
        number = self.repository(name)
        with self._db.transaction() as tx:
            return _forget(tx, number, digest)

    def delete_tag(self, name: str, tag: str) -> bool:
        """Remove a tag; its manifest stays. False when there is none."""
        number = self.repository(name)
        return self._db.execute("DELETE FROM tags WHERE repository = ? AND name = ?", (number, tag)) > 0

    # -- lists ------------------------------------------------------------------------------------------

    def tags(self, name: str, count: int | None, last: str) -> Page:
        """See ``content.Source``."""
        statement = "SELECT name FROM tags WHERE repository = ? AND name > ? ORDER BY name LIMIT ?"
        return self._page(statement, (self.repository(name), last), count)

    def repositories(self, count: int | None, last: str) -> Page:
        """See ``content.Source``."""
        return self._page(
            "SELECT name FROM repositories WHERE name > ? ORDER BY name LIMIT ?", (last,), count
        )

    def _page(self, statement: str, parameters: tuple[Any, ...], count: int | None) -> Page:
        limit = -1 if count is None else count + 1
        found = [row[0] for row in self._reader.query(statement, (*parameters, limit))]
        if count is None or len(found) <= count:
            return Page(found)
        return Page(found[:count], more=count > 0)

    def referrers(self, name: str, digest: Digest, kind: str, last: str) -> Referrers:
        """See ``content.Source``."""
        statement = (
            "SELECT digest, media_type, size, artifact_type, annotations FROM manifests WHERE repository = ? "
            "AND subject = ? AND digest > ? AND (? = '' OR artifact_type = ?) ORDER BY digest LIMIT ?"
        )
        number = self.repository(name)
        rows = self._reader.query(statement, (number, digest, last, kind, kind, _PAGE + 1))
        found = [_descriptor(row) for row in rows[:_PAGE]]
        return Referrers(found, found[-1]["digest"] if len(rows) > _PAGE else "")

    def usage(self) -> list[dict[str, Any]]:
        """See ``content.Source``."""
        return usage(self._reader)

    # -- collecting -------------------------------------------------------------------------------------

    def in_turns(self, things: Sequence[_T], work: Callable[[Transaction, _T], int]) -> int:
        """``work`` on each, in transactions so short, and with such pauses between them, that pushes go on.

        The sum of what it gives. It must look itself whether a thing still is as it was when it was listed.
        """
        count = at = 0
        while at < len(things):
            with self.transaction() as tx:
                begun = time.monotonic()
                while at < len(things) and time.monotonic() - begun < _TURN:
                    count += work(tx, things[at])
                    at += 1
            time.sleep(time.monotonic() - begun)
        return count

    def forget_untagged(self, before: int) -> int:
        """Forget manifests of before that moment that no tag, index or kept subject leads to; how many."""
        return self._forget_all(_LOOSE, before)

    def forget_unwanted(self, before: int) -> int:
        """Forget manifests that were last put or touched before that moment, tagged or not; how many."""
        return self._forget_all(_OLD, before)

    def _forget_all(self, condition: str, before: int) -> int:
        statement = f"SELECT m.repository, m.digest FROM manifests m WHERE {condition}"

        def forget(tx: Transaction, found: tuple[int, Digest]) -> bool:
            row = tx.execute(f"{statement} AND m.repository = ?2 AND m.digest = ?3", (before, *found))
            return row.fetchone() is not None and _forget(tx, *found)

        return self.in_turns(self._watcher.query(statement, (before,)), forget)

    def drop_unneeded(self, before: int) -> int:
        """Take from repositories the blobs that none of their manifests needs and nobody asked for since
        ``before`` (seconds since 1970); how many.
        """
        statement = f"SELECT repository, digest FROM links WHERE {_UNNEEDED}"

        def drop(tx: Transaction, found: tuple[int, Digest]) -> bool:
            deletion = f"DELETE FROM links WHERE {_UNNEEDED} AND repository = ?2 AND digest = ?3"
            return tx.execute(deletion, (before, *found)).rowcount > 0

        return self.in_turns(self._watcher.query(statement, (before,)), drop)

    def drop_empty(self) -> int:
        """Remove repositories that have nothing any more; how many."""

        def drop(tx: Transaction, found: tuple[int]) -> bool:
            deletion = f"DELETE FROM repositories WHERE id = ? AND {_EMPTY}"
            return tx.execute(deletion, found).rowcount > 0

        return self.in_turns(self._watcher.query(f"SELECT id FROM repositories WHERE {_EMPTY}"), drop)

    def orphans(self, digests: Sequence[Digest], tx: Transaction | None = None) -> list[Digest]:
        """Those (not many at a time) that no repository has, as blob or manifest, now or within a transaction."""
        listed = (msgspec.json.encode(digests).decode(),)
        rows = tx.execute(_ORPHANS, listed).fetchall() if tx else self._watcher.query(_ORPHANS, listed)
        return [row[0] for row in rows]


def usage(db: Database) -> list[dict[str, Any]]:
    """What each repository of the register takes, by name (``content.Source``)."""
    statement = (
        "WITH held AS (SELECT repository, digest, size FROM links "
        "UNION SELECT repository, digest, size FROM manifests), "
        "owners AS (SELECT digest, count(*) AS n FROM held GROUP BY digest) "
        "SELECT r.name, (SELECT count(*) FROM tags t WHERE t.repository = r.id), "
        "(SELECT count(*) FROM manifests m WHERE m.repository = r.id), count(h.digest), "
        "coalesce(sum(h.size), 0), coalesce(sum(CASE WHEN o.n = 1 THEN h.size ELSE 0 END), 0) "
        "FROM repositories r LEFT JOIN held h ON h.repository = r.id LEFT JOIN owners o "
        "ON o.digest = h.digest GROUP BY r.id ORDER BY r.name"
    )
    names = ("name", "tags", "manifests", "blobs", "size", "unshared")
    return [dict(zip(names, row, strict=True)) for row in db.query(statement)]


def _forget(tx: Transaction, number: int, digest: Digest) -> bool:
    key = (number, digest)
    tx.execute("DELETE FROM tags WHERE repository = ? AND digest = ?", key)
    tx.execute("DELETE FROM needs WHERE repository = ? AND manifest = ?", key)
    return tx.execute("DELETE FROM manifests WHERE repository = ? AND digest = ?", key).rowcount > 0


def _descriptor(row: tuple[Any, ...]) -> dict[str, Any]:
    digest, media_type, size, artifact_type, annotations = row
    found: dict[str, Any] = {"mediaType": media_type, "digest": digest, "size": size}
    if artifact_type:
        found["artifactType"] = artifact_type
    if annotations != "{}":
        found["annotations"] = msgspec.json.decode(annotations)
    return found
