"""``docker save``: one archive that old and new readers understand.

It is an OCI layout (``oci-layout``, ``index.json``, ``blobs/``) and at the same time what Docker has read
since 1.10 (``manifest.json``, ``repositories``), so dockerd, podman, skopeo and containerd take it. Layers
and documents are the very bytes that were pulled, loaded or built.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Platform
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore, index_entry
from sampan.storage import tar, tarwrite
from sampan.storage.digest import Digest
from sampan.storage.tar import Entry

_PIECE = 1 << 20


@dataclass
class _Saved:
    """What one entry of the archive stands for: an image, or an index with those of its images that go in.

    ``images`` come with their manifests' digests; the first is what readers see who know no indexes. ``tags``
    are in full.
    """

    images: list[tuple[Image, Digest]]
    index: Digest = ""
    tags: list[str] = field(default_factory=list)

    @property
    def first(self) -> Image:
        """The image that stands for all."""
        return self.images[0][0]


def select(store: ImageStore, names: Iterable[str], platforms: Sequence[Platform] = ()) -> list[_Saved]:
    """What to save, with its tags; a name without tag means all of its repository.

    NotFound "No such image: x", or when there is none for one of ``platforms``; InvalidParameter for what
    can't be a name.
    """
    found: dict[Digest, _Saved] = {}
    for name in names:
        for image, index, tag in _resolve(store, name):
            chosen = _chosen(store, name, image, index, platforms)
            saved = found.setdefault(chosen.index or chosen.first.id, chosen)
            if tag and tag not in saved.tags:
                saved.tags.append(tag)
    return list(found.values())


def _chosen(
    store: ImageStore, name: str, image: Image, index: Digest, platforms: Sequence[Platform]
) -> _Saved:
    """An index goes in when more than one of its images does, or all that it holds."""
    images = store.variants(image, index) if index else [image]
    if platforms:
        found: dict[Digest, Image] = {}
        for platform in platforms:
            one = store.variant(image, index, platform)
            if one is None:
                raise store.not_for(name, platform, image, index)
            found[one.id] = one
        images = list(found.values())
    pairs = [(one, store.indexes.manifest(index, one.id) if index else one.manifest) for one in images]
    if index and (len(images) > 1 or (not platforms and store.indexes.whole(index))):
        return _Saved(pairs, index)
    return _Saved(pairs[:1])


def _resolve(store: ImageStore, name: str) -> list[tuple[Image, Digest, str]]:
    """The images that a name stands for, the index that each was taken from, and the tag."""
    try:
        reference = Reference.parse_bare(name)
    except errors.InvalidParameter:
        return [(store.get(name), store.target_of(name), "")]
    if not reference.digest:
        bare = not reference.tag
        tags = [reference.with_tag(tag) for tag in store.repository(reference)] if bare else [reference]
        pairs = [(store.by_reference(tag), store.target(tag), tag.canonical) for tag in tags]
        found = [(image, index, tag) for image, index, tag in pairs if image is not None]
        if found:
            return found
    image = store.find(name)
    if image is None:
        raise errors.NotFound(f"No such image: {name}")
    return [(image, store.target_of(name), "")]


def save(
    store: ImageStore,
    names: Iterable[str],
    without: Collection[Digest] = (),
    platforms: Sequence[Platform] = (),
) -> Iterator[bytes]:
    """The archive, in pieces. Names are resolved before the first piece, so errors come first.

    Of an index it holds all images that are here, or those for ``platforms``. Layers of which ``without`` has
    the diffID are left out, for a reader that has them.
    """
    return _Archive(store, without).write(select(store, names, platforms))


class _Archive:
    """One archive being written."""

    def __init__(self, store: ImageStore, without: Collection[Digest]) -> None:
        self._store, self._without = store, without
        self._written: set[Digest] = set()

    def write(self, found: list[_Saved]) -> Iterator[bytes]:
        """Blobs first, then what names them."""
        entries: list[dict[str, object]] = []
        docker, repositories = [], dict[str, dict[str, str]]()
        yield _directory("blobs") + _directory("blobs/sha256")
        for saved in found:
            for image, manifest in saved.images:
                yield from self._image(image, manifest)
            if saved.index:
                yield from self._index(saved.index)
            entries += self._entries(saved)
            docker.append(self._docker(saved))
            for reference in map(Reference.parse, saved.tags):
                top = (saved.first.chain or saved.first.id).rpartition(":")[2]
                repositories.setdefault(reference.familiar_name, {})[reference.tag] = top
        index = {"schemaVersion": 2, "mediaType": documents.OCI_INDEX, "manifests": entries}
        yield _file("index.json", msgspec.json.encode(index))
        yield _file("manifest.json", msgspec.json.encode(docker))
        yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        if repositories:
            yield _file("repositories", msgspec.json.encode(repositories))
        yield tarwrite.END

    def _image(self, image: Image, manifest: Digest) -> Iterator[bytes]:
        store = self._store
        pointers = documents.parse_manifest(store.blobs.read(manifest, documents.LIMIT))
        for diff_id, chain, layer in zip(image.diff_ids, image.layers, pointers.layers, strict=True):
            if layer.digest not in self._written and diff_id not in self._without:
                self._written.add(layer.digest)
                yield from _layer(store, layer, diff_id, chain)
        yield from self._blob(image.id)
        yield from self._blob(manifest)

    def _index(self, digest: Digest) -> Iterator[bytes]:
        """The index, and those of its attestations, other artifacts and indexes within it that are here."""
        indexes = self._store.indexes
        for member in indexes.members(digest):
            if not member.image and indexes.here(member):
                yield from self._blob(member.entry.digest)
                for blob in member.blobs:
                    yield from self._blob(blob.digest)
        for inner in (*indexes.nested(digest), digest):
            yield from self._blob(inner)

    def _blob(self, digest: Digest) -> Iterator[bytes]:
        if digest in self._written:
            return
        self._written.add(digest)
        size = self._store.blobs.size(digest)
        yield _header(_path(digest), size)
        with self._store.blobs.open(digest) as file:
            while piece := file.read(_PIECE):
                yield piece
        yield tarwrite.padding(size)

    def _entries(self, saved: _Saved) -> list[dict[str, object]]:
        image, manifest = saved.images[0]
        digest, platform = saved.index or manifest, None if saved.index else image.platform
        raw = self._store.blobs.read(digest, documents.LIMIT)
        return [index_entry(digest, raw, tag, platform) for tag in saved.tags or ("",)]

    def _docker(self, saved: _Saved) -> dict[str, object]:
        image, manifest = saved.images[0]
        pointers = documents.parse_manifest(self._store.blobs.read(manifest, documents.LIMIT))
        return {
            "Config": _path(image.id),
            "RepoTags": [Reference.parse(tag).familiar for tag in saved.tags] or None,
            "Layers": [_path(layer.digest) for layer in pointers.layers],
        }


def _layer(store: ImageStore, layer: documents.Descriptor, diff_id: Digest, chain: Digest) -> Iterator[bytes]:
    """A layer as the manifest names it: the blob that came, or the archive made again."""
    yield _header(_path(layer.digest), layer.size)
    done = 0
    if layer.digest == diff_id and not store.blobs.has(layer.digest):
        for piece in store.layers.tar(chain):
            done += len(piece)
            yield piece
    else:
        with store.blobs.open(layer.digest) as file:
            while piece := file.read(_PIECE):
                done += len(piece)
                yield piece
    if done != layer.size:
        raise errors.SystemFailure(f"blob {layer.digest} has {done} bytes, its manifest says {layer.size}")
    yield tarwrite.padding(layer.size)


def _path(digest: Digest) -> str:
    return "blobs/" + digest.replace(":", "/")


def _header(name: str, size: int) -> bytes:
    entry = Entry(name.encode(), tar.REGULAR)
    entry.mode, entry.size = 0o644, size
    return tarwrite.header(entry)


def _file(name: str, data: bytes) -> bytes:
    return _header(name, len(data)) + data + tarwrite.padding(len(data))


def _directory(name: str) -> bytes:
    entry = Entry(name.encode(), tar.DIRECTORY)
    entry.mode = 0o755
    return tarwrite.header(entry)
