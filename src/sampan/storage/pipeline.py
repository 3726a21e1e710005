"""Work on streams in threads: the libraries release the interpreter lock, so two cores are used.

Bounded queues between the stages: a slow disk slows the network, memory stays at a few megabytes.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator

from sampan.storage import digest as digests
from sampan.storage.digest import Digest

_DEPTH = 8
_INLINE = 4 << 20  # bytes up to which a thread costs more than it gives
Piece = bytes | memoryview


class ReadAhead:
    """Runs ``source`` in a thread, a few pieces ahead. Iterate, then ``close()``; errors come through."""

    def __init__(self, source: Iterable[Piece]) -> None:
        self._queue: queue.Queue[Piece | BaseException | None] = queue.Queue(_DEPTH)
        self._stopped = False
        self._thread = threading.Thread(target=self._run, args=(source,), name="read-ahead", daemon=True)
        self._thread.start()

    def _run(self, source: Iterable[Piece]) -> None:
        end: BaseException | None = None
        try:
            for piece in source:
                self._queue.put(piece)
                if self._stopped:
                    break
        except BaseException as error:  # raised again in the thread that iterates
            end = error
        self._queue.put(end)

    def __iter__(self) -> Iterator[Piece]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                self._queue.put(None)
                raise item
            yield item
        self._queue.put(None)

    def close(self) -> None:
        """Stop the source at its next piece and wait for the thread."""
        self._stopped = True
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()


class BackgroundHash:
    """A digest over pieces, calculated in a thread as soon as there is much to do."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self._algorithm = algorithm
        self._hash = digests.hasher(algorithm)
        self._queue: queue.Queue[Piece | None] | None = None
        self._thread: threading.Thread | None = None
        self.size = 0

    def update(self, piece: Piece) -> None:
        """Add a piece; it must not change afterwards."""
        self.size += len(piece)
        if self._queue is not None:
            self._queue.put(piece)
        elif self.size < _INLINE:
            self._hash.update(piece)
        else:
            self._queue = queue.Queue(_DEPTH)
            self._thread = threading.Thread(target=self._run, args=(self._queue,), name="hash", daemon=True)
            self._thread.start()
            self._queue.put(piece)

    def _run(self, source: queue.Queue[Piece | None]) -> None:
        while (piece := source.get()) is not None:
            self._hash.update(piece)

    def digest(self) -> Digest:
        """The digest of all pieces; ends the thread."""
        if self._queue is not None and self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._queue = self._thread = None
        return digests.finish(self._algorithm, self._hash)

    def through(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """``pieces`` unchanged, each hashed on its way."""
        for piece in pieces:
            self.update(piece)
            yield piece
