"""``docker save``: one archive that old and new readers understand.

It is an OCI layout (``oci-layout``, ``index.json``, ``blobs/``) and at the same time what Docker has read
since 1.10 (``manifest.json``, ``repositories``), so dockerd, podman, skopeo and containerd take it. Layers
and documents are the very bytes that were pulled, loaded or built.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore, index_entry
from sampan.storage import tar, tarwrite
from sampan.storage.digest import Digest
from sampan.storage.tar import Entry

_PIECE = 1 << 20


def select(store: ImageStore, names: Iterable[str]) -> list[tuple[Image, list[str]]]:
    """The images to save with their tags in full; a name without tag means all of its repository.

    NotFound "No such image: x", InvalidParameter for what can't be a name.
    """
    found: dict[Digest, tuple[Image, list[str]]] = {}
    for name in names:
        for image, tag in _resolve(store, name):
            tags = found.setdefault(image.id, (image, []))[1]
            if tag and tag not in tags:
                tags.append(tag)
    return list(found.values())


def _resolve(store: ImageStore, name: str) -> list[tuple[Image, str]]:
    try:
        reference = Reference.parse_bare(name)
    except errors.InvalidParameter:
        return [(store.get(name), "")]
    if reference.tag and not reference.digest:
        image = store.by_reference(reference)
        if image is not None:
            return [(image, reference.canonical)]
    elif not reference.digest:
        tags = [reference.with_tag(tag) for tag in store.repository(reference)]
        pairs = [(store.by_reference(tag), tag.canonical) for tag in tags]
        if pairs:
            return [(image, tag) for image, tag in pairs if image is not None]
    image = store.find(name)
    if image is None:
        raise errors.NotFound(f"No such image: {name}")
    return [(image, "")]


def save(store: ImageStore, names: Iterable[str], without: Collection[Digest] = ()) -> Iterator[bytes]:
    """The archive, in pieces. Names are resolved before the first piece, so errors come first.

    Layers of which ``without`` has the diffID are left out, for a reader that has them.
    """
    return _write(store, select(store, names), without)


def _write(
    store: ImageStore, images: list[tuple[Image, list[str]]], without: Collection[Digest]
) -> Iterator[bytes]:
    yield _directory("blobs") + _directory("blobs/sha256")
    written: set[Digest] = set()
    entries, docker = [], []
    repositories: dict[str, dict[str, str]] = {}
    for image, tags in images:
        manifest = store.manifest(image)
        pointers = documents.parse_manifest(manifest)
        for diff_id, chain, layer in zip(image.diff_ids, image.layers, pointers.layers, strict=True):
            if layer.digest not in written and diff_id not in without:
                written.add(layer.digest)
                yield from _layer(store, layer, diff_id, chain)
        for digest, data in ((image.id, store.blobs.read(image.id)), (image.manifest, manifest)):
            if digest not in written:
                written.add(digest)
                yield _file(_path(digest), data)
        entries += [index_entry(image, manifest, [tag]) for tag in tags] or [index_entry(image, manifest, [])]
        references = [Reference.parse(tag) for tag in tags]
        docker.append(
            {
                "Config": _path(image.id),
                "RepoTags": [reference.familiar for reference in references] or None,
                "Layers": [_path(layer.digest) for layer in pointers.layers],
            }
        )
        for reference in references:
            top = (image.chain or image.id).rpartition(":")[2]
            repositories.setdefault(reference.familiar_name, {})[reference.tag] = top
    index = {"schemaVersion": 2, "mediaType": documents.OCI_INDEX, "manifests": entries}
    yield _file("index.json", msgspec.json.encode(index))
    yield _file("manifest.json", msgspec.json.encode(docker))
    yield _file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    if repositories:
        yield _file("repositories", msgspec.json.encode(repositories))
    yield tarwrite.END


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
