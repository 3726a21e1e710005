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
from sampan.images.manifest import Descriptor
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore
from sampan.registry.transport import Transport, failure
from sampan.registry.upload import Target, exists, mount, upload
from sampan.storage import compress
from sampan.storage.digest import Digest

Report = Callable[[dict[str, Any]], None]
_AT_ONCE = 5
_PIECE = 1 << 20
_REPORT_EVERY = 0.1


@dataclass
class Pushed:
    """The digest that the registry now knows the image by, and its manifest's length in bytes."""

    digest: Digest
    size: int


def push(
    store: ImageStore, transport: Transport, reference: Reference, report: Report, *, at_once: int = _AT_ONCE
) -> Pushed:
    """Push one tag, ``at_once`` layers at a time; ``report`` gets Docker's progress objects, from their threads.

    NotFound when the image isn't here or access is denied; SystemFailure for network and registry.
    """
    image = store.by_reference(reference)
    if image is None:
        raise errors.NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
    job = _Push(store, transport, reference, report, at_once)
    raw = job.layers(image)
    job.blob(Descriptor(documents.OCI_CONFIG, image.id, store.blobs.size(image.id)), None)
    digest = job.manifest(raw)
    store.add_digest(reference, digest, image.id)
    report({"status": f"{reference.tag}: digest: {digest} size: {len(raw)}"})
    aux = {"Tag": reference.tag, "Digest": digest, "Size": len(raw)}
    report({"progressDetail": {}, "aux": aux})
    return Pushed(digest, len(raw))


class _Push:
    """One push to one repository."""

    def __init__(
        self, store: ImageStore, transport: Transport, reference: Reference, report: Report, at_once: int
    ) -> None:
        self._store, self._transport, self._reference, self._report = store, transport, reference, report
        self._scope = f"repository:{reference.path}:pull,push"
        self._path = f"/v2/{reference.path}"
        self._target = Target(reference.path, self._scope, reference.familiar)
        self._at_once = at_once

    def layers(self, image: Image) -> bytes:
        """Upload what is missing; the manifest to push (the stored one if it can stay)."""
        raw = self._store.manifest(image)
        manifest = documents.parse_manifest(raw)
        for diff_id in image.diff_ids:
            self._say("Preparing", diff_id)
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="push") as pool:
            pairs = list(zip(image.diff_ids, image.layers, manifest.layers, strict=True))
            ready = list(pool.map(lambda pair: self._layer(*pair), pairs))
        if ready == manifest.layers:
            return raw
        config = Descriptor(documents.OCI_CONFIG, image.id, self._store.blobs.size(image.id))
        fresh = documents.encode_manifest(config, ready)
        self._store.add(self._store.blobs.read(image.id), manifest=fresh)
        return fresh

    def _layer(self, diff_id: Digest, chain: Digest, layer: Descriptor) -> Descriptor:
        """Bring one layer over; the descriptor under which it lies in the registry."""
        if not self._store.blobs.has(layer.digest):
            if layer.digest != diff_id and exists(self._transport, self._target, layer.digest):
                self._say("Layer already exists", diff_id)
                return layer
            layer = self._store.layer_blob(diff_id) or self._compress(diff_id, chain)
        self.blob(layer, diff_id)
        return layer

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
        if exists(self._transport, self._target, blob.digest):
            if diff_id:
                self._say("Layer already exists", diff_id)
            return
        source = self._source(diff_id) if diff_id else ""
        if source and mount(self._transport, self._target, blob.digest, source):
            self._say(f"Mounted from {source}", diff_id or blob.digest)
            return
        upload(self._transport, self._target, blob, lambda offset: self._pieces(blob, diff_id, offset))
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

    def manifest(self, raw: bytes) -> Digest:
        """Upload the manifest under the tag; its digest."""
        kind = documents.media_type_of(raw)
        response = self._transport.request(
            "PUT",
            f"{self._path}/manifests/{self._reference.tag}",
            self._scope,
            headers={"Content-Type": kind},
            body=raw,
        )
        if response.status not in (200, 201):
            raise failure(response, self._reference.familiar, pushing=True)
        return self._store.blobs.put(raw).digest
