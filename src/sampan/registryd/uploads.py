"""Uploads under way: a file each, which grows as pieces come, over as many requests as the client likes.

The file's name holds the session's id, a hash of the repository that it was begun for, and the algorithm of
its digest: no register is needed, and what a crash leaves can be taken up. The hash goes along in memory;
after a restart it is made again from the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.registryd.refusals import Refusal
from sampan.storage import digest as digests
from sampan.storage.blobs import write_all
from sampan.storage.digest import Digest

if TYPE_CHECKING:
    from hashlib import _Hash

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PIECE = 1 << 20
_TAKE_OVER = 10.0  # seconds that a request waits for an older one of the same upload to let go


@dataclass
class Session:
    """One upload. ``offset`` is how many bytes are in the file and in the hash."""

    id: str
    path: Path
    algorithm: str
    state: _Hash | None = None
    offset: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    interrupt: Callable[[], None] | None = None


class Uploads:
    """All uploads of one data directory. Every method may be called from any thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        root.mkdir(parents=True, exist_ok=True)

    def begin(self, repository: str, algorithm: str) -> str:
        """A new upload's id; DIGEST_INVALID for an algorithm that we don't know."""
        if algorithm not in ("sha256", "sha512"):
            raise Refusal("DIGEST_INVALID", "unsupported digest algorithm", detail=algorithm[:100])
        identity = str(uuid.uuid4())
        path = self._path(identity, repository, algorithm)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        return identity

    def _path(self, identity: str, repository: str, algorithm: str) -> Path:
        owner = hashlib.sha256(repository.encode()).hexdigest()[:32]
        return self.root / f"{identity}.{owner}.{algorithm}"

    def _session(self, identity: str, repository: str) -> Session:
        """The session, made again from its file after a restart (BLOB_UPLOAD_UNKNOWN)."""
        if _ID.fullmatch(identity):
            for algorithm in ("sha256", "sha512"):
                path = self._path(identity, repository, algorithm)
                if path.exists():
                    with self._lock:
                        return self._sessions.setdefault(identity, Session(identity, path, algorithm))
        raise Refusal("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry", detail=identity[:100])

    def offset(self, identity: str, repository: str) -> int:
        """How many bytes have come (BLOB_UPLOAD_UNKNOWN)."""
        return self._session(identity, repository).path.stat().st_size

    @contextlib.contextmanager
    def open(
        self, identity: str, repository: str, interrupt: Callable[[], None] | None = None
    ) -> Iterator[Open]:
        """The upload for writing, by one request at a time (BLOB_UPLOAD_UNKNOWN).

        A later request wins: a client that comes back after its connection broke doesn't wait until the old
        one times out. ``interrupt`` ends the request that is opening it now.
        """
        session = self._session(identity, repository)
        if not session.lock.acquire(blocking=False):
            if session.interrupt is not None:
                session.interrupt()
            if not session.lock.acquire(timeout=_TAKE_OVER):
                raise Refusal("BLOB_UPLOAD_INVALID", "another request is writing to this upload", status=409)
        try:
            session.interrupt = interrupt
            with Open(self, session) as opened:
                yield opened
        finally:
            session.interrupt = None
            session.lock.release()

    def cancel(self, identity: str, repository: str) -> None:
        """Remove an upload (BLOB_UPLOAD_UNKNOWN)."""
        with self.open(identity, repository) as opened:
            opened.remove()

    def forget(self, session: Session) -> None:
        """The session's file is gone."""
        with self._lock:
            self._sessions.pop(session.id, None)

    def collect(self, before: float) -> int:
        """Remove uploads that got no byte since ``before`` (seconds since 1970); how many."""
        gone = 0
        for path in list(self.root.iterdir()):
            identity = path.name.partition(".")[0]
            with self._lock:
                session = self._sessions.get(identity)
            if session is not None and not session.lock.acquire(blocking=False):
                continue
            try:
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_mtime < before:
                        path.unlink()
                        gone += 1
                        with self._lock:
                            self._sessions.pop(identity, None)
            finally:
                if session is not None:
                    session.lock.release()
        return gone


class Open:
    """An upload that one request writes to; a context manager."""

    def __init__(self, uploads: Uploads, session: Session) -> None:
        self._uploads, self._session = uploads, session
        self._fd = -1

    def __enter__(self) -> Open:
        session = self._session
        try:
            self._fd = os.open(session.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Refusal("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry") from None
        if session.state is None or os.fstat(self._fd).st_size != session.offset:
            session.state, session.offset = self._hash(session.algorithm)
        os.lseek(self._fd, session.offset, os.SEEK_SET)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def offset(self) -> int:
        """How many bytes have come."""
        return self._session.offset

    @property
    def path(self) -> Path:
        """The file."""
        return self._session.path

    def _hash(self, algorithm: str) -> tuple[_Hash, int]:
        state, position = digests.hasher(algorithm), 0
        while piece := os.pread(self._fd, _PIECE, position):
            state.update(piece)
            position += len(piece)
        return state, position

    def write(self, piece: bytes | memoryview) -> None:
        """Append."""
        session = self._session
        assert session.state is not None
        write_all(self._fd, piece)
        session.state.update(piece)
        session.offset += len(piece)

    def verify(self, expected: Digest) -> None:
        """Sync, and DIGEST_INVALID when the content is another one; the upload is gone then."""
        algorithm = expected.partition(":")[0]
        if algorithm == self._session.algorithm and self._session.state is not None:
            found = digests.finish(algorithm, self._session.state)
        else:
            found = digests.finish(algorithm, self._hash(algorithm)[0])
        if found != expected:
            self.remove()
            detail = {"expected": expected, "found": found}
            raise Refusal("DIGEST_INVALID", "provided digest did not match uploaded content", detail=detail)
        os.fsync(self._fd)

    def moved(self) -> None:
        """The file was given another place."""
        self._uploads.forget(self._session)

    def remove(self) -> None:
        """Remove the upload."""
        self._session.path.unlink(missing_ok=True)
        self.moved()


def age(seconds: float) -> float:
    """The moment so many seconds ago, in seconds since 1970."""
    return time.time() - seconds
