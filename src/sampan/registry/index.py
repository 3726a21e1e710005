"""Indexes over images that are in a registry already: what an entry says of each, and how the index gets there."""

from __future__ import annotations

from typing import Any

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Descriptor, Platform
from sampan.images.reference import Reference
from sampan.registry.fetch import resolve
from sampan.registry.transport import Transport, failure
from sampan.registry.upload import DONE, Target, cancel, exists, mount
from sampan.storage import digest as digests


def entry(transport: Transport, reference: Reference) -> tuple[Descriptor, bytes]:
    """An index's entry for an image of the registry, its platform from the configuration; and the manifest.

    NotFound; InvalidParameter when the name stands for an index itself.
    """
    remote = resolve(transport, reference)
    if remote.media_type not in documents.MANIFESTS:
        raise errors.InvalidParameter(
            f"{reference.familiar} is a manifest list", hint="Name the images in it, by tag or digest."
        )
    config = configuration(transport, reference, documents.parse_manifest(remote.raw))
    found = Descriptor(remote.media_type, remote.digest, len(remote.raw), platform=platform_of(config))
    return found, remote.raw


def platform_of(config: dict[str, Any]) -> Platform:
    """What an image's configuration says it runs on."""
    return Platform(config.get("architecture", ""), config.get("os", ""), config.get("variant", ""))


def configuration(transport: Transport, reference: Reference, manifest: documents.Manifest) -> dict[str, Any]:
    """The configuration of an image in a registry, checked against its digest. NotFound, SystemFailure."""
    wanted = manifest.config
    path = f"/v2/{reference.path}/blobs/{wanted.digest}"
    response = transport.request("GET", path, f"repository:{reference.path}:pull")
    data = response.data
    if response.status != 200:
        raise failure(response, f"configuration of {reference.familiar}")
    if len(data) != wanted.size or digests.of(data) != wanted.digest:
        raise errors.SystemFailure(f"the configuration of {reference.familiar} isn't what its digest says")
    return documents.parse_config(data)


def encode(entries: list[Descriptor]) -> bytes:
    """The index over ``entries``: OCI's if one of them is OCI's, else Docker's manifest list."""
    oci = any(one.media_type == documents.OCI_MANIFEST for one in entries)
    index = documents.Index(entries, media_type=documents.OCI_INDEX if oci else documents.DOCKER_LIST)
    return msgspec.json.format(msgspec.json.encode(index), indent=3)


def push(
    transport: Transport, reference: Reference, images: list[tuple[Reference, Descriptor, bytes]]
) -> str:
    """Put an index over ``images`` under a tag; its digest.

    An image of another repository is taken over first, which the registry does by itself (mount).
    InvalidParameter for one of another registry.
    """
    for name, _, raw in images:
        if name.domain != reference.domain:
            raise errors.InvalidParameter(
                f"cannot use source images from a different registry than the target image: "
                f"{name.domain} != {reference.domain}"
            )
        if name.path != reference.path:
            _take_over(transport, reference, name, raw)
    raw = encode([one for _, one, _ in images])
    return _put(transport, reference, reference.tag or "latest", raw)


def _take_over(transport: Transport, reference: Reference, source: Reference, raw: bytes) -> None:
    target = Target(reference.path, f"repository:{reference.path}:pull,push", reference.familiar)
    manifest = documents.parse_manifest(raw)
    for blob in (manifest.config, *manifest.layers):
        if exists(transport, target, blob.digest):
            continue
        begun = mount(transport, target, blob.digest, source.path)
        if begun:
            cancel(transport, target, begun)
        if begun != "":
            raise errors.SystemFailure(
                f"the registry doesn't take {blob.digest} over from {source.path}",
                hint=f"Push the image to {reference.familiar_name} first.",
            )
    _put(transport, reference, digests.of(raw), raw)


def _put(transport: Transport, reference: Reference, name: str, raw: bytes) -> str:
    response = transport.request(
        "PUT",
        f"/v2/{reference.path}/manifests/{name}",
        f"repository:{reference.path}:pull,push",
        headers={"Content-Type": documents.media_type_of(raw)},
        body=raw,
    )
    if response.status not in DONE:
        raise failure(response, reference.familiar)
    return digests.of(raw)
