"""Repositories of our own: what is pushed to this server, in a content store with a register of links."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sampan import errors
from sampan.images import manifest as documents
from sampan.registryd import names
from sampan.registryd.content import Blob, Document, Page, Referrers
from sampan.registryd.documents import Pushed
from sampan.registryd.documents import read as read_manifest
from sampan.registryd.links import FRESHEN, Links
from sampan.registryd.refusals import Refusal
from sampan.registryd.uploads import Open, Uploads, age
from sampan.storage import digest as digests
from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database, Transaction
from sampan.storage.digest import Digest

log = logging.getLogger("sampan.registry")

DATABASE = "registry.db"
UPLOAD_LIFE = 24 * 3600.0
GRACE = 24 * 3600.0
MIRRORED = 30 * 24 * 3600.0
_LOOK, _DROP = 200, 20  # blobs that a collection looks at, and puts aside, at a time


@dataclass(frozen=True)
class Lives:
    """Seconds: an upload without a new byte, a blob that no manifest needs, an untagged manifest (None: kept),
    and in a mirror what nobody asks for. Each begins anew when a client asks.
    """

    upload: float = UPLOAD_LIFE
    unneeded: float = GRACE
    untagged: float | None = None
    mirrored: float = MIRRORED

    @property
    def freshen(self) -> int:
        """How old a note may be that a client asked: whoever hears that something is here can build on it for
        half its life at least.
        """
        shortest = min(self.unneeded, self.mirrored, FRESHEN if self.untagged is None else self.untagged)
        return int(min(FRESHEN, shortest / 2))


@dataclass(frozen=True)
class Collected:
    """What a collection removed: how many uploads, manifests and blobs, and bytes of the blobs."""

    uploads: int = 0
    manifests: int = 0
    blobs: int = 0
    size: int = 0


class Repositories:
    """One data directory. Every method may be called from any thread, beside any other.

    A file gets its name among the blobs within the transaction that links it; a collection removes a file
    within a transaction that has seen it without links. So neither can fall between the other's steps.
    """

    def __init__(self, root: Path, lives: Lives | None = None) -> None:
        self.lives = lives or Lives()
        self.blobs = BlobStore(root)
        self.uploads = Uploads(root / "uploads")
        self._db = Database(root / DATABASE, durable=True)
        self._reader = Database(root / DATABASE)
        self._watcher = Database(root / DATABASE)
        self.links = Links(self._db, self._reader, self._watcher, self.lives.freshen)
        self._collecting = threading.Lock()

    def close(self) -> None:
        """Close the register."""
        self._watcher.close()
        self._reader.close()
        self._db.close()

    # -- reading ----------------------------------------------------------------------------------------

    def document(self, repository: str, reference: str) -> Document:
        """See ``content.Source``."""
        if digests.valid(reference):
            found = self.links.by_digest(repository, reference)
            if found and self.lives.untagged is not None and not self.links.touch(repository, reference):
                found = None
        else:
            found = self.links.by_tag(repository, names.tag(reference))
        if found is None:
            raise _unknown_manifest(repository, reference)
        digest, media_type = found
        try:
            return Document(self.blobs.read(digest, documents.LIMIT), media_type, digest)
        except errors.NotFound:  # collected since, or lost with the power: whoever pushes it again heals it
            raise _unknown_manifest(repository, reference) from None

    def blob(self, repository: str, digest: Digest) -> Blob:
        """See ``content.Source``. Manifests can be read as blobs, too."""
        if not self.links.has_blob(repository, digest):
            raise unknown_blob(digest)
        return self.open(digest)

    def open(self, digest: Digest) -> Blob:
        """A blob of the store, whoever has it (BLOB_UNKNOWN)."""
        try:
            descriptor = os.open(self.blobs.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise unknown_blob(digest) from None
        return Blob(digest, os.fstat(descriptor).st_size, descriptor)

    def tags(self, repository: str, count: int | None, last: str) -> Page:
        """See ``content.Source``."""
        return self.links.tags(repository, count, last)

    def repositories(self, count: int | None, last: str) -> Page:
        """See ``content.Source``."""
        return self.links.repositories(count, last)

    def referrers(self, repository: str, digest: Digest, kind: str, last: str) -> Referrers:
        """See ``content.Source``. A repository that nobody pushed to has none."""
        try:
            return self.links.referrers(repository, digest, kind, last)
        except Refusal:
            return Referrers()

    def usage(self) -> list[dict[str, Any]]:
        """See ``content.Source``."""
        return self.links.usage()

    # -- pushing ----------------------------------------------------------------------------------------

    def mount(self, repository: str, digest: Digest, source: str) -> bool:
        """Let a repository have a blob that another one (any one, for ``source`` "") has."""
        try:
            here = self.links.has_blob(source, digest) if source else self.links.somewhere(digest)
        except Refusal:
            return False
        if not here:
            return False
        with self.links.transaction() as tx:
            path = self.blobs.path(digest)
            if not path.exists():
                return False
            self.links.link(tx, repository, digest, path.stat().st_size)
        return True

    def finish(self, repository: str, opened: Open, digest: Digest) -> None:
        """Make a complete upload a blob of the repository (DIGEST_INVALID)."""
        opened.verify(digest)
        size = opened.offset
        with self.links.transaction() as tx:
            self.blobs.adopt(opened.path, digest)
            self.links.link(tx, repository, digest, size)
        self.blobs.sync_name(digest)  # after the commit: others need not wait for it
        opened.moved()

    def put(
        self, repository: str, reference: str, tags: Sequence[str], raw: bytes, declared: str
    ) -> tuple[Digest, Pushed]:
        """Store a manifest under a tag, or under its digest with any number of tags.

        MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN for what it needs and the repository doesn't have,
        DIGEST_INVALID.
        """
        pushed = read_manifest(raw, declared)
        if digests.valid(reference):
            return self.store(repository, pushed, tags, reference, complete=True), pushed
        return self.store(repository, pushed, [names.tag(reference)], complete=True), pushed

    def store(
        self,
        repository: str,
        pushed: Pushed,
        tags: Sequence[str],
        expected: Digest | None = None,
        *,
        complete: bool = False,
    ) -> Digest:
        """Store a manifest (DIGEST_INVALID), ``complete`` only when the repository has all that it needs."""
        try:
            with self.blobs.writer(expected) as writer:
                writer.write(pushed.raw)
                writer.sync()
                with self.links.transaction() as tx:
                    if complete:
                        self._check_needs(repository, pushed)
                    digest = writer.commit(durable=False).digest
                    self.links.put(tx, repository, digest, pushed, tags)
        except errors.InvalidParameter as error:
            raise Refusal("DIGEST_INVALID", error.message, detail=expected) from error
        self.blobs.sync_name(digest)
        return digest

    def _check_needs(self, repository: str, pushed: Pushed) -> None:
        missing = self.links.missing(repository, pushed.needs)
        if missing:
            raise Refusal(
                "MANIFEST_BLOB_UNKNOWN",
                "manifest references a manifest or blob unknown to registry",
                detail=[{"digest": digest} for digest in missing],
            )

    # -- removing ---------------------------------------------------------------------------------------

    def delete(self, repository: str, reference: str) -> None:
        """Remove a tag, or a manifest with all its tags (MANIFEST_UNKNOWN)."""
        if digests.valid(reference):
            gone = self.links.delete_manifest(repository, reference)
        else:
            gone = self.links.delete_tag(repository, names.tag(reference))
        if not gone:
            raise _unknown_manifest(repository, reference)

    def delete_blob(self, repository: str, digest: Digest) -> None:
        """Take a blob from the repository (BLOB_UNKNOWN)."""
        if not self.links.unlink(repository, digest):
            raise unknown_blob(digest)

    def collect(self) -> Collected:
        """Remove what nothing needs any more, beside whatever goes on."""
        with self._collecting:
            uploads = self.uploads.collect(age(self.lives.upload))
            manifests = self._forget_manifests()
            self.links.drop_unneeded(int(age(self.lives.unneeded)))
            self.links.drop_empty()
            blobs, size = self._sweep()
        return Collected(uploads, manifests, blobs, size)

    def _forget_manifests(self) -> int:
        """Forget untagged manifests, if that is wanted: those that an index leads to after the index."""
        count, life = 0, self.lives.untagged
        while life is not None and (found := self.links.forget_untagged(int(age(life)))):
            count += found
        return count

    def _sweep(self) -> tuple[int, int]:
        """Remove the blobs that no repository has; how many, and their bytes.

        Within a transaction they are only put aside: to free the blocks of a large one takes long.
        """
        aside: list[Path] = []

        def drop(tx: Transaction, some: Sequence[Digest]) -> int:
            gone = [self.blobs.set_aside(digest) for digest in self.links.orphans(some, tx)]
            aside.extend(path for path in gone if path is not None)
            return len(gone)

        here = self.blobs.digests()
        count = total = 0
        while some := list(itertools.islice(here, _LOOK)):
            found = self.links.orphans(some)
            try:
                count += self.links.in_turns(
                    [found[at : at + _DROP] for at in range(0, len(found), _DROP)], drop
                )
            finally:
                while aside:
                    path = aside.pop()
                    total += path.stat().st_size
                    path.unlink()
        return count, total


def unknown_blob(digest: Digest) -> Refusal:
    """The refusal for a blob that isn't here."""
    return Refusal("BLOB_UNKNOWN", "blob unknown to registry", detail={"digest": digest})


def _unknown_manifest(repository: str, reference: str) -> Refusal:
    detail = {"name": repository, "reference": reference}
    return Refusal("MANIFEST_UNKNOWN", "manifest unknown to registry", detail=detail)


class Collector:
    """Collects in a thread every ``interval`` seconds, and when it is told to."""

    def __init__(self, repositories: Repositories, interval: float) -> None:
        self._repositories, self._interval = repositories, interval
        self._wake = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)
        self._thread.start()

    def now(self) -> None:
        """Collect at once."""
        self._wake.set()

    def close(self) -> None:
        """Stop, after the collection that may be running."""
        self._ending.set()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._wake.wait(self._interval)
            self._wake.clear()
            if self._ending.is_set():
                return
            self._collect()

    def _collect(self) -> None:
        begun = time.monotonic()
        try:
            done = self._repositories.collect()
        except (errors.SampanError, OSError) as error:
            log.error("collecting failed: %s", error)
            return
        if done != Collected():
            log.info(
                "collected %d blobs (%d bytes), %d manifests, %d uploads in %.1f s",
                *(done.blobs, done.size, done.manifests, done.uploads, time.monotonic() - begun),
            )
