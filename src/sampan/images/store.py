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
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Descriptor
from sampan.images.reference import Reference
from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database
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
)
_ID = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)")
_ZERO_TIME = -62135596800  # year 1, Go's zero time


@dataclass
class Image:
    """One image. ``layers`` are chain ids, bottom first; ``size`` bytes of file content of all layers."""

    id: Digest
    document: dict[str, Any]
    manifest: Digest
    layers: list[Digest]
    size: int
    parent: Digest | str = ""
    added_ns: int = 0
    tagged_ns: int = 0
    blobs: list[Digest] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        """The ``config`` object: what its containers run; Docker's names."""
        found = self.document.get("config")
        return found if isinstance(found, dict) else {}

    @property
    def diff_ids(self) -> list[Digest]:
        """Digests of the uncompressed layers, bottom first."""
        return documents.diff_ids(self.document)

    @property
    def chain(self) -> Digest | None:
        """The topmost layer, None for an image without files."""
        return self.layers[-1] if self.layers else None

    @property
    def os(self) -> str:
        """The operating system, ``linux`` when it says none."""
        return str(self.document.get("os") or "linux")

    @property
    def architecture(self) -> str:
        """The architecture in Go's names."""
        return str(self.document.get("architecture") or "")

    @property
    def variant(self) -> str:
        """The architecture's variant or ""."""
        return str(self.document.get("variant") or "")

    @property
    def platform(self) -> documents.Platform:
        """All three."""
        return documents.Platform(self.architecture, self.os, self.variant)

    @property
    def created(self) -> str:
        """When it was made, as its document says (RFC 3339), "" when it doesn't."""
        return str(self.document.get("created") or "")

    @property
    def created_ns(self) -> int:
        """The same in nanoseconds since 1970."""
        return parse_time(self.created)

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its configuration."""
        found = self.config.get("Labels")
        return found if isinstance(found, dict) else {}

    @property
    def history(self) -> list[dict[str, Any]]:
        """How it was made, oldest step first."""
        return [step for step in self.document.get("history") or [] if isinstance(step, dict)]


class HistoryStep(NamedTuple):
    """One line of ``docker history``; ``size`` in bytes."""

    image_id: str
    created_ns: int
    created_by: str
    comment: str
    size: int
    tags: list[str]


def parse_time(text: str) -> int:
    """RFC 3339 with up to nine fraction digits, in nanoseconds since 1970; Go's zero time when malformed."""
    match = _TIME.fullmatch(text)
    if match is None:
        return _ZERO_TIME * 1_000_000_000
    zone = "+00:00" if match[3] == "Z" else match[3]
    try:
        seconds = int(datetime.fromisoformat(match[1] + zone).timestamp())
    except ValueError:
        return _ZERO_TIME * 1_000_000_000
    return seconds * 1_000_000_000 + int((match[2] or "0").ljust(9, "0"))


class ImageStore:
    """The images of one data root. Every method may be called from any thread."""

    def __init__(self, db: Database, blobs: BlobStore, layers: LayerStore) -> None:
        self.db, self.blobs, self.layers = db, blobs, layers
        self._lock = threading.RLock()
        self._images: dict[Digest, Image] = {}
        self._tags: dict[str, Digest] = {}
        self._digests: dict[str, Digest] = {}
        db.migrate("images", _SCHEMA)
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

    # -- looking ----------------------------------------------------------------------------------------

    def get(self, reference: str) -> Image:
        """The image with this name, digest, id or unique beginning of an id.

        NotFound "No such image: x:latest", also for an ambiguous beginning; InvalidParameter for what can't
        be a name.
        """
        with self._lock:
            found = self.find(reference)
        if found is not None:
            return found
        raise errors.NotFound(f"No such image: {_shown(reference)}", hint=_hint(reference))

    def find(self, reference: str) -> Image | None:
        """The same, None when there is none (InvalidParameter for what can't be a name)."""
        match = _ID.fullmatch(reference)
        if match and len(match[1]) == 64:
            return self._images.get("sha256:" + match[1])
        with self._lock:
            try:
                name = Reference.parse(reference)
            except errors.InvalidParameter:
                if match is None:
                    raise
                return self._by_prefix(match[1])
            found = self.by_reference(name)
            if found is None and match:
                found = self._by_prefix(match[1])
            return found

    def by_reference(self, name: Reference) -> Image | None:
        """The image of a tag or digest."""
        with self._lock:
            if name.digest:
                identity = self._digests.get(f"{name.name}@{name.digest}")
            else:
                identity = self._tags.get(name.with_default_tag().canonical)
            return self._images.get(identity) if identity else None

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
        """Tags of an image as people write them, sorted."""
        with self._lock:
            names = [name for name, image in self._tags.items() if image == identity]
        return sorted(Reference.parse(name).familiar for name in names)

    def digests(self, identity: Digest) -> Names:
        """``repository@digest`` under which registries know the image, sorted."""
        with self._lock:
            names = [name for name, image in self._digests.items() if image == identity]
        return sorted(Reference.parse(name).familiar for name in names)

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

    def history_steps(self, image: Image) -> Steps:
        """The lines of ``docker history``, newest first."""
        steps: Steps = []
        position = 0
        for step in image.history:
            size = 0
            if not step.get("empty_layer") and position < len(image.layers):
                size = self.layers.get(image.layers[position]).size
                position += 1
            created = parse_time(str(step.get("created") or ""))
            text, comment = str(step.get("created_by") or ""), str(step.get("comment") or "")
            steps.append(HistoryStep("<missing>", created, text, comment, size, []))
        steps.reverse()
        return self._named(image, steps)

    def _named(self, image: Image, steps: Steps) -> Steps:
        """Ids of the image itself and of its parents that are still here."""
        here: Image | None = image
        for number, step in enumerate(steps):
            if here is None:
                break
            steps[number] = step._replace(image_id=here.id, tags=self.tags(here.id))
            here = self._images.get(here.parent) if here.parent else None
        return steps

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

    def tag(self, reference: Reference | str, identity: Digest) -> Digest | None:
        """Point a tag to an image; the id it pointed to before, None when it is new.

        InvalidParameter for a name with a digest, NotFound when there is no such image.
        """
        name = Reference.parse(reference) if isinstance(reference, str) else reference.with_default_tag()
        if name.digest:
            raise errors.InvalidParameter("refusing to create a tag with a digest reference")
        with self._lock:
            image = self._images.get(identity)
            if image is None:
                raise errors.NotFound(f"No such image: {identity}")
            before = self._tags.get(name.canonical)
            image.tagged_ns = time.time_ns()
            with self.db.transaction() as tx:
                tx.execute("INSERT OR REPLACE INTO tags VALUES (?, ?)", (name.canonical, identity))
                tx.execute("UPDATE images SET tagged_ns = ? WHERE id = ?", (image.tagged_ns, identity))
            self._tags[name.canonical] = identity
            if before != identity:
                self._write_index()
        return before

    def add_digest(self, name: Reference, digest: Digest, identity: Digest) -> None:
        """Note that the registry of ``name`` knows the image under ``digest`` (of manifest or index)."""
        key = f"{name.name}@{digest}"
        with self._lock:
            self.db.execute("INSERT OR REPLACE INTO digests VALUES (?, ?)", (key, identity))
            self._digests[key] = identity

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
        for name in names:
            self._tags.pop(name, None)
            self._digests.pop(name, None)
        self._write_index()

    def delete(self, identity: Digest) -> Names:
        """Remove an image and all its names; the names. Layers and blobs go with the next collection."""
        with self._lock:
            names = [key for key, value in {**self._tags, **self._digests}.items() if value == identity]
            with self.db.transaction() as tx:
                self._remove_names(names)
                tx.execute("DELETE FROM images WHERE id = ?", (identity,))
            self._images.pop(identity, None)
        return [Reference.parse(name).familiar for name in names]

    def reachable(self) -> Reachable:
        """What the images need, for ``Leases.add_roots``."""
        with self._lock:
            images = list(self._images.values())
        layers = {image.layers[-1] for image in images if image.layers}
        return Reachable(layers, {digest for image in images for digest in image.blobs})

    def _write_index(self) -> None:
        """Keep the data root's index.json true: other tools read the store as an OCI layout."""
        entries: list[dict[str, object]] = []
        for name, identity in sorted(self._tags.items()):
            image = self._images.get(identity)
            if image is not None:
                entries.append(index_entry(image, self.manifest(image), [name]))
        self.blobs.write_index(entries)


Images = list[Image]
Names = list[str]
Steps = list[HistoryStep]
Rows = list[tuple[Any, ...]]


def index_entry(image: Image, manifest: bytes, names: Iterable[str]) -> dict[str, object]:
    """The descriptor of an image in an index.json, with the first of its names as annotations."""
    entry: dict[str, object] = {
        "mediaType": documents.media_type_of(manifest),
        "digest": image.manifest,
        "size": len(manifest),
    }
    name = next(iter(names), None)
    if name is not None:
        reference = Reference.parse(name)
        entry["annotations"] = {
            "io.containerd.image.name": reference.canonical,
            "org.opencontainers.image.ref.name": reference.tag,
        }
    entry["platform"] = msgspec.to_builtins(image.platform)
    return entry


def _shown(reference: str) -> str:
    """A name as Docker's message has it: familiar, with its tag."""
    try:
        return Reference.parse(reference).familiar
    except errors.InvalidParameter:
        return reference


def _hint(reference: str) -> str:
    return f"docker pull {reference} fetches it." if not _ID.fullmatch(reference) else ""
