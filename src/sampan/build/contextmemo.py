"""What is known of contexts that came before, by the digest of their archive.

A build of an unchanged directory sends the same bytes again. What its Dockerfile says and what its COPYs found
is remembered in memory, so that such a build need not even unpack its context unless a step has to run.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")
MAX_CONTEXTS = 64
MAX_WEIGHT = 1 << 20
"""Bytes of files and, at a hundred each, entries of listings that are kept of one context."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What a COPY found: how many sources, short digests by path, the digest of it all, the history's label."""

    count: int
    files: dict[str, str]
    content: str
    label: str


@dataclass(slots=True)
class Known:
    """What is remembered of one context. ``files``: contents by path, None for one that isn't there."""

    files: dict[str, bytes | None] = field(default_factory=dict)
    copies: dict[str, Copied] = field(default_factory=dict)
    weight: int = 0

    def file(self, path: str, read: Callable[[], bytes | None]) -> bytes | None:
        """The content of ``path``, by ``read`` when it isn't known."""
        if path not in self.files:
            data = read()
            if not self._add(len(data or b"")):
                return data
            self.files[path] = data
        return self.files[path]

    def keep(self, key: str, copied: Copied) -> None:
        """Remember a COPY's findings."""
        if self._add(100 * len(copied.files)):
            self.copies[key] = copied

    def _add(self, weight: int) -> bool:
        self.weight += weight
        return self.weight <= MAX_WEIGHT


class ContextMemo:
    """The last contexts; least recently used go first. May be used from any thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, digest: str) -> Known:
        """What is remembered of the context whose archive has this digest; a new record for a new one."""
        with self._lock:
            known = self._known.pop(digest, None) or Known()
            self._known[digest] = known
            while len(self._known) > MAX_CONTEXTS:
                self._known.popitem(last=False)
            return known
