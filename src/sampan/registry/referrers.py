"""What is about a manifest, in registries without the referrers API: an index under a tag made of the digest.

Distribution-spec, "Referrers Tag Schema" and "Pushing Manifests with Subject".
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import LIMIT
from sampan.images.reference import Reference
from sampan.registry.fetch import resolve
from sampan.registry.transport import Transport, failure
from sampan.storage import digest as digests


def tag_of(digest: str) -> str:
    """The tag under which clients note what is about a manifest."""
    algorithm, _, encoded = digest.partition(":")
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{algorithm[:32]}-{encoded[:64]}")


def read(transport: Transport, reference: Reference, digest: str) -> list[dict[str, Any]]:
    """The descriptors that are noted; none where the tag stands for no index."""
    try:
        return _entries(transport, reference, digest)
    except errors.InvalidParameter:
        return []


def _entries(transport: Transport, reference: Reference, digest: str) -> list[dict[str, Any]]:
    """The same; InvalidParameter for something else than an index."""
    try:
        remote = resolve(transport, reference, tag_of(digest))
    except errors.NotFound:
        return []
    documents.parse_index(remote.raw)
    found: list[dict[str, Any]] = json.loads(remote.raw)["manifests"]
    return found


def note(transport: Transport, reference: Reference, raw: bytes) -> None:
    """Note a manifest that was pushed, when it is about another one and the registry didn't see that.

    InvalidParameter when the tag stands for something else, SystemFailure.
    """
    document = json.loads(raw)
    subject = document.get("subject")
    if not isinstance(subject, dict) or not digests.valid(str(subject.get("digest"))):
        return
    entries = _entries(transport, reference, subject["digest"])
    entry: dict[str, Any] = {
        "mediaType": documents.media_type_of(raw),
        "digest": digests.of(raw),
        "size": len(raw),
    }
    kind = document.get("artifactType") or (document.get("config") or {}).get("mediaType")
    if kind:
        entry["artifactType"] = kind
    if document.get("annotations"):
        entry["annotations"] = document["annotations"]
    if any(one.get("digest") == entry["digest"] for one in entries):
        return
    index = {"schemaVersion": 2, "mediaType": documents.OCI_INDEX, "manifests": [*entries, entry]}
    data = msgspec.json.encode(index)
    if len(data) > LIMIT:
        raise errors.SystemFailure(f"the list of what is about {subject['digest']} is full")
    path = f"/v2/{reference.path}/manifests/{tag_of(subject['digest'])}"
    scope = f"repository:{reference.path}:pull,push"
    kinds = {"Content-Type": documents.OCI_INDEX}
    response = transport.request("PUT", path, scope, headers=kinds, body=data)
    if response.status >= 300:
        raise failure(response, reference.familiar, pushing=True)
