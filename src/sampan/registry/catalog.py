"""Asking a registry without pulling: tags of a repository, what a name stands for, a search on Docker Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import msgspec

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Platform
from sampan.images.reference import Reference
from sampan.registry import index
from sampan.registry import referrers as referrers_by_tag
from sampan.registry.auth import Credentials
from sampan.registry.fetch import Remote, resolve
from sampan.registry.transport import Transport, failure

_NEXT = re.compile(r'<([^>]+)>\s*;.*rel="?next"?')
_MOST = 32 << 20  # bytes of all pages of a list together
_SMALLEST = 8 << 10  # that a page counts at least
_PAGE = 1000
_DEEPEST = 8  # indexes within indexes


def tags(transport: Transport, reference: Reference) -> list[str]:
    """All tags of a repository, following the pages (distribution-spec, "Listing Tags"). NotFound."""
    pages = _pages(transport, reference, f"tags/list?n={_PAGE}", "tags")
    return [str(tag) for page in pages for tag in page]


def referrers(transport: Transport, reference: Reference, digest: str, kind: str) -> list[dict[str, Any]]:
    """Descriptors of what is about a manifest, of one artifact type or all for ``kind`` "" (distribution-spec,
    "Listing Referrers"). Of a registry without such lists, what clients noted in an index by the tag schema.
    """
    query = "?" + urlencode({"artifactType": kind}) if kind else ""
    pages = _pages(transport, reference, f"referrers/{digest}{query}", "manifests")
    try:
        found = [entry for page in pages for entry in page if isinstance(entry, dict)]
    except errors.NotFound:
        found = referrers_by_tag.read(transport, reference, digest)
    return [entry for entry in found if not kind or entry.get("artifactType") == kind]


def _pages(transport: Transport, reference: Reference, path: str, name: str) -> Iterator[list[Any]]:
    """The list ``name`` of each page of a list. NotFound, SystemFailure."""
    place, size = f"/v2/{reference.path}/{path}", 0
    while size < _MOST:
        response = transport.request("GET", place, f"repository:{reference.path}:pull")
        if response.status != 200:
            raise failure(response, f"repository {reference.familiar_name}")
        size += max(_SMALLEST, len(response.data))
        try:
            yield list(json.loads(response.data[: documents.LIMIT])[name] or ())
        except (ValueError, KeyError, TypeError) as error:
            raise errors.SystemFailure(
                f"the registry's list of {reference.familiar_name} is unreadable"
            ) from error
        following = _NEXT.match(response.headers.get("Link", ""))
        if following is None:
            return
        here = urlsplit(urljoin(transport.base(), place))
        link = urlsplit(urljoin(here.geturl(), following.group(1)))
        place = f"{link.path}?{link.query}"
        # A registry behind a proxy may not know its own scheme; its name it does.
        if link.hostname != here.hostname or link.path != here.path:
            raise errors.SystemFailure(f"the list of {reference.familiar_name} goes on elsewhere: refused")
    raise errors.SystemFailure(f"the list of {reference.familiar_name} does not end")


def describe(transport: Transport, reference: Reference) -> dict[str, Any]:
    """What ``GET /distribution/{name}/json`` answers: the descriptor of a name, and its platforms."""
    remote = resolve(transport, reference)
    return {
        "Descriptor": _descriptor(remote),
        "Platforms": [_shown(platform) for platform in _platforms(transport, reference, remote)],
    }


def _platforms(transport: Transport, reference: Reference, remote: Remote) -> list[Platform]:
    if remote.media_type in documents.INDEXES:
        return [one.platform for one in documents.parse_index(remote.raw).manifests if one.platform]
    manifest = documents.parse_manifest(remote.raw)
    if manifest.config.media_type not in documents.CONFIGS:
        return []
    return [index.platform_of(index.configuration(transport, reference, manifest))]


def _descriptor(remote: Remote) -> dict[str, Any]:
    return {"mediaType": remote.media_type, "digest": remote.digest, "size": len(remote.raw)}


def inspect(transport: Transport, reference: Reference, platform: Platform | None = None) -> dict[str, Any]:
    """An image as a registry has it, in the form of inspect; ``Size`` is that of the download, in bytes.

    ``platform`` chooses from an index; without it this machine's is taken. NotFound.
    """
    remote = resolve(transport, reference)
    found = {
        "RepoTags": [reference.familiar] if reference.tag else [],
        "RepoDigests": [f"{reference.familiar_name}@{remote.digest}"],
        "Descriptor": _descriptor(remote),
    }
    if remote.media_type in documents.INDEXES:
        entries = documents.parse_index(remote.raw)
        found["Platforms"] = [str(one.platform) for one in entries.manifests if one.platform]
        remote = _chosen(transport, reference, remote, platform or documents.host_platform())
    manifest = documents.parse_manifest(remote.raw)
    config = index.configuration(transport, reference, manifest)
    return found | {
        "Id": manifest.config.digest,
        "Created": config.get("created", ""),
        "Config": config.get("config") or {},
        "Architecture": config.get("architecture", ""),
        "Os": config.get("os", ""),
        "Size": sum(layer.size for layer in manifest.layers),
        "RootFS": {"Type": "layers", "Layers": documents.diff_ids(config)},
    }


def _chosen(transport: Transport, reference: Reference, remote: Remote, wanted: Platform) -> Remote:
    """The image for a platform, also out of an index within the index (NotFound)."""
    for _ in range(_DEEPEST):
        if remote.media_type not in documents.INDEXES:
            return remote
        chosen = documents.choose(documents.parse_index(remote.raw), wanted)
        remote = resolve(transport, reference, chosen.digest)
    raise errors.Unsupported(f"the indexes of {reference.familiar} lie too deep in each other")


def _shown(platform: Platform) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(platform)
    return shown


def search(transport: Transport, term: str, limit: int, credentials: Credentials) -> list[dict[str, Any]]:
    """Repositories that a registry's ``/v1/search`` finds, ``limit`` at most; SystemFailure when it has none."""
    query = urlencode({"q": term, "n": limit})
    headers = credentials.basic() if credentials.username else {}
    response = transport.request("GET", f"/v1/search?{query}", "", headers=headers)
    if response.status != 200:
        raise errors.SystemFailure(
            f"Unexpected status code {response.status}", hint=f"{transport.domain} can't be searched."
        )
    try:
        results = json.loads(response.data[: documents.LIMIT])["results"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.SystemFailure(f"the answer of {transport.domain} is unreadable") from error
    return [one for one in results if isinstance(one, dict)]
