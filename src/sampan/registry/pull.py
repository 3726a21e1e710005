"""Pulling: the manifest, then its layers in parallel, each unpacked while it comes.

Of an index the image for one platform comes, or everything that it holds.

Every byte is checked against its digest and declared size before anything is given a name. A download that
breaks off goes on where it stopped, also after a restart of the engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import urllib3

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Descriptor, Platform
from sampan.images.reference import Reference
from sampan.images.store import Image, ImageStore
from sampan.registry.transport import Transport, failure
from sampan.storage import digest as digests
from sampan.storage.blobs import Writer
from sampan.storage.digest import Digest
from sampan.storage.gates import Gates
from sampan.storage.layers import Unpacked, chain_id

Report = Callable[[dict[str, Any]], None]
_ACCEPT = ", ".join((*documents.MANIFESTS, *documents.INDEXES))
_AT_ONCE = 3
_PIECE = 1 << 18
_REPORT_EVERY = 0.1


@dataclass
class Pulled:
    """The image, the digest that the registry knows it by, and whether anything was new."""

    image: Image
    digest: Digest
    newer: bool


@dataclass
class Remote:
    """A manifest or index as a registry has it."""

    raw: bytes
    media_type: str
    digest: Digest


def resolve(transport: Transport, reference: Reference, what: str = "") -> Remote:
    """The document that a tag or digest names (NotFound "manifest for x not found: …")."""
    target = what or reference.digest or reference.tag
    path = f"/v2/{reference.path}/manifests/{target}"
    response = transport.request("GET", path, _scope(reference), headers={"Accept": _ACCEPT}, stream=True)
    if response.status != 200:
        raise failure(response, f"manifest for {reference.familiar}", response.read(documents.LIMIT))
    raw = response.read(documents.LIMIT + 1)
    response.release_conn()
    if len(raw) > documents.LIMIT:
        raise errors.SystemFailure(
            f"manifest for {reference.familiar} is larger than {documents.LIMIT} bytes"
        )
    algorithm = target.partition(":")[0] if digests.valid(target) else "sha256"
    state = digests.hasher(algorithm)
    state.update(raw)
    found = digests.finish(algorithm, state)
    if digests.valid(target) and found != target:
        raise errors.SystemFailure(f"manifest verification failed for digest {target}")
    return Remote(raw, documents.media_type_of(raw, response.headers.get("Content-Type", "")), found)


def digest_of(transport: Transport, reference: Reference) -> Digest:
    """The digest that a tag stands for, as the registry says without sending the document; "" if it doesn't."""
    path = f"/v2/{reference.path}/manifests/{reference.digest or reference.tag}"
    response = transport.request("HEAD", path, _scope(reference), headers={"Accept": _ACCEPT})
    found = response.headers.get("Docker-Content-Digest", "") if response.status == 200 else ""
    return found if digests.valid(found) else ""


def _scope(reference: Reference) -> str:
    return f"repository:{reference.path}:pull"


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
        one = _One(self, transport, reference, report)
        index = remote.digest if remote.media_type in documents.INDEXES else ""
        image, newer = one.index(remote, platform, everything) if index else one.image(remote)
        newer = self._name(reference, remote.digest, image, index, newer)
        report({"status": f"Digest: {remote.digest}"})
        state = "Downloaded newer image" if newer else "Image is up to date"
        report({"status": f"Status: {state} for {reference.familiar}"})
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


class _One:
    """One pull under way."""

    def __init__(self, puller: Puller, transport: Transport, reference: Reference, report: Report) -> None:
        self._puller, self._store = puller, puller.store
        self._gates, self._at_once = puller.gates, puller.at_once
        self._transport, self._reference, self._report = transport, reference, report

    def index(self, remote: Remote, platform: Platform | None, everything: bool) -> tuple[Image, bool]:
        """The image for a platform or all that an index holds, which is kept; whether anything is new."""
        index = documents.parse_index(remote.raw)
        wanted = platform or documents.host_platform()
        if not everything:
            image, newer = self.image(self._member(documents.choose(index, wanted)), remote.digest)
            self._store.indexes.keep(remote.raw)
            return image, newer
        images: list[Image] = []
        others: list[Digest] = []
        before = self._store.indexes.whole(remote.digest) if remote.digest in self._store.indexes else False
        for entry in index.manifests:
            member = self._member(entry)
            if self._is_image(entry, member):
                images.append(self.image(member, remote.digest)[0])
            else:
                others += self._other(entry, member)
        if not images:
            raise errors.NotFound(f"no image in the manifest list of {self._reference.familiar}")
        self._store.indexes.keep(remote.raw, others)
        first = self._store.by_id(self._store.indexes.primary(remote.digest)) or images[0]
        return first, not before

    def _member(self, entry: Descriptor) -> Remote:
        return self._puller.local(entry.digest) or resolve(self._transport, self._reference, entry.digest)

    def _is_image(self, entry: Descriptor, member: Remote) -> bool:
        if documents.is_attestation(entry) or member.media_type not in documents.MANIFESTS:
            return False
        return documents.parse_manifest(member.raw).config.media_type in documents.CONFIGS

    def _other(self, entry: Descriptor, member: Remote) -> list[Digest]:
        """Fetch an attestation or another artifact; its blobs, the manifest among them."""
        if member.media_type not in documents.MANIFESTS:
            raise errors.Unsupported(
                f"the manifest list of {self._reference.familiar} holds {member.media_type}: {entry.digest}",
                hint="Pull the platforms that you need one by one, with --platform.",
            )
        manifest = documents.parse_manifest(member.raw)
        found = [self._store.blobs.put(member.raw, entry.digest).digest]
        for blob in (manifest.config, *manifest.layers):
            with self._gates.hold(blob.digest):
                self._small(blob)
            found.append(blob.digest)
        return found

    def image(self, remote: Remote, index: Digest = "") -> tuple[Image, bool]:
        """One image, by its manifest; whether it is new."""
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
            return known, False
        config = self._config(manifest.config)
        self._layers(manifest.layers, config)
        keep = [index] if index else []
        return self._store.add(config, manifest=remote.raw, keep=keep), known is None

    def _config(self, config: Descriptor) -> bytes:
        if config.size > documents.LIMIT:
            raise errors.SystemFailure(f"the configuration of {self._reference.familiar} is too large")
        self._small(config)
        return self._store.blobs.read(config.digest, documents.LIMIT)

    def _small(self, blob: Descriptor) -> None:
        """Fetch a blob that isn't a layer to be unpacked."""
        store = self._store.blobs
        if not store.has(blob.digest):
            with store.writer(blob.digest, size=blob.size) as writer:
                for piece in _body(self._transport, self._reference, blob, writer):
                    writer.write(piece)
                writer.commit()

    def _layers(self, layers: list[Descriptor], config: bytes) -> None:
        diff_ids = documents.diff_ids(documents.parse_config(config))
        if len(diff_ids) != len(layers):
            raise errors.SystemFailure(
                f"{self._reference.familiar}: manifest and configuration differ in layers"
            )
        for layer in layers:
            _check_distributable(layer)
        pool = ThreadPoolExecutor(self._at_once, thread_name_prefix="pull")
        jobs: list[Future[Unpacked | None] | None] = []
        parent: Digest | None = None
        try:
            for layer, diff_id in zip(layers, diff_ids, strict=True):
                parent = chain_id(parent, diff_id)
                if self._store.layers.present(parent):
                    self._report(_progress("Already exists", layer))
                    jobs.append(None)
                    continue
                self._report(_progress("Pulling fs layer", layer))
                jobs.append(pool.submit(self._fetch, layer, diff_id))
            parent = None
            for job, diff_id, layer in zip(jobs, diff_ids, layers, strict=True):
                if job is not None:
                    self._place(parent, diff_id, job.result())
                    self._report(_progress("Pull complete", layer))
                parent = chain_id(parent, diff_id)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for job in jobs:
                if job is not None and not job.cancelled() and job.exception() is None:
                    unpacked = job.result()
                    if unpacked is not None:
                        self._store.layers.discard(unpacked)

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
                body = _body(self._transport, self._reference, layer, writer)
                source = _written(body, writer, layer, self._report)
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


def _check_distributable(layer: Descriptor) -> None:
    """Unsupported for a foreign layer, before anything is fetched."""
    if layer.urls or "foreign" in layer.media_type or "nondistributable" in layer.media_type:
        raise errors.Unsupported(
            f"layer {layer.digest} is a foreign layer, which isn't pulled from elsewhere",
            hint="Such layers are Windows base images'; pull another platform (--platform linux/amd64).",
        )


def _progress(status: str, layer: Descriptor, current: int | None = None) -> dict[str, Any]:
    detail = {} if current is None else {"current": current, "total": layer.size}
    return {"status": status, "progressDetail": detail, "id": digests.encoded(layer.digest)[:12]}


def _written(pieces: Iterator[bytes], writer: Writer, layer: Descriptor, report: Report) -> Iterator[bytes]:
    """``pieces``, after those of an earlier try; each written to the blob and reported."""
    yield from writer.existing()
    last = 0.0
    for piece in pieces:
        writer.write(piece)
        now = time.monotonic()
        if now - last > _REPORT_EVERY or writer.offset == layer.size:
            last = now
            report(_progress("Downloading", layer, writer.offset))
        yield piece


def _body(transport: Transport, reference: Reference, blob: Descriptor, writer: Writer) -> Iterator[bytes]:
    """The blob's bytes from where ``writer`` stands; a broken connection is taken up with a Range."""
    path, failures = f"/v2/{reference.path}/blobs/{blob.digest}", 0
    while writer.offset < blob.size:
        headers = {"Range": f"bytes={writer.offset}-"} if writer.offset else {}
        response = transport.request("GET", path, _scope(reference), headers=headers, stream=True)
        try:
            if response.status not in (200, 206):
                raise failure(response, f"blob {blob.digest}", response.read(documents.LIMIT))
            skip = writer.offset if response.status == 200 else 0
            while piece := response.read1(_PIECE, decode_content=False):
                if skip:  # a server that doesn't know ranges begins again
                    piece, skip = piece[skip:], max(0, skip - len(piece))
                if piece:
                    failures = 0
                    yield piece
            if writer.offset < blob.size:
                raise urllib3.exceptions.ProtocolError("connection ended early")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            failures += 1
            if failures >= transport.tries:
                raise errors.SystemFailure(f"download of {blob.digest} failed: {error}") from error
            time.sleep(0.2 * 2**failures)
        finally:
            response.close()
