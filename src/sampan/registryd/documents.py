"""Reading the manifests that clients push: kind, what they need, what they are about."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.registryd.refusals import Refusal
from sampan.storage import digest as digests
from sampan.storage.digest import Digest


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
    declared = declared.partition(";")[0].strip()
    try:
        found = msgspec.json.decode(raw, type=_Pushed)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refusal("MANIFEST_INVALID", f"manifest invalid: {error}") from error
    kind = _kind(found, declared)
    pointers = [*(found.manifests or ()), *((found.config,) if found.config else ()), *(found.layers or ())]
    for pointer in (*pointers, *((found.subject,) if found.subject else ())):
        _check(pointer)
    artifact = found.artifact_type
    if not artifact and kind in documents.MANIFESTS and found.config:
        artifact = found.config.media_type
    foreign = [pointer.digest for pointer in pointers if _is_foreign(pointer.media_type)]
    return Pushed(
        raw,
        kind,
        tuple(dict.fromkeys(pointer.digest for pointer in pointers if pointer.digest not in foreign)),
        tuple(dict.fromkeys(foreign)),
        found.subject.digest if found.subject else "",
        artifact,
        found.annotations or {},
    )


def _kind(found: _Pushed, declared: str) -> str:
    if found.schema_version != 2:
        raise Refusal(
            "MANIFEST_INVALID",
            f"manifest invalid: schemaVersion {found.schema_version} is not supported, only 2",
        )
    if declared and found.media_type and declared != found.media_type:
        raise Refusal(
            "MANIFEST_INVALID",
            f"manifest invalid: it says {found.media_type[:200]}, its Content-Type {declared[:200]}",
        )
    kind = found.media_type or declared
    if kind in documents.INDEXES:
        complete = found.manifests is not None and found.layers is None and found.config is None
    elif kind in documents.MANIFESTS:
        complete = found.config is not None and found.manifests is None
    else:
        raise Refusal("MANIFEST_INVALID", f"manifest invalid: unknown type {kind[:200] or '(none)'}")
    if not complete:
        raise Refusal("MANIFEST_INVALID", f"manifest invalid: its fields aren't those of {kind}")
    return kind


def _check(pointer: _Pointer) -> None:
    if pointer.size < 0:
        raise Refusal("MANIFEST_INVALID", f"manifest invalid: size {pointer.size}")
    try:
        digests.parse(pointer.digest)
    except errors.InvalidParameter as error:
        raise Refusal("MANIFEST_INVALID", f"manifest invalid: {error.message}") from error


def _is_foreign(media_type: str) -> bool:
    """Layers that may not be pushed (their owner gives them out elsewhere)."""
    return "foreign" in media_type or "nondistributable" in media_type
