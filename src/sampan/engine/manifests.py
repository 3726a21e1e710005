"""What a name stands for, manifest by manifest: ``manifests`` of image list and inspect (API 1.47, 1.48)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sampan.images import manifest as documents
from sampan.images.image import Image
from sampan.images.indexes import Member
from sampan.images.manifest import Descriptor, Platform
from sampan.storage.digest import Digest

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


def descriptor(engine: Engine, image: Image, index: Digest = "") -> dict[str, Any]:
    """The OCI descriptor of the index that a name stands for, or of the image's manifest."""
    digest = index or image.manifest
    raw = engine.blobs.read(digest, documents.LIMIT)
    found = {"mediaType": documents.media_type_of(raw), "digest": digest, "size": len(raw)}
    return found if index else {**found, "platform": _platform(image.platform)}


def listed(engine: Engine, image: Image, index: Digest = "") -> list[dict[str, Any]]:
    """``ImageManifestSummary`` for each manifest of the index, here or not; without index the image's one."""
    if index:
        return [_summary(engine, member) for member in engine.images.indexes.members(index)]
    raw = engine.images.manifest(image)
    kind = documents.media_type_of(raw)
    entry = Descriptor(kind, image.manifest, len(raw), platform=image.platform)
    return [_summary(engine, Member(entry, image.id))]


def _summary(engine: Engine, member: Member) -> dict[str, Any]:
    entry = member.entry
    image = engine.images.by_id(member.image) if member.image else None
    available = engine.images.indexes.here(member)
    content = _content(engine, entry)
    unpacked = image.size if image is not None and available else 0
    found: dict[str, Any] = {
        "ID": entry.digest,
        "Descriptor": msgspec.to_builtins(entry),
        "Available": available,
        "Size": {"Content": content, "Total": content + unpacked},
        "Kind": "image",
    }
    if documents.is_attestation(entry):
        about = (entry.annotations or {}).get("vnd.docker.reference.digest", "")
        return found | {"Kind": "attestation", "AttestationData": {"For": about}}
    if member.blobs:
        return found | {"Kind": "unknown"}
    containers = engine.containers.using_image(image.id) if image is not None else []
    platform = entry.platform or (image.platform if image is not None else Platform())
    data = {
        "Platform": _platform(platform),
        "Containers": [container.id for container in containers],
        "Size": {"Unpacked": unpacked},
    }
    return found | {"ImageData": data}


def _content(engine: Engine, entry: Descriptor) -> int:
    """Bytes of the blobs that are here, the manifest and what it names."""
    blobs = engine.blobs
    if not blobs.has(entry.digest):
        return 0
    manifest = documents.parse_manifest(blobs.read(entry.digest, documents.LIMIT))
    named = {one.digest: one.size for one in (manifest.config, *manifest.layers)}
    return blobs.size(entry.digest) + sum(size for digest, size in named.items() if blobs.has(digest))


def _platform(platform: Platform) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(platform)
    return found
