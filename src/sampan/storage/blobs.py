"""Content by digest: the one way in for bytes.

A blob's life: ``writer()`` opens a file below ``ingest/``; what is written is hashed on the way;
``commit()`` compares digest and size with what was expected, syncs, and renames the file into ``blobs/``.
Whatever goes wrong before that leaves nothing. The root is an OCI image layout (image-layout.md): other
tools can read it in place, and ``index.json`` names the images.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import msgspec

from sampan import errors
from sampan.storage import digest as digests
from sampan.storage.digest import Digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_PARTIAL_LIFE = 24 * 3600.0  # seconds that an interrupted download is kept for being taken up again
_PIECE = 1 << 20


class Descriptor(NamedTuple):
    """What a committed blob is called and how long it is (bytes)."""

    digest: Digest
    size: int


class BlobStore:
    """Blobs of one data root. Every method may be called from any thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ingest = root / "ingest"
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._fresh: dict[Digest, float] = {}
        for directory in (root / "blobs" / "sha256", root / "blobs" / "sha512", self._ingest):
            directory.mkdir(parents=True, exist_ok=True)
        self._layout()
        self._clean()

    def _layout(self) -> None:
        marker = self.root / "oci-layout"
        if not marker.exists():
            replace_file(marker, b'{"imageLayoutVersion":"1.0.0"}')
        if not (self.root / "index.json").exists():
            self.write_index([])

    def _clean(self) -> None:
        """Remove what an earlier process left half-written; partial downloads keep for a day."""
        limit = time.time() - _PARTIAL_LIFE
        for path in self._ingest.iterdir():
            if not path.name.endswith(".part") or path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)

    def path(self, digest: Digest) -> Path:
        """Where the blob lies or would lie (InvalidParameter when it is no digest)."""
        algorithm, encoded = digests.split(digest)
        return self.root / "blobs" / algorithm / encoded

    def has(self, digest: Digest) -> bool:
        """Whether the blob is here."""
        return self.path(digest).exists()

    def touch(self, digest: Digest) -> bool:
        """The same; the blob then counts as found by an operation (``committed_since``)."""
        self._committed(digest)
        return self.has(digest)

    def size(self, digest: Digest) -> int:
        """Bytes of the blob (NotFound)."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def open(self, digest: Digest) -> BinaryIO:
        """The blob for reading, unbuffered (NotFound)."""
        try:
            return open(self.path(digest), "rb", buffering=0)
        except FileNotFoundError as error:
            raise _missing(digest) from error

    def read(self, digest: Digest, limit: int = 8 << 20) -> bytes:
        """A small blob whole: a manifest or config. More than ``limit`` bytes is refused (NotFound)."""
        with self.open(digest) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise errors.InvalidParameter(f"blob {digest} is larger than {limit} bytes")
        return data

    def put(self, data: bytes, expected: Digest | None = None) -> Descriptor:
        """Store ``data`` at once."""
        with self.writer(expected) as writer:
            writer.write(data)
            return writer.commit()

    def adopt(self, path: Path, digest: Digest) -> None:
        """Publish a file of the same file system whose content was verified and synced by its owner."""
        os.chmod(path, 0o444)
        os.rename(path, self.path(digest))

    def sync_name(self, digest: Digest) -> None:
        """Bring a published blob's name to the disk. On ext4 and xfs any later fsync does it, on btrfs none."""
        folder = os.open(self.path(digest).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def delete(self, digest: Digest) -> None:
        """Remove a blob; a missing one is no error."""
        self.path(digest).unlink(missing_ok=True)
        with self._lock:
            self._fresh.pop(digest, None)

    def set_aside(self, digest: Digest) -> Path | None:
        """Take a blob's name; the file under another one, to be removed, which the next start does otherwise.

        None when the blob isn't here.
        """
        path = self._ingest / f"gone-{digest.replace(':', '-')}"
        try:
            os.rename(self.path(digest), path)
        except FileNotFoundError:
            return None
        with self._lock:
            self._fresh.pop(digest, None)
        return path

    def digests(self) -> Iterator[Digest]:
        """Every blob here, in no order."""
        for algorithm in ("sha256", "sha512"):
            for entry in os.scandir(self.root / "blobs" / algorithm):
                name = f"{algorithm}:{entry.name}"
                if digests.valid(name):
                    yield name

    def committed_since(self, moment: float) -> set[Digest]:
        """Blobs committed or found in this process at or after ``moment`` (time.monotonic())."""
        with self._lock:
            return {digest for digest, at in self._fresh.items() if at >= moment}

    def writer(
        self,
        expected: Digest | None = None,
        limit: int | None = None,
        *,
        size: int | None = None,
        keep: bool = False,
    ) -> Writer:
        """Open a writer. ``expected`` and ``size`` are checked at commit, more than ``limit`` bytes refused.

        With ``keep`` (needs ``expected``) a download that breaks off stays for a day; the next writer for the
        same digest starts behind it: see ``Writer.offset``.
        """
        if expected is not None:
            digests.parse(expected)
        if keep and expected is not None:
            return self._resumable(expected, limit, size)
        fd, name = tempfile.mkstemp(dir=self._ingest, prefix="w-")
        return Writer(self, fd, Path(name), expected, limit, size, partial=False)

    def _resumable(self, expected: Digest, limit: int | None, size: int | None) -> Writer:
        path = self._ingest / (expected.replace(":", "-") + ".part")
        with self._lock:
            if path.name in self._busy:
                raise errors.Conflict(f"blob {expected} is being written already")
            self._busy.add(path.name)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            return Writer(self, fd, path, expected, limit, size, partial=True)
        except BaseException:
            self._release(path)
            raise

    def _release(self, path: Path) -> None:
        with self._lock:
            self._busy.discard(path.name)

    def _committed(self, digest: Digest) -> None:
        with self._lock:
            self._fresh[digest] = time.monotonic()

    def write_index(self, manifests: list[dict[str, object]]) -> None:
        """Replace ``index.json``: the descriptors of all images, each with its name as an annotation."""
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        with self._lock:
            replace_file(self.root / "index.json", msgspec.json.encode(document), durable=False)


class Writer:
    """One blob being written. A context manager: leaving without ``commit()`` removes the file."""

    def __init__(
        self,
        store: BlobStore,
        fd: int,
        path: Path,
        expected: Digest | None,
        limit: int | None,
        size: int | None,
        *,
        partial: bool,
    ) -> None:
        self._store, self._fd, self._path = store, fd, path
        self._expected, self._limit, self._size = expected, limit, size
        self._partial = partial
        self._algorithm = digests.split(expected)[0] if expected else "sha256"
        self._hash = digests.hasher(self._algorithm)
        self.offset = 0
        if partial:
            self._take_up()

    @property
    def path(self) -> Path:
        """Where the content lies until it is committed: others may read behind the writer."""
        return self._path

    def _take_up(self) -> None:
        """Hash what an earlier, broken download left; more than the declared size can't be right."""
        while piece := os.read(self._fd, _PIECE):
            self._hash.update(piece)
            self.offset += len(piece)
        if self._size is not None and self.offset > self._size:
            self.restart()

    def existing(self) -> Iterator[bytes]:
        """What an earlier download left, for those who must read the content from its start."""
        position, end = 0, self.offset
        while position < end and (piece := os.pread(self._fd, min(_PIECE, end - position), position)):
            position += len(piece)
            yield piece

    def restart(self) -> None:
        """Forget everything written so far: the other side can't resume."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._hash = digests.hasher(self._algorithm)
        self.offset = 0

    def write(self, data: bytes | memoryview) -> int:
        """Append ``data``; InvalidParameter when the blob grows past its declared size or limit."""
        bound = self._size if self._size is not None else self._limit
        if bound is not None and self.offset + len(data) > bound:
            self._partial = False
            raise errors.InvalidParameter(f"content is longer than the {bound} bytes that were declared")
        write_all(self._fd, data)
        self._hash.update(data)
        self.offset += len(data)
        return len(data)

    def sync(self) -> None:
        """Bring what was written so far to the disk: a ``commit(durable=False)`` after it is durable, too."""
        os.fsync(self._fd)

    def commit(self, *, durable: bool = True) -> Descriptor:
        """Verify, sync and publish. On a wrong digest or size: InvalidParameter, and nothing is left."""
        found = digests.finish(self._algorithm, self._hash)
        if self._size is not None and self.offset != self._size:
            if self.offset > self._size:
                self._partial = False
            raise errors.InvalidParameter(f"unexpected EOF: {self.offset} of {self._size} bytes")
        if self._expected is not None and found != self._expected:
            self._partial = False
            raise errors.InvalidParameter(f"content digest mismatch: expected {self._expected}, got {found}")
        os.fchmod(self._fd, 0o444)
        if durable:
            os.fsync(self._fd)
        self._store._committed(found)
        os.rename(self._path, self._store.path(found))
        self._close()
        return Descriptor(found, self.offset)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._store._release(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd < 0:
            return
        if not self._partial or self.offset == 0:
            self._path.unlink(missing_ok=True)
        self._close()


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) until everything is written."""
    written = os.write(fd, data)
    while written < len(data):
        data = memoryview(data)[written:]
        written = os.write(fd, data)


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write ``path`` so that a reader or a crash sees the old or the new content, never a mixture."""
    fd, name = tempfile.mkstemp(dir=path.parent, prefix="." + path.name)
    try:
        try:
            write_all(fd, data)
            os.fchmod(fd, 0o644)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _missing(digest: Digest) -> errors.NotFound:
    return errors.NotFound(f"blob {digest} not found", hint="Pull or load its image again.")
