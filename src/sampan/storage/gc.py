"""What is still needed: leases, and the removal of blobs and layers that nothing reaches.

Reachable is what an image or another root names (``add_roots``), what a lease holds, and what the operations
running now have made or found present since the oldest of them began. So collecting never has to stop
pulls, loads or builds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database
from sampan.storage.digest import Digest
from sampan.storage.layers import LayerStore

_SCHEMA = (
    """CREATE TABLE leases (
        owner TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (owner, kind, name)
    ) WITHOUT ROWID""",
)


class Reachable(NamedTuple):
    """Names that must stay. Layers include those below them by themselves."""

    layers: set[Digest]
    blobs: set[Digest]


class Collected(NamedTuple):
    """What a collection removed, and the bytes that it freed."""

    layers: list[Digest]
    blobs: list[Digest]
    size: int


class Leases:
    """Holds content of one data root for named owners, and collects what nobody holds."""

    def __init__(self, db: Database, blobs: BlobStore, layers: LayerStore) -> None:
        self._db, self._blobs, self._layers = db, blobs, layers
        self._roots: list[Callable[[], Reachable]] = []
        self._lock = threading.Lock()
        self._working: dict[int, float] = {}
        self._count = 0
        db.migrate("leases", _SCHEMA)

    def add_roots(self, roots: Callable[[], Reachable]) -> None:
        """Ask ``roots`` at every collection what it needs."""
        self._roots.append(roots)

    def hold(self, owner: str, layers: Iterable[Digest] = (), blobs: Iterable[Digest] = ()) -> None:
        """Keep these for ``owner``, also over restarts, beside what it holds already."""
        rows = [(owner, "layer", name) for name in layers] + [(owner, "blob", name) for name in blobs]
        with self._db.transaction() as tx:
            tx.executemany("INSERT OR IGNORE INTO leases VALUES (?, ?, ?)", rows)

    def release(self, owner: str) -> None:
        """Let go of all that ``owner`` holds; nothing is removed before ``collect()``."""
        self._db.execute("DELETE FROM leases WHERE owner = ?", (owner,))

    def owners(self, layer: Digest) -> list[str]:
        """Who holds a layer."""
        rows = self._db.query("SELECT owner FROM leases WHERE kind = 'layer' AND name = ?", (layer,))
        return [row[0] for row in rows]

    @contextmanager
    def working(self) -> Iterator[None]:
        """While it lasts, what is made or found present from now on isn't collected."""
        with self._lock:
            self._count += 1
            mine = self._count
            self._working[mine] = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                del self._working[mine]

    def reachable(self) -> Reachable:
        """All that must stay now."""
        layers: set[Digest] = set()
        blobs: set[Digest] = set()
        for roots in self._roots:
            found = roots()
            layers |= found.layers
            blobs |= found.blobs
        for kind, name in self._db.query("SELECT kind, name FROM leases"):
            (layers if kind == "layer" else blobs).add(name)
        with self._lock:
            begun = min(self._working.values(), default=None)
        if begun is not None:
            layers |= self._layers.placed_since(begun)
            blobs |= self._blobs.committed_since(begun)
        return Reachable(self._with_parents(layers), blobs)

    def _with_parents(self, layers: set[Digest]) -> set[Digest]:
        known = {layer.chain_id: layer.parent for layer in self._layers.list()}
        complete: set[Digest] = set()
        for chain in layers:
            here: Digest | None = chain
            while here is not None and here not in complete:
                complete.add(here)
                here = known.get(here)
        return complete

    def collect(self) -> Collected:
        """Remove what nothing reaches. May run at any time, beside anything."""
        # Names are listed before asking who needs them: what comes later can't be among them.
        layers = self._layers.list()
        blobs = list(self._blobs.digests())
        keep = self.reachable()
        gone = [layer for layer in layers if layer.chain_id not in keep.layers]
        size = 0
        for layer in gone:
            self._layers.delete(layer.chain_id)
            size += layer.size
        dead = [digest for digest in blobs if digest not in keep.blobs]
        for digest in dead:
            size += self._blobs.size(digest)
            self._blobs.delete(digest)
        return Collected([layer.chain_id for layer in gone], dead, size)
