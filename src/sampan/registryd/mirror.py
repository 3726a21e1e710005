"""``--mirror``: content of another registry, fetched when it is first asked for and kept.

Tags are looked up there each time (a HEAD, which Docker Hub doesn't count); when it can't be reached, what is
kept is given out with a warning. Blobs come through to the first client while they are stored; others wait
for them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterator

import urllib3

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Descriptor
from sampan.images.reference import Reference
from sampan.registry.pull import resolve
from sampan.registry.transport import Transport, failure
from sampan.registryd import names
from sampan.registryd.content import Blob, Document
from sampan.registryd.documents import read as read_manifest
from sampan.registryd.names import Span
from sampan.registryd.refusals import Refusal
from sampan.registryd.repositories import Lives, Repositories, unknown_blob
from sampan.registryd.uploads import age
from sampan.storage import digest as digests
from sampan.storage.digest import Digest
from sampan.storage.gates import Gates

log = logging.getLogger("sampan.registry")

_PIECE = 1 << 18
_ACCEPT = ", ".join((*documents.MANIFESTS, *documents.INDEXES))
_STALE = "the upstream registry can't be reached: this may be outdated"


class Mirror(Repositories):
    """Repositories that are filled from upstream. Every method may be called from any thread."""

    def attach(self, transport: Transport) -> None:
        """Say where content comes from."""
        self._transport = transport
        self._gates = Gates()

    def document(self, repository: str, reference: str) -> Document:
        """See ``content.Source``."""
        kept = self._kept(repository, reference)
        if kept is not None:
            self.links.touch(repository, kept.digest)
        if kept is not None and digests.valid(reference):
            return kept
        try:
            if kept is not None and self._current(repository, reference) == kept.digest:
                return kept
            return self._fetch(repository, reference)
        except errors.NotFound as error:
            raise Refusal("MANIFEST_UNKNOWN", f"not known upstream: {error.message}") from error
        except (errors.SampanError, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, Refusal):
                raise
            if kept is None:
                raise Refusal("UNAVAILABLE", f"the upstream registry failed: {error}") from error
            log.warning("serving %s:%s from the cache: %s", repository, reference, error)
            return Document(kept.raw, kept.media_type, kept.digest, _STALE)

    def _forget_manifests(self, lives: Lives) -> int:
        """Forget what nobody asked for in a long time: upstream has it."""
        found = self.links.unwanted(int(age(lives.mirrored)))
        for number, digest in found:
            self.links.forget(number, digest)
        return len(found)

    def _kept(self, repository: str, reference: str) -> Document | None:
        try:
            return super().document(repository, reference)
        except (Refusal, errors.NotFound) as error:
            if isinstance(error, Refusal) and error.code == "TAG_INVALID":
                raise
            return None

    def _current(self, repository: str, tag: str) -> Digest:
        """The digest that upstream has for a tag now, "" when it doesn't say."""
        path = f"/v2/{repository}/manifests/{tag}"
        response = self._transport.request("HEAD", path, _scope(repository), headers={"Accept": _ACCEPT})
        if response.status != 200:
            raise failure(response, f"{repository}:{tag}")
        return str(response.headers.get("Docker-Content-Digest", ""))

    def _fetch(self, repository: str, reference: str) -> Document:
        is_digest = digests.valid(reference)
        name = Reference(
            self._transport.domain, repository, "" if is_digest else reference, reference if is_digest else ""
        )
        remote = resolve(self._transport, name)
        pushed = read_manifest(remote.raw, remote.media_type)
        tags = [] if is_digest else [names.tag(reference)]
        digest = self.store(repository, pushed, tags, remote.digest)
        return Document(remote.raw, pushed.media_type, digest)

    def blob(self, repository: str, digest: Digest) -> Blob:
        """See ``content.Source``."""
        with self._gates.hold(digest):
            try:
                return super().blob(repository, digest)
            except Refusal as error:
                if error.code not in ("BLOB_UNKNOWN", "NAME_UNKNOWN"):
                    raise
            size = self._size(repository, digest)
        return Passing(self, repository, Descriptor("application/octet-stream", digest, size))

    def _size(self, repository: str, digest: Digest) -> int:
        path = f"/v2/{repository}/blobs/{digest}"
        try:
            response = self._transport.request("HEAD", path, _scope(repository))
        except errors.SampanError as error:
            raise Refusal("UNAVAILABLE", f"the upstream registry failed: {error}") from error
        length = response.headers.get("Content-Length", "")
        if response.status != 200 or not length.isdigit():
            raise unknown_blob(digest)
        return int(length)

    def pass_through(self, repository: str, blob: Descriptor) -> Generator[bytes, None, None]:
        """A blob's bytes as they come from upstream; it is kept when all of it came and is right.

        Runs to its end even when nobody wants the rest: close() of the generator doesn't throw work away.
        """
        with self._gates.hold(blob.digest):
            if not self.blobs.has(blob.digest):
                yield from self._download(repository, blob)
                return
            with self.links.transaction() as tx:
                self.links.link(tx, repository, blob.digest, blob.size)
        kept = self.open(blob.digest)
        try:
            for piece in kept.pieces(Span(0, kept.size)):
                yield bytes(piece)
        finally:
            kept.close()

    def _download(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        with self.blobs.writer(blob.digest, size=blob.size, keep=True) as writer:
            yield from writer.existing()
            gone, last = False, b""
            for piece in self._body(repository, blob, writer.offset):
                writer.write(piece)
                if last and not gone:
                    try:
                        yield last
                    except GeneratorExit:
                        gone = True
                last = piece
            writer.sync()
            with self.links.transaction() as tx:
                writer.commit(durable=False)
                self.links.link(tx, repository, blob.digest, blob.size)
            if last and not gone:
                yield last  # held back: a client never has all of a blob that isn't what its digest says

    def _body(self, repository: str, blob: Descriptor, offset: int) -> Iterator[bytes]:
        path = f"/v2/{repository}/blobs/{blob.digest}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        if offset == blob.size:
            return
        response = self._transport.request("GET", path, _scope(repository), headers=headers, stream=True)
        try:
            if response.status not in (200, 206):
                raise failure(response, f"blob {blob.digest}", response.read(documents.LIMIT))
            skip = offset if response.status == 200 else 0
            while piece := response.read1(_PIECE, decode_content=False):
                part = piece[skip:]
                skip = max(0, skip - len(piece))
                if part:
                    yield part
        finally:
            response.close()


class Passing(Blob):
    """A blob that isn't here yet."""

    def __init__(self, mirror: Mirror, repository: str, blob: Descriptor) -> None:
        super().__init__(blob.digest, blob.size)
        self._mirror, self._repository, self._blob = mirror, repository, blob

    def pieces(self, span: Span) -> Iterator[bytes | memoryview]:
        """The bytes of ``span``; ends early, and the connection with it, when upstream does."""
        skip, left = span.start, span.length
        try:
            with contextlib.closing(self._mirror.pass_through(self._repository, self._blob)) as source:
                for piece in source:
                    part = piece[skip : skip + left]
                    skip = max(0, skip - len(piece))
                    left -= len(part)
                    if part:
                        yield part
        except (errors.SampanError, urllib3.exceptions.HTTPError, OSError) as error:
            log.warning("blob %s of %s: %s", self.digest, self._repository, error)


def _scope(repository: str) -> str:
    return f"repository:{repository}:pull"
