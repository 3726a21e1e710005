"""What every kind of registry gives: documents, blobs, lists. Servers read through ``Source`` only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from sampan.registryd.names import Span
from sampan.storage.digest import Digest


@dataclass(frozen=True)
class Document:
    """A manifest or index, the bytes that were pushed; ``warning`` is for the client's user."""

    raw: bytes
    media_type: str
    digest: Digest
    warning: str = ""


class Blob:
    """A blob to give out: an open file, or (in a subclass) what makes its bytes. Close it."""

    def __init__(self, digest: Digest, size: int, descriptor: int = -1) -> None:
        self.digest = digest
        self.size = size
        self.descriptor = descriptor

    def pieces(self, span: Span) -> Iterator[bytes | memoryview]:
        """The bytes of ``span``, for connections that can't send from a file."""
        position, end = span.start, span.start + span.length
        while position < end and (piece := os.pread(self.descriptor, min(1 << 18, end - position), position)):
            position += len(piece)
            yield piece

    def close(self) -> None:
        """Let the file go."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


@dataclass(frozen=True)
class Page:
    """A piece of a sorted list; ``more`` when it goes on behind the last entry."""

    entries: list[str]
    more: bool = False

    @classmethod
    def of(cls, entries: Iterable[str], count: int | None, last: str) -> Page:
        """At most ``count`` (None: all) of the entries behind ``last``."""
        found = sorted(name for name in entries if name > last)
        if count is None or len(found) <= count:
            return cls(found)
        return cls(found[:count], more=count > 0)


@dataclass(frozen=True)
class Referrers:
    """Descriptors of manifests with one subject; ``after`` is where the next page begins, "" at the end."""

    manifests: list[dict[str, Any]] = field(default_factory=list)
    after: str = ""


class Source(Protocol):
    """Content by repository. Every method may be called from any thread and raises ``Refusal``."""

    def document(self, repository: str, reference: str) -> Document:
        """The manifest of a tag or digest (MANIFEST_UNKNOWN, NAME_UNKNOWN)."""

    def blob(self, repository: str, digest: Digest) -> Blob:
        """A blob of the repository (BLOB_UNKNOWN, NAME_UNKNOWN)."""

    def tags(self, repository: str, count: int | None, last: str) -> Page:
        """Tags in ASCII order behind ``last`` (NAME_UNKNOWN)."""

    def repositories(self, count: int | None, last: str) -> Page:
        """Names of repositories in ASCII order behind ``last``."""

    def referrers(self, repository: str, digest: Digest, kind: str, last: str) -> Referrers:
        """Manifests whose subject is ``digest``; with ``kind`` only those of this artifact type."""

    def usage(self) -> list[dict[str, Any]]:
        """What each repository takes: tags, manifests, blobs, bytes, bytes that nobody else holds."""
