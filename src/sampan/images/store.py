"""Images: names over content. An image's id is the digest of its configuration.

The configuration and manifest are blobs, the files are layers; the database holds names, digests under which
registries know an image, parents, and which blobs an image needs. All of it is also kept in memory: lists and
look-ups touch no disk.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable
from typing import Any

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.image import Image as Image
from sampan.images.indexes import Indexes
from sampan.images.manifest import Descriptor, Platform
from sampan.images.reference import Reference
from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database, Transaction
from sampan.storage.digest import Digest
from sampan.storage.digest import of as digest_of
from sampan.storage.gc import Reachable
from sampan.storage.layers import LayerStore, chain_ids

_SCHEMA = (
    """CREATE TABLE images (
        id TEXT PRIMARY KEY, manifest TEXT NOT NULL, size INTEGER NOT NULL, parent TEXT NOT NULL,
        added_ns INTEGER NOT NULL, tagged_ns INTEGER NOT NULL, blobs TEXT NOT NULL
    ) WITHOUT ROWID""",
    "CREATE TABLE tags (name TEXT PRIMARY KEY, image TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE digests (name TEXT PRIMARY KEY, image TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE layer_blobs (diff_id TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, "
    "media_type TEXT NOT NULL, PRIMARY KEY (diff_id, digest)) WITHOUT ROWID",
    "CREATE TABLE targets (name TEXT PRIMARY KEY, digest TEXT NOT NULL) WITHOUT ROWID",
)
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")


class ImageStore:
    """The images of one data root. Every method may be called from any thread."""

    def __init__(self, db: Database, blobs: BlobStore, layers: LayerStore) -> None:
        self.db, self.blobs, self.layers = db, blobs, layers
        self._lock = threading.RLock()
        self._images: dict[Digest, Image] = {}
        self._tags: dict[str, Digest] = {}
        self._digests: dict[str, Digest] = {}
        self._targets: dict[str, Digest] = {}
        db.migrate("images", _SCHEMA)
        self.indexes = Indexes(db, blobs, self._images)
        self._load()

    def _load(self) -> None:
        rows = self.db.query("SELECT id, manifest, size, parent, added_ns, tagged_ns, blobs FROM images")
        for identity, manifest, size, parent, added, tagged, blobs in rows:
            document = documents.parse_config(self.blobs.read(identity))
            layers = chain_ids(documents.diff_ids(document))
            needed = msgspec.json.decode(blobs, type=list[str])
            self._images[identity] = Image(
                identity, document, manifest, layers, size, parent, added, tagged, needed
            )
        self._tags = dict(self.db.query("SELECT name, image FROM tags"))
        self._digests = dict(self.db.query("SELECT name, image FROM digests"))
        self._targets = dict(self.db.query("SELECT name, digest FROM targets"))
        self.indexes.load(set(self._targets.values()))

    # -- looking ----------------------------------------------------------------------------------------

    def get(self, reference: str, platform: Platform | None = None, shown: str = "") -> Image:
        """The image with this name, digest, id or unique beginning of an id.

        Of an index it is this machine's image, if that is here, or the one for ``platform``. NotFound "No such
        image: x:latest", also for an ambiguous beginning, and when there is none for the platform (of ``shown``,
        in that message); InvalidParameter for what can't be a name.
        """
        found, index = self._resolve(reference)
        if found is None:
            raise errors.NotFound(f"No such image: {_shown(reference)}", hint=_hint(reference))
        if platform is None:
            return found
        chosen = self.variant(found, index, platform)
        if chosen is None:
            raise self.not_for(shown or reference, platform, found, index)
        return chosen

    def variant(self, image: Image, index: Digest, platform: Platform) -> Image | None:
        """Of the images that :meth:`variants` gives the one that serves a platform best, None for none."""
        variants = self.variants(image, index)
        fitting = documents.best([self._platform(one, index) for one in variants], platform)
        return None if fitting is None else variants[fitting]

    def _platform(self, image: Image, index: Digest) -> Platform:
        return self.indexes.platform(index, image.id) if index else image.platform

    def not_for(self, reference: str, platform: Platform, image: Image, index: Digest) -> errors.NotFound:
        """No image for a platform among those that are here, in dockerd's words."""
        here = [str(self._platform(one, index)) for one in self.variants(image, index)]
        return errors.NotFound(
            f"image with reference {reference} was found but does not provide the specified platform ({platform})",
            hint=f"Here it is for {', '.join(here)}.",
        )

    def find(self, reference: str) -> Image | None:
        """The same, None when there is none (InvalidParameter for what can't be a name)."""
        return self._resolve(reference)[0]

    def _resolve(self, reference: str) -> tuple[Image | None, Digest]:
        """An image, and the index that ``reference`` stands for ("" for none)."""
        match = _ID.fullmatch(reference)
        with self._lock:
            if match and len(match[1]) == 64:
                return self._by_digest("sha256:" + match[1])
            try:
                name = Reference.parse(reference)
            except errors.InvalidParameter:
                if match is None:
                    raise
                return self._by_prefix(match[1]), ""
            found = self.by_reference(name)
            if found is None and match:
                return self._by_prefix(match[1]), ""
            return found, self.target(name)

    def _by_digest(self, digest: Digest) -> tuple[Image | None, Digest]:
        """By an image's id, or by the digest of its manifest or of an index that is named here."""
        if digest in self._images:
            return self._images[digest], ""
        if digest in self._targets.values():
            primary = self.indexes.primary(digest)
            return (self._images[primary] if primary else None), digest
        found = [image for image in self._images.values() if image.manifest == digest]
        return (found[0] if found else None), ""

    def by_reference(self, name: Reference) -> Image | None:
        """The image of a tag or digest."""
        with self._lock:
            if name.digest:
                identity = self._digests.get(f"{name.name}@{name.digest}")
            else:
                identity = self._tags.get(name.with_default_tag().canonical)
            return self._images.get(identity) if identity else None

    def target(self, name: Reference) -> Digest:
        """The digest of the index that a tag or digest stands for, "" when it is one image's."""
        if name.digest:
            return self._index_of(f"{name.name}@{name.digest}")
        return self._index_of(name.with_default_tag().canonical)

    def target_of(self, reference: str) -> Digest:
        """The same for anything that ``get`` understands."""
        return self._resolve(reference)[1]

    def _index_of(self, key: str) -> Digest:
        return self._targets.get(key, "")

    def variants(self, image: Image, index: Digest = "") -> Images:
        """The images for all platforms that are here under one name: those of ``index``, without it those of
        every index that a name of ``image`` stands for; ``image`` comes first.
        """
        with self._lock:
            known = [key for names in (self._tags, self._digests) for key in names if names[key] == image.id]
            indexes = [index] if index else sorted({self._index_of(key) for key in known} - {""})
            found = {image.id: image}
            for digest in indexes:
                found |= {one: self._images[one] for one in self.indexes.images(digest)}
        return list(found.values())

    def rows(self) -> Images:
        """The images that stand for their names: all but those that an index holds beside its first one."""
        with self._lock:
            named = {*self._tags.values(), *self._digests.values()}
            held = {one for digest in set(self._targets.values()) for one in self.indexes.images(digest)}
            return [image for image in self.list() if image.id in named or image.id not in held]

    def row_of(self, image: Image) -> Image:
        """The one of :meth:`rows` under which an image is listed: itself, or the first of its index."""
        with self._lock:
            held = self.indexes.holding(image.id) & set(self._targets.values())
            if not held or self._is_named(image.id):
                return image
            return self._images[self.indexes.primary(min(held))]

    def _by_prefix(self, beginning: str) -> Image | None:
        found = [image for key, image in self._images.items() if key.startswith("sha256:" + beginning)]
        return found[0] if len(found) == 1 else None

    def by_id(self, identity: Digest) -> Image | None:
        """The image with this very id."""
        return self._images.get(identity)

    def list(self) -> Images:
        """All images, newest first."""
        with self._lock:
            return sorted(self._images.values(), key=lambda image: image.created_ns, reverse=True)

    def references(self) -> dict[str, Digest]:
        """Every tag in full (``docker.io/library/busybox:latest``) and its image's id."""
        with self._lock:
            return dict(self._tags)

    def tags(self, identity: Digest) -> Names:
        """Tags of an image as people write them, sorted; those of its indexes when none is its own."""
        return self._names(self._tags, identity)

    def digests(self, identity: Digest) -> Names:
        """``repository@digest`` under which registries know the image or its index, sorted."""
        return self._names(self._digests, identity)

    def _names(self, names: dict[str, Digest], identity: Digest) -> Names:
        with self._lock:
            found = [key for key, image in names.items() if image == identity]
            held = self.indexes.holding(identity)
            if not found and held and not self._is_named(identity):
                found = [key for key in names if self._index_of(key) in held]
        return sorted(Reference.parse(name).familiar for name in found)

    def _is_named(self, identity: Digest) -> bool:
        return identity in self._tags.values() or identity in self._digests.values()

    def repository(self, name: Reference) -> Names:
        """The tags (only the part behind the colon) that a repository has here, sorted."""
        with self._lock:
            prefix = name.name + ":"
            return sorted(key[len(prefix) :] for key in self._tags if key.startswith(prefix))

    def children(self, identity: Digest) -> Names:
        """Ids of images that were made from this one by the classic builder or commit."""
        with self._lock:
            return [image.id for image in self._images.values() if image.parent == identity]

    def manifest(self, image: Image) -> bytes:
        """The image's manifest, the bytes it came with."""
        return self.blobs.read(image.manifest, documents.LIMIT)

    def layer_blob(self, diff_id: Digest) -> Descriptor | None:
        """A blob here that holds this layer, as it was pulled, loaded or pushed."""
        for digest, size, media_type in self.layer_blobs(diff_id):
            if self.blobs.has(digest):
                return Descriptor(media_type, digest, size)
        return None

    def layer_blobs(self, diff_id: Digest) -> Rows:
        """(digest, size, media type) of every form of the layer that was ever seen, here or not."""
        return self.db.query("SELECT digest, size, media_type FROM layer_blobs WHERE diff_id = ?", (diff_id,))

    def diff_id_of(self, digest: Digest) -> Digest | None:
        """The layer that a compressed blob holds, when that is known."""
        rows = self.db.query("SELECT diff_id FROM layer_blobs WHERE digest = ?", (digest,))
        return rows[0][0] if rows else None

    def remember_blob(self, diff_id: Digest, blob: Descriptor) -> None:
        """Note that ``blob`` is a form of the layer ``diff_id``; only after checking that it is."""
        self.db.execute(
            "INSERT OR IGNORE INTO layer_blobs VALUES (?, ?, ?, ?)",
            (diff_id, blob.digest, blob.size, blob.media_type),
        )

    # -- changing ---------------------------------------------------------------------------------------

    def add(
        self,
        config: bytes,
        layers: Iterable[Digest] | None = None,
        *,
        manifest: bytes | None = None,
        parent: Digest = "",
        keep: Iterable[Digest] = (),
    ) -> Image:
        """Add an image whose layers are here, or give the one that is here already.

        ``layers`` (chain ids) must be those of ``config``. Without ``manifest`` one is written. ``keep``
        names further blobs that belong to the image: the index it was taken from.
        """
        document = documents.parse_config(config)
        chain = chain_ids(documents.diff_ids(document))
        if layers is not None and list(layers) != chain:
            raise errors.InvalidParameter("the layers aren't those of the image's configuration")
        size = sum(self.layers.get(layer).size for layer in chain)
        identity = digest_of(config)
        known = self._images.get(identity)
        if known is not None and manifest is None:
            return known
        # The blobs are written before the row that needs them; a crash between leaves only garbage.
        self.blobs.put(config, identity)
        raw = manifest or self._write_manifest(identity, len(config), chain)
        written = self.blobs.put(raw)
        pointers = documents.parse_manifest(raw)
        needed = [identity, written.digest, *(layer.digest for layer in pointers.layers), *keep]
        with self._lock:
            known = self._images.get(identity)
            now = time.time_ns()
            image = Image(
                identity,
                document,
                written.digest,
                chain,
                size,
                parent or (known.parent if known else ""),
                known.added_ns if known else now,
                known.tagged_ns if known else 0,
                sorted({*needed, *(known.blobs if known else ())}),
            )
            self._store(image)
            self._images[identity] = image
            self.indexes.changed(image.manifest)
        return image

    def _store(self, image: Image) -> None:
        row = (image.id, image.manifest, image.size, image.parent, image.added_ns, image.tagged_ns)
        blobs = msgspec.json.encode(image.blobs).decode()
        self.db.execute("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, blobs))

    def _write_manifest(self, identity: Digest, size: int, chain: Names) -> bytes:
        """A manifest whose layers are the blobs that are here, else the plain archives."""
        layers = []
        for name in chain:
            layer = self.layers.get(name)
            plain = Descriptor(documents.OCI_LAYER, layer.diff_id, layer.tar_size)
            layers.append(self.layer_blob(layer.diff_id) or plain)
        return documents.encode_manifest(Descriptor(documents.OCI_CONFIG, identity, size), layers)

    def tag(self, reference: Reference | str, identity: Digest, *, index: Digest = "") -> Digest | None:
        """Point a tag to an image; the id it pointed to before, None when it is new.

        With ``index`` (kept before) the tag stands for the index, of which ``identity`` is one of the images.
        InvalidParameter for a name with a digest, NotFound when there is no such image.
        """
        name = Reference.parse(reference) if isinstance(reference, str) else reference.with_default_tag()
        if name.digest:
            raise errors.InvalidParameter("refusing to create a tag with a digest reference")
        with self._lock:
            identity = (index and self.indexes.primary(index)) or identity
            image = self._images.get(identity)
            if image is None:
                raise errors.NotFound(f"No such image: {identity}")
            key = name.canonical
            before = self._tags.get(key), self._targets.get(key, "")
            image.tagged_ns = time.time_ns()
            with self.db.transaction() as tx:
                tx.execute("INSERT OR REPLACE INTO tags VALUES (?, ?)", (key, identity))
                tx.execute("DELETE FROM targets WHERE name = ?", (key,))
                if index:
                    tx.execute("INSERT INTO targets VALUES (?, ?)", (key, index))
                tx.execute("UPDATE images SET tagged_ns = ? WHERE id = ?", (image.tagged_ns, identity))
                self._tags[key] = identity
                self._targets.pop(key, None)
                if index:
                    self._targets[key] = index
                    self._repoint(tx, index)
            if before != (identity, index):
                self._write_index()
        return before[0]

    def add_digest(self, name: Reference, digest: Digest, identity: Digest) -> None:
        """Note that the registry of ``name`` knows the image under ``digest`` (of manifest or index)."""
        key = f"{name.name}@{digest}"
        with self._lock, self.db.transaction() as tx:
            if digest in self.indexes:
                identity = self.indexes.primary(digest) or identity
                tx.execute("INSERT OR REPLACE INTO targets VALUES (?, ?)", (key, digest))
                self._targets[key] = digest
                self._repoint(tx, digest)
            tx.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (key, identity))
            self._digests[key] = identity

    def _repoint(self, tx: Transaction, index: Digest) -> None:
        """Let every name of an index stand for the image that is its first one now."""
        primary = self.indexes.primary(index)
        for key in [name for name, target in self._targets.items() if target == index and primary]:
            table, names = ("digests", self._digests) if "@" in key else ("tags", self._tags)
            if names.get(key, primary) != primary:
                tx.execute(f"UPDATE {table} SET image = ? WHERE name = ?", (primary, key))
                names[key] = primary

    def untag(self, reference: Reference | str) -> Names:
        """Remove a tag or digest; what was removed, as people write it (NotFound).

        With the last tag of a repository its digests of that image go too, as Docker does.
        """
        name = Reference.parse(reference) if isinstance(reference, str) else reference.with_default_tag()
        with self._lock:
            image = self.by_reference(name)
            if image is None:
                raise errors.NotFound(f"No such image: {name.familiar}")
            gone = [f"{name.name}@{name.digest}" if name.digest else name.canonical]
            if not name.digest and not self._other_tags(name, image.id):
                prefix = name.name + "@"
                gone += [k for k, v in self._digests.items() if v == image.id and k.startswith(prefix)]
            self._remove_names(gone)
        return [Reference.parse(key).familiar for key in gone]

    def _other_tags(self, name: Reference, identity: Digest) -> bool:
        prefix = name.name + ":"
        return any(
            value == identity and key.startswith(prefix) and key != name.canonical
            for key, value in self._tags.items()
        )

    def _remove_names(self, names: Names) -> None:
        with self.db.transaction() as tx:
            for name in names:
                tx.execute("DELETE FROM tags WHERE name = ?", (name,))
                tx.execute("DELETE FROM digests WHERE name = ?", (name,))
                tx.execute("DELETE FROM targets WHERE name = ?", (name,))
        for name in names:
            for known in (self._tags, self._digests, self._targets):
                known.pop(name, None)
        self._write_index()

    def delete(self, identity: Digest) -> Names:
        """Remove an image and its names, those that went with it. A name of an index with images left keeps them.

        Layers and blobs go with the next collection.
        """
        with self._lock:
            known = [key for names in (self._tags, self._digests) for key in names if names[key] == identity]
            image = self._images.pop(identity, None)
            self.indexes.changed()
            try:
                with self.db.transaction() as tx:
                    tx.execute("DELETE FROM images WHERE id = ?", (identity,))
                    indexes = {key: self._index_of(key) for key in known}
                    gone = [key for key in known if not (indexes[key] and self.indexes.images(indexes[key]))]
                    self._remove_names(gone)
                    for index in set(indexes.values()) - {""}:
                        self._repoint(tx, index)
            except BaseException:
                if image is not None:
                    self._images[identity] = image
                    self.indexes.changed()
                raise
        return [Reference.parse(name).familiar for name in gone]

    def reachable(self) -> Reachable:
        """What the images need, for ``Leases.add_roots``."""
        with self._lock:
            images = list(self._images.values())
            indexes = set(self._targets.values())
        layers = {image.layers[-1] for image in images if image.layers}
        blobs = {digest for image in images for digest in image.blobs}
        return Reachable(layers, blobs.union(*(self.indexes.blobs(digest) for digest in indexes)))

    def _write_index(self) -> None:
        """Keep the data root's index.json true: other tools read the store as an OCI layout."""
        entries: list[dict[str, object]] = []
        for name, identity in sorted(self._tags.items()):
            index = self._index_of(name)
            if index and self.indexes.whole(index):
                entries.append(index_entry(index, self.blobs.read(index, documents.LIMIT), name))
            elif (image := self._images.get(identity)) is not None:
                entries.append(index_entry(image.manifest, self.manifest(image), name, image.platform))
        self.blobs.write_index(entries)


Images = list[Image]
Names = list[str]
Rows = list[tuple[Any, ...]]


def index_entry(
    digest: Digest, raw: bytes, name: str = "", platform: Platform | None = None
) -> dict[str, object]:
    """The descriptor of a manifest or index in an index.json, with a tag in full as annotations."""
    entry: dict[str, object] = {
        "mediaType": documents.media_type_of(raw),
        "digest": digest,
        "size": len(raw),
    }
    if name:
        reference = Reference.parse(name)
        entry["annotations"] = {
            "io.containerd.image.name": reference.canonical,
            "org.opencontainers.image.ref.name": reference.tag,
        }
    if platform is not None:
        entry["platform"] = msgspec.to_builtins(platform)
    return entry


def _shown(reference: str) -> str:
    """A name as Docker's message has it: familiar, with its tag."""
    try:
        return Reference.parse(reference).familiar
    except errors.InvalidParameter:
        return reference


def _hint(reference: str) -> str:
    return f"docker pull {reference} fetches it." if not _ID.fullmatch(reference) else ""
