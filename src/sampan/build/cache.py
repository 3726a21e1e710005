"""The build cache: which inputs made which layer.

A key is a digest over everything that decides a step's result: for RUN the layer below, command, environment
and mounts; for COPY the layer below and the content of the sources; for an instruction that only changes
the configuration the image before it. Beside the key a row keeps its inputs one by one, so that a miss can
be explained by comparing it with the last build's row in the same place (``slot``). Values that may be
secret are kept as digests only.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import Any, Protocol

from sampan.storage.db import Database
from sampan.storage.layers import LayerStore

_SCHEMA = [
    """CREATE TABLE build_cache (key TEXT PRIMARY KEY, slot TEXT NOT NULL, chain TEXT, created TEXT NOT NULL,
       description TEXT NOT NULL, size INTEGER NOT NULL, inputs BLOB NOT NULL, made REAL NOT NULL,
       used REAL NOT NULL, uses INTEGER NOT NULL)""",
    "CREATE INDEX build_cache_slot ON build_cache (slot, made)",
    "CREATE INDEX build_cache_used ON build_cache (used)",
]
_FILES_KEPT = 20_000
MAX_AGE = 30 * 86400.0
"""Seconds after its last use that a row is kept."""


class Leases(Protocol):
    """What the cache needs of the store's leases."""

    def hold(self, owner: str, layers: Any = (), blobs: Any = ()) -> None:
        """Keep layers and blobs from being collected."""

    def release(self, owner: str) -> None:
        """Let them go."""


@dataclass(slots=True)
class Inputs:
    """What a step depends on. ``files`` maps paths to short digests; other values are shown as they are."""

    kind: str
    below: str
    values: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    content: str = ""

    def key(self) -> str:
        """Hex SHA-256 over all inputs."""
        text = json.dumps(
            [1, self.kind, self.below, self.values, self.variables, self.content],
            sort_keys=True,
            separators=(",", ":"),
        )
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()

    def packed(self) -> bytes:
        """For the row."""
        files = self.files if len(self.files) <= _FILES_KEPT else {}
        fields = [self.kind, self.below, self.values, self.variables, files, self.content]
        return zlib.compress(json.dumps(fields).encode("utf-8", "surrogateescape"), 1)

    @classmethod
    def unpacked(cls, data: bytes) -> Inputs:
        """From the row."""
        return cls(*json.loads(zlib.decompress(data)))


@dataclass(frozen=True, slots=True)
class Hit:
    """What the cache knows of a step: the layer it made (None: it changed no file) and when (RFC 3339)."""

    chain: str | None
    created: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row for listings: times in seconds since 1970, size in bytes."""

    key: str
    description: str
    size: int
    made: float
    used: float
    uses: int
    chain: str | None


def opaque(value: str) -> str:
    """A short digest that stands for a value which may be secret."""
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class Cache:
    """The rows, in the engine's database. All methods may be called from any thread."""

    def __init__(self, db: Database, layers: LayerStore, leases: Leases) -> None:
        db.migrate("build_cache", _SCHEMA)
        self._db = db
        self._layers = layers
        self._leases = leases
        self._touched: set[str] = set()
        self._lock = threading.Lock()

    def lookup(self, key: str) -> Hit | None:
        """The row of ``key``, if its layer is still there."""
        statement = "SELECT chain, created, description FROM build_cache WHERE key = ?"
        rows = self._db.query(statement, (key,))
        if not rows:
            return None
        chain, created, description = rows[0]
        if chain and not self._layers.has(chain):
            self._forget([key])
            return None
        with self._lock:
            self._touched.add(key)
        return Hit(chain or None, created, description)

    def has(self, key: str) -> bool:
        """Whether :meth:`lookup` would find something; doesn't count as a use."""
        rows = self._db.query("SELECT chain FROM build_cache WHERE key = ?", (key,))
        return bool(rows) and (not rows[0][0] or self._layers.has(rows[0][0]))

    def store(self, inputs: Inputs, slot: str, description: str, hit: Hit, size: int) -> None:
        """Remember what a step made."""
        key = inputs.key()
        now = time.time()
        if hit.chain:
            self._leases.hold(f"build-cache:{key}", layers=[hit.chain])
        self._db.execute(
            "INSERT OR REPLACE INTO build_cache VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (key, slot, hit.chain or "", hit.created, description, size, inputs.packed(), now, now),
        )

    def take_in(self, key: str, hit: Hit) -> None:
        """Add what an image's inline cache says of a key that isn't known: the result, not its inputs."""
        if self.lookup(key) is not None:
            return
        if hit.chain:
            self._leases.hold(f"build-cache:{key}", layers=[hit.chain])
        size = self._layers.get(hit.chain).size if hit.chain else 0
        empty = Inputs("", "").packed()
        now = time.time()
        self._db.execute(
            "INSERT OR IGNORE INTO build_cache VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (key, "", hit.chain or "", hit.created, hit.description, size, empty, now, now),
        )

    def previous(self, slot: str) -> Inputs | None:
        """The inputs of the last step that was made in this place."""
        statement = "SELECT inputs FROM build_cache WHERE slot = ? ORDER BY made DESC LIMIT 1"
        rows = self._db.query(statement, (slot,))
        return Inputs.unpacked(rows[0][0]) if rows else None

    def flush(self) -> None:
        """Write down which rows were used."""
        with self._lock:
            touched, self._touched = self._touched, set()
        if touched:
            now = time.time()
            with self._db.transaction() as tx:
                statement = "UPDATE build_cache SET used = ?, uses = uses + 1 WHERE key = ?"
                tx.executemany(statement, [(now, key) for key in touched])

    def rows(self) -> list[Row]:
        """All rows, least recently used first; what builds have just used is among the last."""
        self.flush()
        columns = "key, description, size, made, used, uses, chain"
        found = self._db.query(f"SELECT {columns} FROM build_cache ORDER BY used")
        return [
            Row(key, what, size, made, used, uses, chain or None)
            for key, what, size, made, used, uses, chain in found
        ]

    def parents(self, rows: list[Row]) -> dict[str, tuple[str, ...]]:
        """The keys of the rows that made what each row's layer stands on, by the row's key."""
        makers: dict[str | None, list[str]] = {}
        for row in rows:
            makers.setdefault(row.chain, []).append(row.key)
        makers.pop(None, None)
        here = [row for row in rows if row.chain and self._layers.has(row.chain)]
        return {row.key: tuple(makers.get(self._layers.get(row.chain or "").parent, ())) for row in here}

    def remove(self, keys: list[str]) -> None:
        """Forget these rows; their layers go with the store's next collection unless an image has them."""
        self._forget(keys)

    def _forget(self, keys: list[str]) -> None:
        if not keys:
            return
        with self._db.transaction() as tx:
            tx.executemany("DELETE FROM build_cache WHERE key = ?", [(key,) for key in keys])
        for key in keys:
            self._leases.release(f"build-cache:{key}")


def explain(old: Inputs | None, new: Inputs) -> tuple[str, ...]:
    """Why ``new`` wasn't found, in sentences, by comparing it with what was made in its place last time."""
    if old is None:
        return ("it was not built before in this place",)
    reasons = []
    if old.kind != new.kind:
        return (f"the instruction changed from {old.kind} to {new.kind}",)
    for name in sorted(old.values.keys() | new.values.keys()):
        before, after = old.values.get(name), new.values.get(name)
        if before != after:
            reasons.append(f"{name} changed from {_short(before)} to {_short(after)}")
    reasons += _compared("variable", old.variables, new.variables)
    reasons += _compared("file", old.files, new.files)
    if old.content != new.content and not any(r.startswith("file ") for r in reasons):
        reasons.append("the content, modes or owners of its sources changed")
    if old.below != new.below:
        reasons.append("what it builds on changed")
    return tuple(reasons) or ("its result is no longer in the store, or the cache was pruned",)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if value is not None else "nothing"
    return text if len(text) <= 120 else text[:117] + "…"


def _compared(noun: str, old: dict[str, str], new: dict[str, str]) -> list[str]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            found.append(f"{noun} {name} is gone")
        elif name not in old:
            found.append(f"{noun} {name} is new")
        elif old[name] != new[name]:
            found.append(f"{noun} {name} changed")
    return found if len(found) <= 10 else [*found[:10], f"{len(found) - 10} more {noun}s changed"]
