"""``--mirror``: content of another registry, fetched when it is first asked for and kept.

Tags are looked up there each time (a HEAD, which Docker Hub doesn't count), so are lists; when it can't be
reached, what is kept is given out with a warning. A blob is fetched once, by a thread of its own; all who want
it read behind that thread, so nobody waits for a slower client, and a download goes on when its first client
has left.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import urllib3

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Descriptor
from sampan.images.reference import Reference
from sampan.registry import catalog
from sampan.registry.fetch import resolve
from sampan.registry.transport import Transport, failure
from sampan.registryd import names
from sampan.registryd.content import Blob, Document, Page, Referrers
from sampan.registryd.documents import read as read_manifest
from sampan.registryd.names import Span
from sampan.registryd.refusals import Refusal
from sampan.registryd.repositories import Lives, Repositories, unknown_blob
from sampan.registryd.uploads import age
from sampan.storage import digest as digests
from sampan.storage.digest import Digest

log = logging.getLogger("sampan.registry")

_PIECE = 1 << 18
_LIST_LIFE = 300.0  # seconds for which the next page may come
_LISTS = 8  # lists of tags that are kept for their next pages
_ACCEPT = ", ".join((*documents.MANIFESTS, *documents.INDEXES))
_STALE = "the upstream registry can't be reached: this may be outdated"


class Mirror(Repositories):
    """Repositories that are filled from upstream. Every method may be called from any thread."""

    def __init__(self, root: Path, lives: Lives, transport: Transport) -> None:
        super().__init__(root, lives)
        self._transport = transport
        self._lock = threading.Lock()
        self._downloads: dict[Digest, Download] = {}
        self._lists: dict[str, tuple[list[str], float]] = {}

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

    def tags(self, repository: str, count: int | None, last: str) -> Page:
        """See ``content.Source``: upstream's, and what is kept when it can't be asked.

        The pages behind a first one come from the list that that one was taken from.
        """
        try:
            return Page.of(self._all_tags(repository, anew=not last), count, last)
        except errors.NotFound as error:
            raise Refusal("NAME_UNKNOWN", f"not known upstream: {error.message}") from error
        except errors.SampanError as error:
            log.warning("serving the tags of %s from the cache: %s", repository, error)
            return super().tags(repository, count, last)

    def _all_tags(self, repository: str, *, anew: bool) -> list[str]:
        now = time.monotonic()
        with self._lock:
            found, until = self._lists.get(repository, ([], 0.0))
        if anew or now > until:
            found = sorted(catalog.tags(self._transport, self._name(repository)))
        with self._lock:
            self._lists.pop(repository, None)
            self._lists[repository] = found, now + _LIST_LIFE
            while len(self._lists) > _LISTS:
                del self._lists[next(iter(self._lists))]
        return found

    def referrers(self, repository: str, digest: Digest, kind: str, last: str) -> Referrers:
        """See ``content.Source``: upstream's, and what is kept when it can't be asked or has no such list."""
        try:
            return Referrers(catalog.referrers(self._transport, self._name(repository), digest, kind))
        except errors.SampanError:
            return super().referrers(repository, digest, kind, last)

    def _name(self, repository: str, tag: str = "", digest: str = "") -> Reference:
        return Reference(self._transport.domain, repository, tag, digest)

    def _forget_manifests(self) -> int:
        """Forget what nobody asked for in a long time: upstream has it."""
        return self.links.forget_unwanted(int(age(self.lives.mirrored)))

    def _kept(self, repository: str, reference: str) -> Document | None:
        try:
            return super().document(repository, reference)
        except Refusal as error:
            if error.code == "MANIFEST_INVALID":
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
        name = self._name(repository, digest=reference) if is_digest else self._name(repository, reference)
        remote = resolve(self._transport, name)
        pushed = read_manifest(remote.raw, remote.media_type)
        tags = [] if is_digest else [names.tag(reference)]
        digest = self.store(repository, pushed, tags, remote.digest)
        return Document(remote.raw, pushed.media_type, digest)

    def blob(self, repository: str, digest: Digest) -> Blob:
        """See ``content.Source``."""
        with self._lock:
            download = self._downloads.get(digest)
        if download is not None:
            return Passing(self, repository, download.blob)
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
            if response.status not in (200, 404):
                # What the question is sent on to may be an address for GET alone. Nothing of it is read.
                response = self._transport.request("GET", path, _scope(repository), stream=True)
                response.close()
        except (errors.SampanError, urllib3.exceptions.HTTPError) as error:
            raise Refusal("UNAVAILABLE", f"the upstream registry failed: {error}") from error
        length = response.headers.get("Content-Length", "")
        if response.status != 200 or not length.isdigit():
            raise unknown_blob(digest)
        return int(length)

    def download(self, repository: str, blob: Descriptor) -> Download | None:
        """The download of a blob that is under way, or begins now; None when the blob came in the meantime."""
        with self._lock:
            found = self._downloads.get(blob.digest)
            if found is not None:
                found.repositories.add(repository)
                return found
            if self.blobs.has(blob.digest):
                with self.links.transaction() as tx:
                    self.links.link(tx, repository, blob.digest, blob.size)
                return None
            found = self._downloads[blob.digest] = Download(blob, repository)
        try:
            threading.Thread(target=self._run, args=(repository, found), name="mirror", daemon=True).start()
        except RuntimeError:  # no thread to be had: nobody may wait for it
            with self._lock:
                del self._downloads[blob.digest]
            found.finish(complete=False)
        return found

    def _run(self, repository: str, download: Download) -> None:
        problem: BaseException | None = None
        try:
            self._fill(repository, download)
        except (errors.SampanError, urllib3.exceptions.HTTPError, OSError) as error:
            log.warning("blob %s of %s: %s", download.blob.digest, repository, error)
            problem = error
        finally:
            with self._lock:
                del self._downloads[download.blob.digest]
            download.finish(complete=problem is None)

    def _fill(self, repository: str, download: Download) -> None:
        """Bring the blob here; it is kept when all of it came and is right."""
        blob = download.blob
        with self.blobs.writer(blob.digest, size=blob.size, keep=True) as writer:
            download.begin(writer.path, writer.offset)
            for piece in self._body(repository, blob, writer.offset):
                writer.write(piece)
                download.advance(writer.offset)
            writer.sync()
            with self.links.transaction() as tx:
                writer.commit(durable=False)
                for one in set(download.repositories):
                    self.links.link(tx, one, blob.digest, blob.size)

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


class Download:
    """A blob on its way from upstream: one thread writes, any number of clients read behind it."""

    def __init__(self, blob: Descriptor, repository: str) -> None:
        self.blob = blob
        self.repositories = {repository}
        self._changed = threading.Condition()
        self._descriptor = -1
        self._written = 0
        self._ended = self._complete = False

    def begin(self, path: Path, written: int) -> None:
        """The file that it goes to, and what an earlier try left in it."""
        with self._changed:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._written = written

    def advance(self, written: int) -> None:
        """So many bytes are there."""
        with self._changed:
            self._written = written
            self._changed.notify_all()

    def finish(self, *, complete: bool) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended, self._complete = True, complete
            self._changed.notify_all()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _available(self, position: int) -> int:
        """Wait until there is something behind ``position``; where that ends, ``position`` when nothing comes.

        The last byte is held back until all are verified: a client never has all of a wrong blob.
        """
        with self._changed:
            while not self._ended:
                end = min(self._written, self.blob.size - 1)
                if end > position:
                    return end
                self._changed.wait()
            return self.blob.size if self._complete else position

    def pieces(self, span: Span) -> Iterator[bytes]:
        """The bytes of ``span`` as they come; ends early when upstream does."""
        position, stop = span.start, span.start + span.length
        while position < stop:
            end = min(self._available(position), stop)
            if end <= position:
                return
            piece = os.pread(self._descriptor, min(_PIECE, end - position), position)
            position += len(piece)
            yield piece


class Passing(Blob):
    """A blob that isn't here yet. Nothing is fetched before somebody wants its bytes."""

    def __init__(self, mirror: Mirror, repository: str, blob: Descriptor) -> None:
        super().__init__(blob.digest, blob.size)
        self._mirror, self._repository, self._blob = mirror, repository, blob

    def pieces(self, span: Span) -> Iterator[bytes | memoryview]:
        """The bytes of ``span``; ends early, and the connection with it, when upstream does."""
        download = self._mirror.download(self._repository, self._blob)
        if download is not None:
            yield from download.pieces(span)
            return
        kept = self._mirror.open(self.digest)
        try:
            yield from kept.pieces(span)
        finally:
            kept.close()


def _scope(repository: str) -> str:
    return f"repository:{repository}:pull"
