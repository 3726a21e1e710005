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
from urllib.parse import urlencode, urljoin

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Descriptor
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore
from sampan.registry.transport import Transport, failure
from sampan.storage import compress
from sampan.storage.digest import Digest

Report = Callable[[dict[str, Any]], None]
_AT_ONCE = 4
_PIECE = 1 << 20
_REPORT_EVERY = 0.1


@dataclass
class Pushed:
    """The digest that the registry now knows the image by, and its manifest's length in bytes."""

    digest: Digest
    size: int


def push(store: ImageStore, transport: Transport, reference: Reference, report: Report) -> Pushed:
    """Push one tag; ``report`` gets Docker's progress objects, from several threads.

    NotFound when the image isn't here or access is denied; SystemFailure for network and registry.
    """
    image = store.by_reference(reference)
    if image is None:
        raise errors.NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
    job = _Push(store, transport, reference, report)
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

    def __init__(self, store: ImageStore, transport: Transport, reference: Reference, report: Report) -> None:
        self._store, self._transport, self._reference, self._report = store, transport, reference, report
        self._scope = f"repository:{reference.path}:pull,push"
        self._path = f"/v2/{reference.path}"

    def layers(self, image: Image) -> bytes:
        """Upload what is missing; the manifest to push (the stored one if it can stay)."""
        raw = self._store.manifest(image)
        manifest = documents.parse_manifest(raw)
        for diff_id in image.diff_ids:
            self._say("Preparing", diff_id)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="push") as pool:
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
            if layer.digest != diff_id and self._exists(layer.digest):
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

    def _exists(self, digest: Digest) -> bool:
        response = self._transport.request("HEAD", f"{self._path}/blobs/{digest}", self._scope)
        if response.status in (401, 403):
            raise failure(response, self._reference.familiar)
        return response.status == 200

    def blob(self, blob: Descriptor, diff_id: Digest | None) -> None:
        """Upload a blob unless it is there; with ``diff_id`` progress is told."""
        if self._exists(blob.digest):
            if diff_id:
                self._say("Layer already exists", diff_id)
            return
        response = self._transport.request("POST", f"{self._path}/blobs/uploads/", self._scope)
        if response.status != 202:
            raise failure(response, self._reference.familiar)
        place = urljoin(self._transport.base(), response.headers["Location"])
        place += ("&" if "?" in place else "?") + urlencode({"digest": blob.digest})
        headers = {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
        body = self._pieces(blob, diff_id)
        response = self._transport.request("PUT", place, self._scope, headers=headers, body=body)
        if response.status != 201:
            raise failure(response, f"upload of {blob.digest}")
        if diff_id:
            self._say("Pushed", diff_id)

    def _pieces(self, blob: Descriptor, diff_id: Digest | None) -> Iterator[bytes]:
        done, last = 0, 0.0
        with self._store.blobs.open(blob.digest) as file:
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
            raise failure(response, self._reference.familiar)
        return self._store.blobs.put(raw).digest
