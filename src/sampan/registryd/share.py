"""``--share``: an engine's own images as a registry to read, without copying anything.

The engine may be running, or not: its database is only read, nothing that it made is changed.
Layers whose archive isn't kept are made again on the way out, byte for byte, as ``save`` does.

A name that stands for an index of several platforms is that index here, when all of it can be given; else it is
the image that it stands for on the engine's machine.

The image ``team/app:1`` is ``team/app:1`` here, too; an official one (``busybox``) is also found below
``library/``; one that was pulled from ``host:5000/team/app`` is found below ``team/app``, and one of
``ghcr.io/team/app`` also below that whole name.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.reference import Reference
from sampan.registryd import names
from sampan.registryd.content import Blob, Document, Page, Referrers
from sampan.registryd.names import Span
from sampan.registryd.refusals import Refusal
from sampan.registryd.repositories import unknown_blob
from sampan.storage import digest as digests
from sampan.storage.digest import Digest
from sampan.storage.layers import Layer, chain_ids
from sampan.storage.record import replay

_NAMES = "SELECT t.name, t.image, coalesce(x.digest, '') FROM tags t LEFT JOIN targets x ON x.name = t.name"


class _Named(NamedTuple):
    """What a tag stands for: an image, and the kept index that has it, or ""."""

    image: Digest
    target: Digest


class Share:
    """A view of one engine's data root. Every method may be called from any thread."""

    def __init__(self, root: Path) -> None:
        """InvalidParameter when there is no data root of an engine."""
        self._root = root
        if not (root / "sampan.db").is_file():
            raise errors.InvalidParameter(
                f"{root} is no engine's data root: there is no sampan.db",
                hint="Give the engine's --data-root as --data, /var/lib/sampan by default.",
            )
        self._lock = threading.Lock()
        # Not "mode=ro": without a running engine there is no shared memory for the log, and it must be made.
        self._db = sqlite3.connect(f"file:{root}/sampan.db?mode=rw", uri=True, check_same_thread=False)
        self._db.execute("PRAGMA query_only=ON")
        if not self._query("SELECT 1 FROM sqlite_master WHERE name = 'targets'"):
            self.close()
            raise errors.InvalidParameter(f"{root} is older than this sampan", hint="Start its engine once.")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def _query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(statement, parameters).fetchall()

    # -- names ------------------------------------------------------------------------------------------

    def _tags(self) -> dict[str, dict[str, _Named]]:
        """Repository → tag → image. Where two images have one name, Docker Hub's comes first."""
        found: dict[str, dict[str, _Named]] = {}
        rows = [(Reference.parse(name), _Named(image, index)) for name, image, index in self._query(_NAMES)]
        for reference, named in sorted(rows, key=lambda row: (row[0].domain != "docker.io", row[0])):
            for repository in _repositories(reference):
                found.setdefault(repository, {}).setdefault(reference.tag, named)
        return found

    def _repository(self, repository: str) -> dict[str, _Named]:
        found = self._tags().get(repository)
        if found is None:
            raise Refusal(
                "NAME_UNKNOWN", "repository name not known to registry", detail={"name": repository}
            )
        return found

    def tags(self, repository: str, count: int | None, last: str) -> Page:
        """See ``content.Source``."""
        return Page.of(self._repository(repository), count, last)

    def repositories(self, count: int | None, last: str) -> Page:
        """See ``content.Source``."""
        return Page.of(self._tags(), count, last)

    # -- content ----------------------------------------------------------------------------------------

    def _contents(self, repository: str) -> dict[Digest, Digest]:
        """Everything of a repository, manifests and blobs → the image that it belongs to."""
        found: dict[Digest, Digest] = {}
        for image, index in set(self._repository(repository).values()):
            found |= self._members(index)
            rows = self._query("SELECT manifest, blobs FROM images WHERE id = ?", image)
            for manifest, blobs in rows:
                found[manifest] = image
                for blob in msgspec.json.decode(blobs, type=list[str]):
                    found.setdefault(blob, image)
        return found

    def _members(self, index: Digest) -> dict[Digest, Digest]:
        """The same of an index; nothing unless all of it can be given."""
        if not index:
            return {}
        found = {index: index}
        try:
            waiting = list(documents.parse_index(self._path(index).read_bytes()).manifests)
            while waiting:
                entry = waiting.pop()
                if entry.digest in found:
                    continue
                if entry.media_type in documents.INDEXES:
                    found[entry.digest] = index
                    waiting += documents.parse_index(self._path(entry.digest).read_bytes()).manifests
                    continue
                manifest = documents.parse_manifest(self._path(entry.digest).read_bytes())
                image = manifest.config.digest
                found |= dict.fromkeys(
                    (entry.digest, image, *(layer.digest for layer in manifest.layers)), image
                )
        except (FileNotFoundError, errors.SampanError):
            return {}
        here = all(self._path(one).exists() or self._layer(image, one) for one, image in found.items())
        return found if here else {}

    def document(self, repository: str, reference: str) -> Document:
        """See ``content.Source``."""
        unknown = Refusal("MANIFEST_UNKNOWN", "manifest unknown to registry", detail={"reference": reference})
        if digests.valid(reference):
            if reference not in self._contents(repository):
                raise unknown
            digest = reference
        else:
            named = self._repository(repository).get(names.tag(reference))
            rows = self._query("SELECT manifest FROM images WHERE id = ?", named.image) if named else []
            if named is None or not rows:
                raise unknown
            digest = named.target if self._members(named.target) else rows[0][0]
        try:
            raw = self._path(digest).read_bytes()
            return Document(raw, documents.media_type_of(raw), digest)
        except (FileNotFoundError, errors.InvalidParameter):
            raise unknown from None

    def _path(self, digest: Digest) -> Path:
        return self._root / "blobs" / digest.replace(":", "/")

    def blob(self, repository: str, digest: Digest) -> Blob:
        """See ``content.Source``."""
        contents = self._contents(repository)
        if digest in contents:
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC)
                return Blob(digest, os.fstat(descriptor).st_size, descriptor)
            layer = self._layer(contents[digest], digest)
            if layer is not None:
                return MadeAgain(self._root / "layers" / digests.encoded(layer.chain_id), layer)
        raise unknown_blob(digest)

    def _layer(self, image: Digest, diff_id: Digest) -> Layer | None:
        """The layer of an image that has this content."""
        try:
            document = documents.parse_config(self._path(image).read_bytes())
            found = documents.diff_ids(document)
            chain = chain_ids(found)[found.index(diff_id)]
            record = self._root / "layers" / digests.encoded(chain) / "layer.json"
            return msgspec.json.decode(record.read_bytes(), type=Layer)
        except (FileNotFoundError, ValueError, errors.SampanError):
            return None

    def referrers(self, repository: str, digest: Digest, kind: str, last: str) -> Referrers:
        """An engine keeps none."""
        return Referrers()

    def usage(self) -> list[dict[str, Any]]:
        """See ``content.Source``; sizes are those of the images' files."""
        found = []
        for name, tags in sorted(self._tags().items()):
            images = {named.image for named in tags.values()}
            marks = ",".join("?" * len(images))
            rows = self._query(f"SELECT coalesce(sum(size), 0) FROM images WHERE id IN ({marks})", *images)
            entry = {"name": name, "tags": len(tags), "manifests": len(images), "blobs": 0}
            found.append({**entry, "size": rows[0][0], "unshared": 0})
        return found


class MadeAgain(Blob):
    """A layer's archive, made from its files."""

    def __init__(self, directory: Path, layer: Layer) -> None:
        super().__init__(layer.diff_id, layer.tar_size)
        self._directory, self._layer = directory, layer

    def pieces(self, span: Span) -> Iterator[bytes | memoryview]:
        """The bytes of ``span``. Ends early, and the connection with it, when the files changed."""
        here = self._directory
        skip, left = span.start, span.length
        try:
            for piece in replay(here / "tar.zst", here / "diff", here / "extra", self._layer.moved):
                part = memoryview(piece)[skip : skip + left]
                skip = max(0, skip - len(piece))
                left -= len(part)
                if part:
                    yield part
                if not left:
                    return
        except (OSError, errors.SystemFailure):
            return


def _repositories(reference: Reference) -> list[str]:
    """The names under which a local image is found."""
    candidates = [reference.familiar_name, reference.path]
    if reference.domain == "docker.io":
        candidates.append(reference.familiar_name.removeprefix("library/"))
    return [name for name in dict.fromkeys(candidates) if names.is_repository(name)]
