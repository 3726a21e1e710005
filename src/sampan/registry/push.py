"""Pushing: layers that the registry lacks, in parallel, then configuration and manifest.

What was pulled goes out as it came, so the digest stays. A layer that was built here is compressed once; the
blob is kept, so that the next push finds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.indexes import Member
from sampan.images.manifest import Descriptor, Platform
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore
from sampan.registry import referrers
from sampan.registry.transport import Transport, failure
from sampan.registry.upload import DONE, Target, exists, mount, upload
from sampan.storage import compress
from sampan.storage.digest import Digest
from sampan.storage.gates import Gates

Report = Callable[[dict[str, Any]], None]
_AT_ONCE = 5
_IMAGES = 3  # of an index, at a time
_PIECE = 1 << 20
_REPORT_EVERY = 0.1


@dataclass
class Pushed:
    """The digest that the registry now knows the image by, and its manifest's length in bytes."""

    digest: Digest
    size: int


def push(
    store: ImageStore,
    transport: Transport,
    reference: Reference,
    report: Report,
    *,
    at_once: int = _AT_ONCE,
    platform: Platform | None = None,
) -> Pushed:
    """Push one tag, ``at_once`` layers at a time; ``report`` gets Docker's progress objects, from their threads.

    An index goes whole when nothing of it is missing here and in the repository; otherwise, and for
    ``platform``, the one image goes, and a note says so. NotFound when the image isn't here or access is denied,
    Conflict when it isn't clear which image to push; SystemFailure for network and registry.
    """
    image = store.by_reference(reference)
    if image is None:
        raise errors.NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
    index = store.target(reference)
    with _Push(store, transport, reference, report, at_once) as job:
        if index and platform is None and job.can_go_whole(index):
            raw = job.index(index)
            digest = job.manifest(raw, reference.tag)
            store.add_digest(reference, digest, image.id)
            return job.done(digest, raw)
        if platform is not None:
            image = store.get(reference.familiar, platform)
        elif index:
            image = _only(store, image, index)
        chosen = store.indexes.manifest(index, image.id) if index else image.manifest
        raw = job.image(image, chosen)
        digest = job.manifest(raw, reference.tag)
        store.add_digest(reference, digest, image.id)
        if index and platform is None:
            report({"progressDetail": {}, "aux": _note(store, index, digest, raw)})
        return job.done(digest, raw)


def _only(store: ImageStore, image: Image, index: Digest) -> Image:
    """The image that goes where the whole index can't: this machine's, or the only one (as dockerd chooses)."""
    variants = store.variants(image, index)
    if len(variants) == 1 or documents.fits(image.platform, documents.host_platform()):
        return image
    raise errors.Conflict(
        "multiple matching manifests found but no specific platform requested",
        hint=f"--platform takes one of {', '.join(str(one.platform) for one in variants)}.",
    )


def _note(store: ImageStore, index: Digest, digest: Digest, raw: bytes) -> dict[str, Any]:
    """What docker's client shows as "Not all multiplatform-content is present …"."""
    whole = store.blobs.read(index, documents.LIMIT)

    def shown(data: bytes, name: Digest) -> dict[str, Any]:
        return {"mediaType": documents.media_type_of(data), "digest": name, "size": len(data)}

    return {
        "manifestPushedInsteadOfIndex": True,
        "originalIndex": shown(whole, index),
        "selectedManifest": shown(raw, digest),
    }


class _Push:
    """One push to one repository; a context manager. Its threads end with it."""

    def __init__(
        self, store: ImageStore, transport: Transport, reference: Reference, report: Report, at_once: int
    ) -> None:
        self._store, self._transport, self._reference, self._report = store, transport, reference, report
        self._scope = f"repository:{reference.path}:pull,push"
        self._path = f"/v2/{reference.path}"
        self._target = Target(reference.path, self._scope, reference.familiar)
        self._gates = Gates()  # what several images share goes once
        self._images = ThreadPoolExecutor(_IMAGES, thread_name_prefix="push-images")
        self._layers = ThreadPoolExecutor(at_once, thread_name_prefix="push")

    def __enter__(self) -> _Push:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._images, self._layers):
            pool.shutdown(wait=True, cancel_futures=True)

    def done(self, digest: Digest, raw: bytes) -> Pushed:
        """The last lines."""
        for warning in self._transport.warnings:
            self._report({"status": f"Warning: {warning}"})
        tag = self._reference.tag
        self._report({"status": f"{tag}: digest: {digest} size: {len(raw)}"})
        aux = {"Tag": tag, "Digest": digest, "Size": len(raw)}
        self._report({"progressDetail": {}, "aux": aux})
        return Pushed(digest, len(raw))

    # -- indexes ----------------------------------------------------------------------------------------

    def can_go_whole(self, index: Digest) -> bool:
        """Whether what isn't here of an index is in the repository already."""
        indexes = self._store.indexes
        missing = [one.entry.digest for one in indexes.members(index) if not indexes.here(one)]
        return all(self._has_manifest(digest) for digest in missing)

    def _has_manifest(self, digest: Digest) -> bool:
        headers = {"Accept": ", ".join((*documents.MANIFESTS, *documents.INDEXES))}
        path = f"{self._path}/manifests/{digest}"
        return self._transport.request("HEAD", path, self._scope, headers=headers).status == 200

    def index(self, index: Digest) -> bytes:
        """Push what an index holds; the index, which is to follow."""
        indexes = self._store.indexes
        here = [member for member in indexes.members(index) if indexes.here(member)]
        for _ in self._images.map(self._member, here):
            pass
        for inner in indexes.nested(index):
            self.manifest(self._store.blobs.read(inner, documents.LIMIT), inner)
        return self._store.blobs.read(index, documents.LIMIT)

    def _member(self, member: Member) -> None:
        """Push one manifest of an index with what it names."""
        image = self._store.by_id(member.image)
        if image is not None:
            raw = self.image(image, member.entry.digest, exact=True)
        else:
            raw = self._store.blobs.read(member.entry.digest, documents.LIMIT)
            for blob in member.blobs:
                self.blob(blob, None)
        self.manifest(raw, member.entry.digest)

    # -- images -----------------------------------------------------------------------------------------

    def image(self, image: Image, digest: Digest, *, exact: bool = False) -> bytes:
        """Upload layers and configuration; the manifest to push, the stored one if it can."""
        raw = self._store.blobs.read(digest, documents.LIMIT)
        manifest = documents.parse_manifest(raw)
        for diff_id in image.diff_ids:
            self._say("Preparing", diff_id)
        pairs = zip(image.diff_ids, image.layers, manifest.layers, strict=True)
        ready = list(self._layers.map(lambda pair: self._layer(*pair, exact=exact), pairs))
        config = Descriptor(documents.OCI_CONFIG, image.id, self._store.blobs.size(image.id))
        self.blob(config, None)
        if ready == manifest.layers:
            return raw
        fresh = documents.encode_manifest(config, ready)
        self._store.add(self._store.blobs.read(image.id), manifest=fresh)
        return fresh

    def _layer(self, diff_id: Digest, chain: Digest, layer: Descriptor, *, exact: bool) -> Descriptor:
        """Bring one layer over; the descriptor under which it lies in the registry."""
        if exact and layer.digest == diff_id and not self._store.blobs.has(layer.digest):
            self._make_again(layer, chain)
        if not self._store.blobs.has(layer.digest):
            if layer.digest != diff_id and exists(self._transport, self._target, layer.digest):
                self._say("Layer already exists", diff_id)
                return layer
            if exact and layer.digest != diff_id:
                raise errors.SystemFailure(
                    f"layer {layer.digest} isn't kept as it came: the index can't be pushed whole",
                    hint="Pull it again, or push one platform with --platform.",
                )
            layer = self._store.layer_blob(diff_id) or self._compress(diff_id, chain)
        self.blob(layer, diff_id)
        return layer

    def _make_again(self, layer: Descriptor, chain: Digest) -> None:
        """A layer that is named by its plain archive, as a blob."""
        with self._store.blobs.writer(layer.digest, size=layer.size) as writer:
            for piece in self._store.layers.tar(chain):
                writer.write(piece)
            writer.commit()

    def _compress(self, diff_id: Digest, chain: Digest) -> Descriptor:
        store = self._store
        with store.blobs.writer() as writer:
            for piece in compress.gzip_pieces(store.layers.tar(chain)):
                writer.write(piece)
            blob = writer.commit()
        layer = Descriptor(documents.layer_media_type("gzip"), blob.digest, blob.size)
        store.remember_blob(diff_id, layer)
        return layer

    def _say(self, status: str, diff_id: Digest, detail: dict[str, int] | None = None) -> None:
        label = diff_id.partition(":")[2][:12]
        self._report({"status": status, "progressDetail": detail or {}, "id": label})

    def blob(self, blob: Descriptor, diff_id: Digest | None) -> None:
        """Bring a blob over unless it is there; with ``diff_id`` progress is told."""
        with self._gates.hold(blob.digest):
            self._bring(blob, diff_id)

    def _bring(self, blob: Descriptor, diff_id: Digest | None) -> None:
        if exists(self._transport, self._target, blob.digest):
            if diff_id:
                self._say("Layer already exists", diff_id)
            return
        source = self._source(diff_id) if diff_id else ""
        begun = mount(self._transport, self._target, blob.digest, source) if source else None
        if begun == "":
            self._say(f"Mounted from {source}", diff_id or blob.digest)
            return
        upload(
            self._transport,
            self._target,
            blob,
            lambda offset: self._pieces(blob, diff_id, offset),
            begun or "",
        )
        if diff_id:
            self._say("Pushed", diff_id)

    def _source(self, diff_id: Digest) -> str:
        """Another repository of the same registry that was seen to hold this layer, "" for none."""
        for image in self._store.list():
            if diff_id in image.diff_ids:
                for text in self._store.digests(image.id):
                    name = Reference.parse(text)
                    if name.domain == self._reference.domain and name.path != self._reference.path:
                        return name.path
        return ""

    def _pieces(self, blob: Descriptor, diff_id: Digest | None, offset: int) -> Iterator[bytes]:
        done, last = offset, 0.0
        with self._store.blobs.open(blob.digest) as file:
            file.seek(offset)
            while piece := file.read(_PIECE):
                yield piece
                done += len(piece)
                now = time.monotonic()
                if diff_id and (now - last > _REPORT_EVERY or done == blob.size):
                    last = now
                    self._say("Pushing", diff_id, {"current": done, "total": blob.size})

    def manifest(self, raw: bytes, name: str) -> Digest:
        """Upload a manifest or index under a tag or its digest; its digest."""
        kind = documents.media_type_of(raw)
        response = self._transport.request(
            "PUT", f"{self._path}/manifests/{name}", self._scope, headers={"Content-Type": kind}, body=raw
        )
        if response.status not in DONE:
            raise failure(response, self._reference.familiar, pushing=True)
        if "OCI-Subject" not in response.headers and b'"subject"' in raw:
            referrers.note(self._transport, self._reference, raw)
        return self._store.blobs.put(raw).digest
