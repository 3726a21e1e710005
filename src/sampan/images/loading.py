"""``docker load``: reading image archives in one pass, without knowing beforehand what they hold.

Layers are unpacked while the archive streams by, nameless at first: which image and parent they belong to is
said at the archive's end. Understood are Docker's archives (``manifest.json``; layers in folders of their
own, or as blobs) and OCI layouts (``index.json``), each also compressed.
"""

from __future__ import annotations

import errno
import itertools
import os
import posixpath
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Descriptor, Platform
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore
from sampan.storage import compress, tar
from sampan.storage import digest as digests
from sampan.storage.blobs import Writer
from sampan.storage.digest import Digest
from sampan.storage.extract import clean
from sampan.storage.layers import Unpacked, chain_id
from sampan.storage.pipeline import BackgroundHash, Piece
from sampan.storage.tar import ArchiveError, Entry, TarReader

Report = Callable[[dict[str, Any]], None]
_NO_MANIFEST = "invalid archive: does not contain a manifest.json"
_REPORT_EVERY = 0.1  # seconds


@dataclass
class Loaded:
    """An image that was loaded and the names it got, as people write them."""

    image: Image
    names: list[str]


@dataclass
class _Held:
    """A layer of the archive. ``unpacked`` is None once it has a place, or when it was here before."""

    diff_id: Digest
    unpacked: Unpacked | None = None


@dataclass
class _Wanted:
    """An image to make: documents, the names of its layers in the archive."""

    config: bytes
    manifest: bytes | None
    layers: list[str]


@dataclass
class _Group:
    """What gets names of its own: one image, or those of an index with what else it holds."""

    images: list[_Wanted]
    names: list[str]
    index: bytes | None = None
    others: list[bytes] = field(default_factory=list)


class _DockerEntry(msgspec.Struct, rename="pascal"):
    """One image of a ``manifest.json``."""

    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None


def load(
    store: ImageStore,
    read: compress.Read,
    report: Report,
    *,
    quiet: bool = True,
    platforms: Sequence[Platform] = (),
) -> list[Loaded]:
    """Load every image of an archive. ``report`` gets Docker's progress objects.

    Of indexes all is kept that the archive holds, or only the images for ``platforms``.
    ArchiveError "unexpected EOF" for junk, InvalidParameter for content that isn't what its digest says,
    SystemFailure for a full disk. Images before the failing one stay; of that one nothing does.
    """
    loader = _Loader(store, report, quiet)
    try:
        loader.read(TarReader(compress.pieces(read)))
        loaded = []
        for group in _Plan(loader, platforms).groups():
            loaded.append(loader.make(group))
            for line in _lines(loaded[-1]):
                report({"stream": line + "\n"})
        return loaded
    except OSError as error:
        raise _disk_failure(error) from error
    finally:
        loader.discard()


def _lines(loaded: Loaded) -> list[str]:
    if not loaded.names:
        return [f"Loaded image ID: {loaded.image.id}"]
    return [f"Loaded image: {name}" for name in loaded.names]


def _disk_failure(error: OSError) -> errors.SampanError:
    text = os.strerror(error.errno or 0)
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    hint = "Free some disk space (docker system prune removes what isn't used) and try again." if full else ""
    return errors.SystemFailure(text[:1].lower() + text[1:], hint=hint)


class _Loader:
    """What the archive held, and the making of images from it."""

    def __init__(self, store: ImageStore, report: Report, quiet: bool) -> None:
        self.store, self._report, self._quiet = store, report, quiet
        self.documents: dict[str, bytes] = {}
        self.layers: dict[str, _Held] = {}
        self._links: dict[str, str] = {}

    # -- reading ----------------------------------------------------------------------------------------

    def read(self, reader: TarReader) -> None:
        """Take every member in."""
        for entry in reader:
            name = clean(entry.name).decode("utf-8", "surrogateescape")
            if entry.type in (tar.SYMLINK, tar.LINK):
                # Old archives link to a layer that several images share.
                base = posixpath.dirname(name) if entry.type == tar.SYMLINK else ""
                target = entry.linkname.decode("utf-8", "surrogateescape")
                self._links[name] = posixpath.normpath(posixpath.join(base, target))
            elif entry.type == tar.REGULAR:
                self._file(name, entry, reader)
        reader.finish()

    def _file(self, name: str, entry: Entry, reader: TarReader) -> None:
        payload = reader.payload()
        head = b""
        for view in payload:
            head += view
            if len(head) >= tar.BLOCK:
                break
        whole: Iterable[Piece] = itertools.chain(cast("list[Piece]", [head]), payload)
        expected = _digest_of_path(name)
        if compress.detect(head):
            self._compressed(name, expected, entry, whole)
        elif tar.looks_like_header(head[: tar.BLOCK]):
            self._plain(name, expected, entry, whole)
        elif entry.size <= documents.LIMIT:
            data = b"".join(whole)
            if expected is not None and digests.of(data) != expected:
                raise errors.InvalidParameter(f"content digest mismatch: expected {expected}")
            self.documents[name] = data

    def _plain(self, name: str, expected: Digest | None, entry: Entry, pieces: Iterable[Piece]) -> None:
        """An uncompressed layer: unpacked, or only checked when its content is here."""
        shown = self._shown(name, entry.size, pieces)
        if expected is not None and self.store.layers.by_diff_id(expected):
            hashed = BackgroundHash()
            for piece in shown:
                hashed.update(piece)
            if hashed.digest() != expected:
                raise errors.InvalidParameter(f"content digest mismatch: expected {expected}")
            self.layers[name] = _Held(expected)
            return
        unpacked = self.store.layers.unpack(shown, expected=expected)
        self.layers[name] = _Held(unpacked.diff_id, unpacked)

    def _compressed(self, name: str, expected: Digest | None, entry: Entry, pieces: Iterable[Piece]) -> None:
        """A compressed layer: kept as it is too, since compressing again would give other bytes."""
        store = self.store
        known = store.diff_id_of(expected) if expected else None
        if known and expected and store.blobs.has(expected) and store.layers.by_diff_id(known):
            self.layers[name] = _Held(known)
            return
        source = iter(pieces)
        head = next(source)
        kind = compress.detect(bytes(head))
        with store.blobs.writer(expected, size=entry.size) as writer:
            copied = _tee(self._shown(name, entry.size, itertools.chain([head], source)), writer)
            unpacked = store.layers.unpack(copied)
            self.layers[name] = _Held(unpacked.diff_id, unpacked)
            for _ in copied:
                pass  # padding behind the compressed stream belongs to the blob too
            if kind in ("gzip", "zstd"):
                blob = writer.commit()
                media_type = documents.layer_media_type(kind)
                store.remember_blob(unpacked.diff_id, Descriptor(media_type, blob.digest, blob.size))

    def _shown(self, name: str, total: int, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """``pieces``, with progress reported now and then."""
        label = (_digest_of_path(name) or name).rpartition(":")[2][:12]
        done, last = 0, 0.0
        for piece in pieces:
            yield piece
            done += len(piece)
            now = time.monotonic()
            if not self._quiet and (done == total or now - last > _REPORT_EVERY):
                last = now
                detail = {"current": done, "total": total}
                self._report({"status": "Loading layer", "progressDetail": detail, "id": label})

    # -- looking into what was read ---------------------------------------------------------------------

    def document(self, name: str) -> bytes:
        """A small file of the archive (InvalidParameter when it is missing)."""
        found = self.documents.get(self._resolve(name))
        if found is None:
            raise errors.InvalidParameter(f"invalid archive: {name} is missing")
        return found

    def _resolve(self, name: str) -> str:
        name = posixpath.normpath(name)
        for _ in range(8):
            if name not in self._links:
                return name
            name = self._links[name]
        raise errors.InvalidParameter(f"invalid archive: {name} links to itself")

    def _stored(self, name: str, diff_id: Digest) -> Digest | None:
        """The diffID of a layer that the archive names but leaves out, when the store has it.

        Where the file's name is a digest that is known here, it must be that layer's; a sender may have
        it in another compression. What the layer holds is bound by the configuration either way.
        """
        digest = _digest_of_path(name)
        if digest is None:
            return None
        layers = self.store.layers
        known = digest if layers.by_diff_id(digest) else self.store.diff_id_of(digest) or diff_id
        return known if layers.by_diff_id(known) else None

    # -- making -----------------------------------------------------------------------------------------

    def make(self, group: _Group) -> Loaded:
        """Place the layers, store the documents, tag."""
        store = self.store
        image = [self._image(wanted) for wanted in group.images][-1]
        index = ""
        if group.index is not None:
            index = store.indexes.keep(group.index, [store.blobs.put(raw).digest for raw in group.others])
            image = store.by_id(store.indexes.primary(index)) or image
        names = []
        for text in group.names:
            reference = Reference.parse(text)
            store.tag(reference, image.id, index=index)
            names.append(reference.familiar)
        return Loaded(image, names)

    def _image(self, wanted: _Wanted) -> Image:
        diff_ids = documents.diff_ids(documents.parse_config(wanted.config))
        if len(diff_ids) != len(wanted.layers):
            counts = f"expected {len(diff_ids)}, got {len(wanted.layers)}"
            raise errors.InvalidParameter(f"invalid manifest, layers length mismatch: {counts}")
        parent: Digest | None = None
        for diff_id, name in zip(diff_ids, wanted.layers, strict=True):
            parent = self._place(parent, diff_id, name)
        return self.store.add(wanted.config, manifest=wanted.manifest)

    def _place(self, parent: Digest | None, diff_id: Digest, name: str) -> Digest:
        chain = chain_id(parent, diff_id)
        held = self.layers.get(self._resolve(name))
        found = held.diff_id if held else self._stored(name, diff_id)
        if found is None:
            raise errors.InvalidParameter(f"invalid archive: {name} is missing")
        if found != diff_id:
            raise errors.InvalidParameter(f"invalid diffID for layer: expected {diff_id}, got {found}")
        layers = self.store.layers
        if layers.present(chain):
            return chain
        if held is not None and held.unpacked is not None:
            unpacked, held.unpacked = held.unpacked, None
            return layers.place(parent, unpacked).chain_id
        return layers.place_again(parent, diff_id).chain_id

    def discard(self) -> None:
        """Remove layers that no image of the archive wanted."""
        for held in self.layers.values():
            if held.unpacked is not None:
                self.store.layers.discard(held.unpacked)


class _Plan:
    """Which images the archive's documents describe."""

    def __init__(self, loader: _Loader, platforms: Sequence[Platform]) -> None:
        self._loader, self._platforms = loader, platforms
        self._docker = self._docker_entries()

    def groups(self) -> list[_Group]:
        """The images to make, in the archive's order (InvalidParameter when it has none)."""
        if "index.json" in self._loader.documents:
            return self._from_index()
        if self._docker is None:
            raise errors.InvalidParameter(_NO_MANIFEST)
        return [self._from_docker(entry) for entry in self._docker]

    def _docker_entries(self) -> list[_DockerEntry] | None:
        raw = self._loader.documents.get("manifest.json")
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=list[_DockerEntry])
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise errors.InvalidParameter(f"invalid manifest.json: {error}") from error

    def _from_docker(self, entry: _DockerEntry) -> _Group:
        config = self._loader.document(entry.config)
        return _Group([_Wanted(config, None, list(entry.layers or ()))], list(entry.repo_tags or ()))

    def _from_index(self) -> list[_Group]:
        index = documents.parse_index(self._loader.document("index.json"))
        found: dict[Digest, _Group] = {}
        for entry in index.manifests:
            group = found.get(entry.digest) or self._group(entry)
            if group is None:
                continue
            found[entry.digest] = group
            group.names += [name for name in self._names(entry, group) if name not in group.names]
        if not found:
            raise errors.InvalidParameter("invalid archive: no image in its index.json")
        return list(found.values())

    def _group(self, entry: Descriptor) -> _Group | None:
        """The images that an entry stands for, None when it is something else (NotFound: the platform)."""
        raw = self._loader.document(_path(entry.digest))
        kind = documents.checked_type(raw, entry.media_type)
        if kind in documents.MANIFESTS:
            return _Group([self._wanted(raw)], [])
        if kind not in documents.INDEXES:
            return None
        nested: dict[Digest, bytes] = {}
        there = self._entries(raw, nested)
        images = [one for one in there if self._is_image(one)]
        if self._platforms or not images:
            known = [one.platform for one in images]
            wanted = self._platforms or [documents.host_platform()]
            images = [images[self._choose(known, platform)] for platform in wanted]
            images = list({one.digest: one for one in images}.values())
        others = [] if self._platforms else [one for one in there if not self._is_image(one)]
        blobs = [*nested.values(), *(blob for one in others for blob in self._other(one))]
        return _Group([self._wanted(self._document(one.digest)) for one in images], [], raw, blobs)

    def _entries(self, raw: bytes, nested: dict[Digest, bytes]) -> list[Descriptor]:
        """What an index, and those within it, name and the archive holds."""
        found, waiting = list[Descriptor](), [raw]
        while waiting:
            there = [one for one in documents.parse_index(waiting.pop()).manifests if self._has(one)]
            found += [one for one in there if one.media_type not in documents.INDEXES]
            for entry in there:
                if entry.media_type in documents.INDEXES and entry.digest not in nested:
                    nested[entry.digest] = self._document(entry.digest)
                    waiting.append(nested[entry.digest])
        return found

    def _choose(self, known: list[Platform | None], wanted: Platform) -> int:
        found = documents.best(known, wanted)
        if found is None:
            raise errors.NotFound(f"no matching manifest for {wanted} in the manifest list entries")
        return found

    def _has(self, entry: Descriptor) -> bool:
        return _path(entry.digest) in self._loader.documents

    def _document(self, digest: Digest) -> bytes:
        return self._loader.document(_path(digest))

    def _is_image(self, entry: Descriptor) -> bool:
        if documents.is_attestation(entry):
            return False
        config = documents.parse_manifest(self._document(entry.digest)).config
        return config.media_type in documents.CONFIGS

    def _other(self, entry: Descriptor) -> list[bytes]:
        """The documents of an attestation or another artifact; none when the archive lacks some of them."""
        raw = self._document(entry.digest)
        manifest = documents.parse_manifest(raw)
        blobs = (manifest.config, *manifest.layers)
        if not all(self._has(blob) for blob in blobs):
            return []
        return [raw, *(self._document(blob.digest) for blob in blobs)]

    def _wanted(self, raw: bytes) -> _Wanted:
        manifest = documents.parse_manifest(raw)
        config = self._document(manifest.config.digest)
        return _Wanted(config, raw, [_path(layer.digest) for layer in manifest.layers])

    def _names(self, entry: Descriptor, group: _Group) -> list[str]:
        """Tags of an entry: containerd's annotation, a reference as skopeo writes it, or manifest.json's."""
        notes = entry.annotations or {}
        name = notes.get("io.containerd.image.name") or ""
        if not name and "/" in (short := notes.get("org.opencontainers.image.ref.name") or ""):
            name = short
        names = [name] if name and "@" not in name else []
        identities = {digests.of(wanted.config) for wanted in group.images}
        for docker in self._docker or ():
            if digests.of(self._loader.document(docker.config)) in identities:
                names += docker.repo_tags or []
        return list(dict.fromkeys(Reference.parse(one).familiar for one in names))


def _tee(pieces: Iterable[Piece], writer: Writer) -> Iterator[Piece]:
    for piece in pieces:
        writer.write(piece)
        yield piece


def _path(digest: Digest) -> str:
    return "blobs/" + digest.replace(":", "/")


def _digest_of_path(name: str) -> Digest | None:
    """The digest that a name below blobs/ promises."""
    parts = name.split("/")
    if len(parts) == 3 and parts[0] == "blobs" and digests.valid(f"{parts[1]}:{parts[2]}"):
        return f"{parts[1]}:{parts[2]}"
    return None


__all__ = ["ArchiveError", "Loaded", "load"]
