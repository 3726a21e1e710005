"""What a COPY or ADD found: files of a tree, single files from elsewhere, archives to unpack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sampan.build.trees import Source
from sampan.kernel import paths


@dataclass(slots=True)
class Blob:
    """A single file that isn't in a source tree: a here-document or a download."""

    name: str
    digest: str
    data: bytes = b""
    path: Path | None = None
    modified: float | None = None
    mode: int = 0o644


@dataclass(slots=True)
class Archive:
    """A tar that ADD unpacks: open for reading below a root, or a downloaded file."""

    name: str
    digest: str
    source: Source | None = None
    path: Path | None = None


Found = Source | Blob | Archive


@contextmanager
def open_archive(archive: Archive) -> Iterator[BinaryIO]:
    """The archive for reading from its beginning."""
    if archive.source is not None:
        with open_source(archive.source) as file:
            yield file
    else:
        assert archive.path is not None
        with open(archive.path, "rb") as file:
            yield file


@contextmanager
def open_source(source: Source) -> Iterator[BinaryIO]:
    """The file that ``source`` is, for reading."""
    fd = paths.open_in_root(source.root.fd, source.path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        yield file
