"""Indexes that are kept: several images under one name, all of them here or only some.

The index is a blob, byte for byte as it came. Its images are images like others, also those of indexes within it.
What it holds beside them (attestations, other artifacts, indexes) are blobs that go with it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.image import Image
from sampan.images.manifest import Descriptor, Platform
from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database
from sampan.storage.digest import Digest
from sampan.storage.digest import of as digest_of

_DEEPEST = 64  # indexes within indexes, one in the other
_SCHEMA = ("CREATE TABLE indexes (digest TEXT PRIMARY KEY, blobs TEXT NOT NULL) WITHOUT ROWID",)


class Member(NamedTuple):
    """One manifest of an index. ``image`` is the id of the image that it is, whether that is here or not; ""
    when it is none or the manifest isn't here. ``blobs`` are what a manifest that is no image names.
    """

    entry: Descriptor
    image: Digest = ""
    blobs: tuple[Descriptor, ...] = ()


class Indexes:
    """The kept indexes of one image store, whose images (by id) they look at. Not locked: the store is."""

    def __init__(self, db: Database, blobs: BlobStore, images: Mapping[Digest, Image]) -> None:
        self._db, self._blobs, self._images = db, blobs, images
        self._kept: dict[Digest, set[Digest]] = {}
        self._members: dict[Digest, list[Member]] = {}
        self._nested: dict[Digest, list[Digest]] = {}
        self._present: dict[Digest, list[Digest]] = {}
        self._holders: dict[Digest, set[Digest]] | None = None
        db.migrate("indexes", _SCHEMA)

    def load(self, named: Collection[Digest]) -> None:
        """Read what is kept; of what no name stands for any more, the record is dropped."""
        for digest, blobs in self._db.query("SELECT digest, blobs FROM indexes"):
            if digest in named and self._blobs.has(digest):
                self._kept[digest] = set(msgspec.json.decode(blobs, type=list[str]))
            else:
                self._db.execute("DELETE FROM indexes WHERE digest = ?", (digest,))

    def __contains__(self, digest: object) -> bool:
        return digest in self._kept

    def keep(self, raw: bytes, blobs: Iterable[Digest] = ()) -> Digest:
        """Keep an index, and ``blobs`` that belong to it beside its images; its digest.

        It stays for as long as a name stands for it, which is to be given next, in the same operation.
        InvalidParameter for what is no index.
        """
        documents.parse_index(raw)
        digest = digest_of(raw)
        merged = self._kept.get(digest, set()) | {digest, *blobs}
        if merged == self._kept.get(digest) and self._blobs.touch(digest):
            return digest
        self._blobs.put(raw)
        row = (digest, msgspec.json.encode(sorted(merged)).decode())
        self._db.execute("INSERT OR REPLACE INTO indexes VALUES (?, ?)", row)
        self._kept[digest] = merged
        self._members.pop(digest, None)
        self.changed()
        return digest

    def changed(self, manifest: Digest = "") -> None:
        """Look again at which images are here: one came (with its ``manifest``) or went."""
        self._present, self._holders = {}, None
        for digest, members in list(self._members.items()):
            if any(member.entry.digest == manifest for member in members):
                del self._members[digest]

    def blobs(self, digest: Digest) -> set[Digest]:
        """What is to stay for an index, its images aside."""
        return self._kept.get(digest, set())

    def members(self, digest: Digest) -> list[Member]:
        """Every manifest of an index and of those within it, in their order; of an index within it that isn't
        here, that itself. None of one that was collected since no name stands for it.
        """
        known = self._members
        if digest not in known:
            nested: list[Digest] = []
            try:
                known[digest] = list(self._walk(digest, nested, {digest}))
            except errors.NotFound:
                self._kept.pop(digest, None)
                return []
            self._nested[digest] = nested
        return known[digest]

    def nested(self, digest: Digest) -> list[Digest]:
        """The indexes within an index that are here; each comes behind those within it."""
        self.members(digest)
        return self._nested.get(digest, [])

    def _walk(
        self, digest: Digest, nested: list[Digest], seen: set[Digest], depth: int = 0
    ) -> Iterator[Member]:
        for entry in documents.parse_index(self._blobs.read(digest, documents.LIMIT)).manifests:
            if entry.media_type not in documents.INDEXES:
                yield self._member(entry)
            elif depth == _DEEPEST or not self._blobs.has(entry.digest):
                yield Member(entry)
            elif entry.digest not in seen:
                seen.add(entry.digest)
                yield from self._walk(entry.digest, nested, seen, depth + 1)
                nested.append(entry.digest)

    def _member(self, entry: Descriptor) -> Member:
        try:
            manifest = documents.parse_manifest(self._blobs.read(entry.digest, documents.LIMIT))
        except errors.SampanError:
            return Member(entry)
        if documents.is_attestation(entry) or manifest.config.media_type not in documents.CONFIGS:
            return Member(entry, "", (manifest.config, *manifest.layers))
        return Member(entry, manifest.config.digest)

    def here(self, member: Member) -> bool:
        """Whether all that a member needs is here."""
        if member.image:
            image = self._images.get(member.image)
            return image is not None and member.entry.digest in image.blobs
        return bool(member.blobs) and all(self._blobs.has(blob.digest) for blob in member.blobs)

    def whole(self, digest: Digest) -> bool:
        """Whether everything of an index is here."""
        members = self.members(digest)
        return bool(members) and all(self.here(member) for member in members)

    def images(self, digest: Digest) -> list[Digest]:
        """Ids of an index's images that are here, in its order, each once."""
        known = self._present
        if digest not in known:
            found = [one.image for one in self.members(digest) if one.image and self.here(one)]
            known[digest] = list(dict.fromkeys(found))
        return known[digest]

    def manifest(self, digest: Digest, identity: Digest) -> Digest:
        """The manifest under which an index has one of its images (NotFound)."""
        return self._entry(digest, identity).digest

    def platform(self, digest: Digest, identity: Digest) -> Platform:
        """The platform for which an index has an image: as its entry says, else the image itself."""
        return self._entry(digest, identity).platform or self._images[identity].platform

    def _entry(self, digest: Digest, identity: Digest) -> Descriptor:
        for member in self.members(digest):
            if member.image == identity:
                return member.entry
        raise errors.NotFound(f"the index {digest} doesn't hold {identity}")

    def holding(self, identity: Digest) -> set[Digest]:
        """The indexes of which an image that is here is one."""
        holders = self._holders
        if holders is None:
            holders = {}
            for digest in list(self._kept):
                for one in self.images(digest):
                    holders.setdefault(one, set()).add(digest)
            self._holders = holders
        return holders.get(identity, set())

    def primary(self, digest: Digest) -> Digest:
        """The image that an index stands for where no platform is asked: this machine's, else its first one.

        "" when none is here.
        """
        found = self.images(digest)
        wanted = documents.best([self.platform(digest, one) for one in found], documents.host_platform())
        return found[wanted or 0] if found else ""
