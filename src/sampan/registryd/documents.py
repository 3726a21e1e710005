"""Reading the manifests that clients push: kind, what they need, what they are about.

Images and indexes are read by their specifications. The distribution-spec calls a manifest any JSON document
that is pushed as one: of other kinds (``application/…+json``: artifacts of clients that are older than artifacts as
images, of other ecosystems) all descriptors are found wherever they stand, so that a collection keeps what
they lead to. Schema 1 is refused: its digest isn't that of its bytes, and Docker dropped it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.registryd.refusals import Refusal
from sampan.storage import digest as digests
from sampan.storage.digest import Digest

_JSON_KIND = re.compile(r"application/[A-Za-z0-9!#$&^_.+-]+\+json")
_T = TypeVar("_T")


class _Labels(msgspec.Struct, rename="camel"):
    schema_version: Any = None
    media_type: Any = None


class _Pointer(msgspec.Struct, rename="camel"):
    digest: str
    media_type: str = ""
    size: int = 0


class _Pushed(msgspec.Struct, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    artifact_type: str = ""
    config: _Pointer | None = None
    layers: list[_Pointer] | None = None
    manifests: list[_Pointer] | None = None
    subject: _Pointer | None = None
    annotations: dict[str, str] | None = None


@dataclass(frozen=True)
class Pushed:
    """A manifest as the registry keeps it: ``needs`` must be in the repository, ``optional`` may be."""

    raw: bytes
    media_type: str
    needs: tuple[Digest, ...]
    optional: tuple[Digest, ...]
    subject: Digest
    artifact_type: str
    annotations: dict[str, str]


def read(raw: bytes, declared: str) -> Pushed:
    """Understand a pushed manifest (MANIFEST_INVALID); ``declared`` is its Content-Type."""
    kind = _kind(_decode(raw, _Labels), declared.partition(";")[0].strip())
    return _image(raw, kind) if kind in (*documents.MANIFESTS, *documents.INDEXES) else _other(raw, kind)


def _kind(found: _Labels, declared: str) -> str:
    said = found.media_type if isinstance(found.media_type, str) else ""
    if said and declared and declared != said:
        raise _invalid(f"it says {said[:200]}, its Content-Type {declared[:200]}")
    kind = said or declared
    if kind in documents.SCHEMA1 or found.schema_version == 1:
        raise _invalid("schema 1 is not supported any more: push with a newer client, as schema 2 or OCI")
    if not _JSON_KIND.fullmatch(kind):
        raise _invalid(
            f"{kind[:200] or 'without a Content-Type'} is no kind of manifest (application/…+json)"
        )
    return kind


def _image(raw: bytes, kind: str) -> Pushed:
    """An image or an index (image-spec, "manifest.md" and "image-index.md"; Docker's schema 2)."""
    found = _decode(raw, _Pushed)
    if kind in documents.INDEXES:
        complete = found.manifests is not None and found.layers is None and found.config is None
    else:
        complete = found.config is not None and found.manifests is None
    if found.schema_version != 2 or not complete:
        raise _invalid(f"its fields aren't those of {kind}")
    pointers = [*(found.manifests or ()), *((found.config,) if found.config else ()), *(found.layers or ())]
    for pointer in (*pointers, *((found.subject,) if found.subject else ())):
        _check(pointer)
    artifact = found.artifact_type
    if not artifact and kind in documents.MANIFESTS and found.config:
        artifact = found.config.media_type
    foreign = dict.fromkeys(pointer.digest for pointer in pointers if _is_foreign(pointer.media_type))
    return Pushed(
        raw,
        kind,
        tuple(dict.fromkeys(pointer.digest for pointer in pointers if pointer.digest not in foreign)),
        tuple(foreign),
        found.subject.digest if found.subject else "",
        artifact,
        found.annotations or {},
    )


def _other(raw: bytes, kind: str) -> Pushed:
    """A manifest of another kind: it needs what stands where images have it, the rest is kept when it is here."""
    found = _decode(raw, dict[str, Any])
    subject = next(_descriptors(found.get("subject")), "")
    needs = dict.fromkeys(
        _descriptors([found.get(name) for name in ("config", "layers", "manifests", "blobs")])
    )
    rest = dict.fromkeys(_descriptors({name: value for name, value in found.items() if name != "subject"}))
    annotations = found.get("annotations")
    artifact = found.get("artifactType")
    return Pushed(
        raw,
        kind,
        tuple(needs),
        tuple(digest for digest in rest if digest not in needs),
        subject,
        artifact if isinstance(artifact, str) else "",
        {key: value for key, value in annotations.items() if isinstance(value, str)}
        if isinstance(annotations, dict)
        else {},
    )


def _descriptors(document: object) -> Iterator[Digest]:
    """The digests of all descriptors (image-spec, "descriptor.md") in a JSON value."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            digest, size = value.get("digest"), value.get("size")
            if isinstance(digest, str) and isinstance(size, int) and digests.valid(digest):
                yield digest
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _decode(raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _invalid(str(error)) from error


def _invalid(why: str) -> Refusal:
    return Refusal("MANIFEST_INVALID", f"manifest invalid: {why}")


def _check(pointer: _Pointer) -> None:
    if pointer.size < 0:
        raise _invalid(f"size {pointer.size}")
    try:
        digests.parse(pointer.digest)
    except errors.InvalidParameter as error:
        raise _invalid(error.message) from error


def _is_foreign(media_type: str) -> bool:
    """Layers that may not be pushed (their owner gives them out elsewhere)."""
    return "foreign" in media_type or "nondistributable" in media_type
