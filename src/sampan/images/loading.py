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
from collections.abc import Callable, Iterable, Iterator
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
    """An image to make: documents, the names of its layers in the archive, its tags."""

    config: bytes
    manifest: bytes | None
    layers: list[str]
    names: list[str]
    keep: list[bytes] = field(default_factory=list)


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
    platform: Platform | None = None,
) -> list[Loaded]:
    """Load every image of an archive. ``report`` gets Docker's progress objects.

    ArchiveError "unexpected EOF" for junk, InvalidParameter for content that isn't what its digest says,
    SystemFailure for a full disk. Images before the failing one stay; of that one nothing does.
    """
    loader = _Loader(store, report, quiet)
    try:
        loader.read(TarReader(compress.pieces(read)))
        loaded = []
        for wanted in _Plan(loader, platform or documents.host_platform()).images():
            loaded.append(loader.make(wanted))
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

    def make(self, wanted: _Wanted) -> Loaded:
        """Place the layers, store the documents, tag."""
        diff_ids = documents.diff_ids(documents.parse_config(wanted.config))
        if len(diff_ids) != len(wanted.layers):
            counts = f"expected {len(diff_ids)}, got {len(wanted.layers)}"
            raise errors.InvalidParameter(f"invalid manifest, layers length mismatch: {counts}")
        parent: Digest | None = None
        for diff_id, name in zip(diff_ids, wanted.layers, strict=True):
            parent = self._place(parent, diff_id, name)
        keep = [self.store.blobs.put(raw).digest for raw in wanted.keep]
        image = self.store.add(wanted.config, manifest=wanted.manifest, keep=keep)
        names = []
        for text in wanted.names:
            reference = Reference.parse(text)
            self.store.tag(reference, image.id)
            names.append(reference.familiar)
        return Loaded(image, names)

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

    def __init__(self, loader: _Loader, platform: Platform) -> None:
        self._loader, self._platform = loader, platform
        self._docker = self._docker_entries()

    def images(self) -> list[_Wanted]:
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

    def _from_docker(self, entry: _DockerEntry) -> _Wanted:
        config = self._loader.document(entry.config)
        return _Wanted(config, None, list(entry.layers or ()), list(entry.repo_tags or ()))

    def _from_index(self) -> list[_Wanted]:
        index = documents.parse_index(self._loader.document("index.json"))
        found: dict[Digest, _Wanted] = {}
        for entry in index.manifests:
            chosen = self._choose(entry)
            if chosen is None:
                continue
            digest, keep = chosen
            wanted = found.setdefault(digest, self._from_manifest(digest, keep))
            wanted.names += [name for name in self._names(entry, wanted) if name not in wanted.names]
        if not found:
            raise errors.InvalidParameter("invalid archive: no image in its index.json")
        return list(found.values())

    def _choose(self, entry: Descriptor) -> tuple[Digest, list[bytes]] | None:
        """The manifest for our platform that an entry stands for, and the index it came from."""
        raw = self._loader.document(_path(entry.digest))
        kind = documents.media_type_of(raw, entry.media_type)
        if kind in documents.MANIFESTS:
            return entry.digest, []
        if kind not in documents.INDEXES:
            return None
        index = documents.parse_index(raw)
        there = [one for one in index.manifests if _path(one.digest) in self._loader.documents]
        images = [one for one in there if one.platform is None or one.platform.os != "unknown"]
        if len(images) == 1:
            return images[0].digest, [raw]
        index.manifests = images
        return documents.choose(index, self._platform).digest, [raw]

    def _from_manifest(self, digest: Digest, keep: list[bytes]) -> _Wanted:
        raw = self._loader.document(_path(digest))
        manifest = documents.parse_manifest(raw)
        config = self._loader.document(_path(manifest.config.digest))
        return _Wanted(config, raw, [_path(layer.digest) for layer in manifest.layers], [], keep)

    def _names(self, entry: Descriptor, wanted: _Wanted) -> list[str]:
        """Tags of an entry: containerd's annotation, a reference as skopeo writes it, or manifest.json's."""
        notes = entry.annotations or {}
        name = notes.get("io.containerd.image.name") or ""
        if not name and "/" in (short := notes.get("org.opencontainers.image.ref.name") or ""):
            name = short
        names = [name] if name and "@" not in name else []
        identity = digests.of(wanted.config)
        for docker in self._docker or ():
            if digests.of(self._loader.document(docker.config)) == identity:
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
