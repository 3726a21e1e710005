"""Fetching what a registry has: manifests, checked by their digests, and blobs, taken up where they broke off."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

import urllib3

from sampan import errors
from sampan.images import manifest as documents
from sampan.images.manifest import Descriptor
from sampan.images.reference import Reference
from sampan.registry.transport import Transport, failure
from sampan.storage import digest as digests
from sampan.storage.blobs import Writer
from sampan.storage.digest import Digest

_ACCEPT = ", ".join((*documents.MANIFESTS, *documents.INDEXES))
_PIECE = 1 << 18
_RANGE = re.compile(r"bytes (\d+)-")


@dataclass
class Remote:
    """A manifest or index as a registry has it."""

    raw: bytes
    media_type: str
    digest: Digest


def resolve(transport: Transport, reference: Reference, what: str = "") -> Remote:
    """The document that a tag or digest names (NotFound "manifest for x not found: …").

    InvalidParameter for one that is ambiguous or isn't what its Content-Type says.
    """
    target = what or reference.digest or reference.tag
    path = f"/v2/{reference.path}/manifests/{target}"
    response = transport.request("GET", path, scope(reference), headers={"Accept": _ACCEPT})
    raw = response.data
    if response.status != 200:
        raise failure(response, f"manifest for {reference.familiar}")
    found = _digest(raw, target.partition(":")[0] if digests.valid(target) else "sha256")
    said = response.headers.get("Docker-Content-Digest", "")
    if digests.valid(target):
        said = target  # what the registry says itself may be another algorithm's
    if digests.valid(said) and _digest(raw, said.partition(":")[0]) != said:
        raise errors.SystemFailure(f"manifest verification failed for digest {said}")
    return Remote(raw, documents.checked_type(raw, response.headers.get("Content-Type", "")), found)


def _digest(raw: bytes, algorithm: str) -> Digest:
    state = digests.hasher(algorithm)
    state.update(raw)
    return digests.finish(algorithm, state)


def digest_of(transport: Transport, reference: Reference) -> Digest:
    """The digest that a tag stands for, as the registry says without sending the document; "" if it doesn't."""
    path = f"/v2/{reference.path}/manifests/{reference.digest or reference.tag}"
    response = transport.request("HEAD", path, scope(reference), headers={"Accept": _ACCEPT})
    found = response.headers.get("Docker-Content-Digest", "") if response.status == 200 else ""
    return found if digests.valid(found) else ""


def scope(reference: Reference) -> str:
    """What a token for reading the repository is asked for."""
    return f"repository:{reference.path}:pull"


def body(transport: Transport, reference: Reference, blob: Descriptor, writer: Writer) -> Iterator[bytes]:
    """The blob's bytes from where ``writer`` stands; a broken connection is taken up with a Range."""
    path, failures, ranges = f"/v2/{reference.path}/blobs/{blob.digest}", 0, True
    while writer.offset < blob.size:
        headers = {"Range": f"bytes={writer.offset}-"} if writer.offset and ranges else {}
        response = transport.request("GET", path, scope(reference), headers=headers, stream=True)
        try:
            if response.status == 416 and headers:  # it doesn't know ranges, or what lies before it doesn't
                ranges = False
                continue
            if response.status not in (200, 206):
                raise failure(response, f"blob {blob.digest}", response.read(documents.LIMIT))
            skip = writer.offset - _start(response, writer.offset)
            while piece := response.read1(_PIECE, decode_content=False):
                if skip:  # a server that doesn't know ranges begins again
                    piece, skip = piece[skip:], max(0, skip - len(piece))
                if piece:
                    failures = 0
                    yield piece
            if writer.offset < blob.size:
                raise urllib3.exceptions.ProtocolError("connection ended early")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            failures += 1
            if failures >= transport.tries:
                raise errors.SystemFailure(f"download of {blob.digest} failed: {error}") from error
            time.sleep(0.2 * 2**failures)
        finally:
            response.close()


def _start(response: urllib3.BaseHTTPResponse, asked: int) -> int:
    """Where in the blob an answer begins (ProtocolError: behind what was asked for)."""
    if response.status == 200:
        return 0
    match = _RANGE.match(response.headers.get("Content-Range", ""))
    start = int(match[1]) if match else asked
    if start > asked:
        raise urllib3.exceptions.ProtocolError(f"the answer begins at {start}, not at {asked}")
    return start
