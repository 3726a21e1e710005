"""Pulling: the manifest, then its layers in parallel, each unpacked while it comes.

Of an index the image for one platform comes, or everything that it holds.

Every byte is checked against its digest and declared size before anything is given a name. A download that
breaks off goes on where it stopped, also after a restart of the engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Descriptor, Index, Manifest, Platform
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore
from sampan.registry.fetch import Remote, body, digest_of, resolve
from sampan.registry.transport import Transport
from sampan.storage import digest as digests
from sampan.storage.blobs import Writer
from sampan.storage.digest import Digest
from sampan.storage.gates import Gates
from sampan.storage.layers import Unpacked, chain_id

Report = Callable[[dict[str, Any]], None]
T = TypeVar("T")
U = TypeVar("U")
_NESTED = 64  # indexes within one index that are looked into
_AT_ONCE = 3
_REPORT_EVERY = 0.1


@dataclass
class Pulled:
    """The image, the digest that the registry knows it by, and whether anything was new."""

    image: Image
    digest: Digest
    newer: bool


class Puller:
    """Pulls into one store; layers that several pulls want at once are fetched once.

    ``at_once`` is how many layers of one pull come at a time.
    """

    def __init__(self, store: ImageStore, gates: Gates, *, at_once: int = _AT_ONCE) -> None:
        self.store, self.gates, self.at_once = store, gates, at_once

    def pull(
        self,
        transport: Transport,
        reference: Reference,
        report: Report,
        platform: Platform | None = None,
        *,
        everything: bool = False,
    ) -> Pulled:
        """Pull and tag an image; ``report`` gets Docker's progress objects, from several threads.

        Of an index the image for ``platform`` (this machine's) comes and joins those that are here, or all that it
        holds with ``everything``. NotFound, Unauthorized, SystemFailure (network, registry), InvalidParameter
        (content that isn't what its digest says). What was placed before a failure is left to the next
        collection.
        """
        remote = self._resolve(transport, reference)
        report({"status": f"Pulling from {reference.path}", "id": reference.tag or reference.familiar})
        index = remote.digest if remote.media_type in documents.INDEXES else ""
        with _One(self, transport, reference, report) as one:
            image, newer = one.index(remote, platform, everything) if index else one.image(remote)
        newer = self._name(reference, remote.digest, image, index, newer)
        for warning in transport.warnings:
            report({"status": f"Warning: {warning}"})
        report({"status": f"Digest: {remote.digest}"})
        state = "Downloaded newer image" if newer else "Image is up to date"
        report({"status": f"Status: {state} for {reference.familiar}"})
        if platform is not None and not index and _is_other(image.platform, platform):
            report({"status": f"WARNING: {_other_platform(reference, image, platform)}"})
        return Pulled(image, remote.digest, newer)

    def _name(self, reference: Reference, digest: Digest, image: Image, index: Digest, newer: bool) -> bool:
        """Give the image its tag and digest, unless nothing is new; whether something is."""
        known = self._names(reference, digest)
        if newer or known != [(image.id, index)] * 2:
            if not reference.digest:
                self.store.tag(reference, image.id, index=index)
            self.store.add_digest(reference, digest, image.id)
        return newer or known[0] != self._names(reference, digest)[0]

    def _names(self, reference: Reference, digest: Digest) -> list[tuple[Digest, Digest] | None]:
        """What the tag and the digest stand for: image and index, None for nothing."""
        found = []
        for name in (reference, Reference.parse(f"{reference.name}@{digest}")):
            image = self.store.by_reference(name)
            found.append((image.id, self.store.target(name)) if image is not None else None)
        return found

    def _resolve(self, transport: Transport, reference: Reference) -> Remote:
        """What a name stands for, from here when the registry says that it still is what is here."""
        image = self.store.by_reference(reference)
        if image is not None:
            here = self.store.target(reference) or image.manifest
            if digest_of(transport, reference) == here:
                return self.local(here) or resolve(transport, reference)
        return resolve(transport, reference)

    def local(self, digest: Digest) -> Remote | None:
        """A document that is here."""
        if not self.store.blobs.has(digest):
            return None
        raw = self.store.blobs.read(digest, documents.LIMIT)
        return Remote(raw, documents.media_type_of(raw), digest)


@dataclass
class _Wanted:
    """An image to pull; ``image`` is it when it is here."""

    remote: Remote
    manifest: Manifest
    config: bytes = b""
    diff_ids: tuple[Digest, ...] = ()
    image: Image | None = None

    def layers(self) -> Iterator[tuple[Digest, Digest, Descriptor, Digest | None]]:
        """Each layer from the bottom: its chain id, diffID and descriptor, and the chain id below it."""
        parent: Digest | None = None
        for layer, diff_id in zip(self.manifest.layers, self.diff_ids, strict=True):
            chain = chain_id(parent, diff_id)
            yield chain, diff_id, layer, parent
            parent = chain


class _Stopped(Exception):
    """Another part of the pull failed, which is what its client hears."""


class _One:
    """One pull under way; a context manager. Its threads end with it."""

    def __init__(self, puller: Puller, transport: Transport, reference: Reference, report: Report) -> None:
        self._puller, self._store = puller, puller.store
        self._gates = puller.gates
        self._transport, self._reference, self._report = transport, reference, report
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(puller.at_once, thread_name_prefix="pull")

    def __enter__(self) -> _One:
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _each(self, work: Callable[[T], U], things: Iterable[T]) -> list[U]:
        """``work`` on each, several at a time; results in their order."""
        todo = list(things)
        return [work(todo[0])] if len(todo) == 1 else list(self._pool.map(work, todo))

    # -- indexes ----------------------------------------------------------------------------------------

    def index(self, remote: Remote, platform: Platform | None, everything: bool) -> tuple[Image, bool]:
        """The image for a platform or all that an index holds, which is kept; whether anything is new."""
        nested: dict[Digest, Remote] = {}
        if not everything:
            chosen = self._choose(remote, platform or documents.host_platform(), nested)
            image, newer = self.image(chosen, remote.digest)
            self._keep(remote, nested)
            return image, newer
        before = self._store.indexes.whole(remote.digest) if remote.digest in self._store.indexes else False
        members = self._members(remote, nested)
        images = [member for entry, member in members if self._is_image(entry, member)]
        if not images:
            raise errors.NotFound(f"no image in the manifest list of {self._reference.familiar}")
        found = self._images(images, remote.digest)
        others = self._each(self._other, [one for one in members if not self._is_image(*one)])
        self._keep(remote, nested, [digest for blobs in others for digest in blobs])
        first = self._store.by_id(self._store.indexes.primary(remote.digest)) or found[0][0]
        return first, not before

    def _keep(self, remote: Remote, nested: dict[Digest, Remote], others: Iterable[Digest] = ()) -> None:
        for digest, one in nested.items():
            self._store.blobs.put(one.raw, digest)
        self._store.indexes.keep(remote.raw, [*others, *nested])

    def _choose(self, remote: Remote, wanted: Platform, nested: dict[Digest, Remote]) -> Remote:
        """The manifest for a platform of an index, or of those within it (NotFound)."""
        index = documents.parse_index(remote.raw)
        plain = [one for one in index.manifests if one.media_type not in documents.INDEXES]
        try:
            return self._member(documents.choose(Index(plain), wanted))
        except errors.NotFound:
            for entry in index.manifests:
                inside = entry.media_type in documents.INDEXES and documents.fits(entry.platform, wanted)
                if inside and self._enter(entry, nested):
                    try:
                        return self._choose(nested[entry.digest], wanted, nested)
                    except errors.NotFound:
                        continue
            raise

    def _enter(self, entry: Descriptor, nested: dict[Digest, Remote]) -> bool:
        """Fetch an index within an index; False when it was looked into already."""
        if entry.digest in nested:
            return False
        if len(nested) >= _NESTED:
            raise errors.Unsupported(
                f"the manifest list of {self._reference.familiar} holds more than {_NESTED} others"
            )
        nested[entry.digest] = self._member(entry)
        return True

    def _members(self, remote: Remote, nested: dict[Digest, Remote]) -> list[tuple[Descriptor, Remote]]:
        """All manifests of an index and of those within it, each once."""
        found: dict[Digest, tuple[Descriptor, Remote]] = {}
        waiting = [remote]
        while waiting:
            entries = documents.parse_index(waiting.pop(0).raw).manifests
            for entry in entries:
                if entry.media_type in documents.INDEXES and self._enter(entry, nested):
                    waiting.append(nested[entry.digest])
            plain = [one for one in entries if one.digest not in nested and one.digest not in found]
            found |= {
                entry.digest: (entry, member)
                for entry, member in zip(plain, self._each(self._member, plain), strict=True)
            }
        return list(found.values())

    def _member(self, entry: Descriptor) -> Remote:
        found = self._puller.local(entry.digest)
        found = found or resolve(self._transport, self._reference, entry.digest)
        if len(found.raw) != entry.size:
            raise errors.SystemFailure(
                f"{entry.digest} has {len(found.raw)} bytes, the manifest list says {entry.size}"
            )
        documents.checked_type(found.raw, entry.media_type)
        return found

    def _is_image(self, entry: Descriptor, member: Remote) -> bool:
        if documents.is_attestation(entry) or member.media_type not in documents.MANIFESTS:
            return False
        return documents.parse_manifest(member.raw).config.media_type in documents.CONFIGS

    def _other(self, found: tuple[Descriptor, Remote]) -> list[Digest]:
        """Fetch an attestation or another artifact; its blobs, the manifest among them."""
        entry, member = found
        if member.media_type not in documents.MANIFESTS:
            raise errors.Unsupported(
                f"the manifest list of {self._reference.familiar} holds {member.media_type}: {entry.digest}",
                hint="Pull the platforms that you need one by one, with --platform.",
            )
        manifest = documents.parse_manifest(member.raw)
        blobs = (manifest.config, *manifest.layers)
        for blob in blobs:
            self._small(blob)
        return [self._store.blobs.put(member.raw, entry.digest).digest, *(blob.digest for blob in blobs)]

    # -- images -----------------------------------------------------------------------------------------

    def image(self, remote: Remote, index: Digest = "") -> tuple[Image, bool]:
        """One image, by its manifest; whether it is new."""
        return self._images([remote], index)[0]

    def _images(self, remotes: list[Remote], index: Digest) -> list[tuple[Image, bool]]:
        """Images by their manifests; what they share comes once."""
        wanted = self._each(partial(self._look, index=index), remotes)
        missing = [one for one in wanted if one.image is None]
        if missing:
            self._layers(missing)
        keep = [index] if index else []
        found = []
        for one in wanted:
            newer = one.image is None and self._store.by_id(one.manifest.config.digest) is None
            image = one.image or self._store.add(one.config, manifest=one.remote.raw, keep=keep)
            found.append((image, newer))
        return found

    def _look(self, remote: Remote, index: Digest) -> _Wanted:
        """Understand a manifest, and fetch the configuration unless the image is here."""
        reference = self._reference
        if remote.media_type not in documents.MANIFESTS:
            raise errors.Unsupported(
                f"the manifest of {reference.familiar} can't be pulled: {remote.media_type}",
                hint="Docker's schema 1 is no longer supported: push the image again with a newer client.",
            )
        manifest = documents.parse_manifest(remote.raw)
        if manifest.config.media_type not in documents.CONFIGS:
            raise errors.Unsupported(f"{reference.familiar} is no image but {manifest.config.media_type}")
        known = self._store.by_id(manifest.config.digest)
        if known is not None and (
            known.manifest == remote.digest or (index and remote.digest in known.blobs)
        ):
            return _Wanted(remote, manifest, image=known)
        config = self._config(manifest.config)
        diff_ids = tuple(documents.diff_ids(documents.parse_config(config)))
        if len(diff_ids) != len(manifest.layers):
            _check_image(reference, manifest)
            raise errors.SystemFailure(f"{reference.familiar}: manifest and configuration differ in layers")
        for layer in manifest.layers:
            _check_distributable(layer)
        return _Wanted(remote, manifest, config, diff_ids)

    def _config(self, config: Descriptor) -> bytes:
        if config.size > documents.LIMIT:
            raise errors.SystemFailure(f"the configuration of {self._reference.familiar} is too large")
        self._small(config)
        return self._store.blobs.read(config.digest, documents.LIMIT)

    def _small(self, blob: Descriptor) -> None:
        """Fetch a blob that isn't a layer to be unpacked."""
        store = self._store.blobs
        with self._gates.hold(blob.digest):
            if store.has(blob.digest):
                return
            with store.writer(blob.digest, size=blob.size) as writer:
                for piece in body(self._transport, self._reference, blob, writer):
                    writer.write(piece)
                writer.commit()

    def _layers(self, wanted: list[_Wanted]) -> None:
        """Bring the layers of images here: all come in parallel, each once, and find their places in order."""
        jobs: dict[tuple[Digest, Digest], Future[Unpacked | None]] = {}
        try:
            for one in wanted:
                self._begin(one, jobs)
            placed: set[tuple[Digest, Digest]] = set()
            for one in wanted:
                for chain, diff_id, layer, parent in one.layers():
                    key = layer.digest, diff_id
                    if key in jobs and not self._store.layers.present(chain):
                        self._place(parent, diff_id, None if key in placed else jobs[key].result())
                    if key in jobs and key not in placed:
                        self._report(_progress("Pull complete", layer))
                        placed.add(key)
        finally:
            self._ending.set()
            for job in jobs.values():
                job.cancel()
            for job in jobs.values():
                if not job.cancelled() and job.exception() is None:
                    unpacked = job.result()
                    if unpacked is not None:
                        self._store.layers.discard(unpacked)

    def _begin(self, wanted: _Wanted, jobs: dict[tuple[Digest, Digest], Future[Unpacked | None]]) -> None:
        """Fetch those layers of an image that aren't here."""
        for chain, diff_id, layer, _ in wanted.layers():
            if (layer.digest, diff_id) in jobs:
                continue
            if self._store.layers.present(chain):
                self._report(_progress("Already exists", layer))
                continue
            self._report(_progress("Pulling fs layer", layer))
            jobs[layer.digest, diff_id] = self._pool.submit(self._fetch, layer, diff_id)

    def _place(self, parent: Digest | None, diff_id: Digest, unpacked: Unpacked | None) -> None:
        layers = self._store.layers
        if unpacked is not None:
            layers.place(parent, unpacked)
        elif not layers.present(chain_id(parent, diff_id)):
            layers.place_again(parent, diff_id)

    def _fetch(self, layer: Descriptor, diff_id: Digest) -> Unpacked | None:
        """Download and unpack one layer; None when its content is here (again) by now."""
        with self._gates.hold(layer.digest):
            if self._store.layers.by_diff_id(diff_id):
                return None
            blobs = self._store.blobs
            if blobs.has(layer.digest):
                with blobs.open(layer.digest) as file:
                    return self._store.layers.unpack(iter(lambda: file.read(1 << 20), b""), expected=diff_id)
            with blobs.writer(layer.digest, size=layer.size, keep=True) as writer:
                source = self._written(body(self._transport, self._reference, layer, writer), writer, layer)
                unpacked = self._store.layers.unpack(source, expected=diff_id)
                try:
                    for _ in source:
                        pass
                    self._report(_progress("Verifying Checksum", layer))
                    writer.commit()
                except BaseException:
                    self._store.layers.discard(unpacked)
                    raise
            self._report(_progress("Download complete", layer))
            self._store.remember_blob(diff_id, layer)
            return unpacked

    def _written(self, pieces: Iterator[bytes], writer: Writer, layer: Descriptor) -> Iterator[bytes]:
        """``pieces``, after those of an earlier try; each written to the blob and reported."""
        yield from writer.existing()
        last = 0.0
        for piece in pieces:
            writer.write(piece)
            now = time.monotonic()
            if now - last > _REPORT_EVERY or writer.offset == layer.size:
                last = now
                self._report(_progress("Downloading", layer, writer.offset))
            if self._ending.is_set():
                raise _Stopped
            yield piece


def _is_other(platform: Platform, wanted: Platform) -> bool:
    return bool(platform.architecture) and not documents.fits(platform, wanted)


def _other_platform(reference: Reference, image: Image, wanted: Platform) -> str:
    """dockerd's words for an image for one platform that another one was asked of."""
    return (
        f"image with reference {reference.familiar} was found but its platform ({image.platform}) "
        f"does not match the specified platform ({wanted})"
    )


def _check_image(reference: Reference, manifest: Manifest) -> None:
    """Unsupported for an artifact that says it were an image, as cosign's signatures do."""
    for layer in manifest.layers:
        if "tar" not in layer.media_type:
            raise errors.Unsupported(f"{reference.familiar} is no image but holds {layer.media_type}")


def _check_distributable(layer: Descriptor) -> None:
    """Unsupported for a foreign layer, before anything is fetched."""
    if "foreign" in layer.media_type or "nondistributable" in layer.media_type:
        raise errors.Unsupported(
            f"layer {layer.digest} is a foreign layer, which isn't pulled from elsewhere",
            hint="Such layers are Windows base images'; pull another platform (--platform linux/amd64).",
        )


def _progress(status: str, layer: Descriptor, current: int | None = None) -> dict[str, Any]:
    detail = {} if current is None else {"current": current, "total": layer.size}
    return {"status": status, "progressDetail": detail, "id": digests.encoded(layer.digest)[:12]}
