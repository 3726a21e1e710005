"""One blob's way into a registry (distribution-spec, "Pushing blobs"): mounted, in one piece, or taken up again.

The whole blob goes in one PUT. When the connection breaks, the registry is asked how far it got, and the rest
follows as a chunk; where it doesn't know any more, the upload begins anew.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import urllib3

from sampan import errors
from sampan.images.manifest import Descriptor
from sampan.registry.transport import Transport, failure

_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")
DONE = (200, 201, 202, 204)
"""What registries say where the specification wants 201 or 202; so does Docker's client take it."""

_BROKEN = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Target:
    """A repository to write to: its path in the registry, the scope that it takes, its name for people."""

    path: str
    scope: str
    name: str


@dataclass
class _Session:
    """An upload that the registry has begun: where it goes on, and how many bytes are there."""

    place: str
    offset: int = 0


def exists(transport: Transport, target: Target, digest: str) -> bool:
    """Whether the repository has a blob. NotFound (as Docker words denied access).

    What a redirect of the question leads to may refuse it (addresses signed for GET alone): the blob is sent then.
    """
    path = f"/v2/{target.path}/blobs/{digest}"
    response = transport.request("HEAD", path, target.scope)
    if response.status in (401, 403) and not transport.is_elsewhere(response):
        raise failure(response, target.name, pushing=True)
    return response.status == 200


def mount(transport: Transport, target: Target, digest: str, source: str) -> str | None:
    """Have the registry take a blob over from another of its repositories: "" when it did, else the place of the
    upload that it began instead, None when it did neither.
    """
    query = urlencode({"mount": digest, "from": source})
    scope = f"{target.scope} repository:{source}:pull"
    path = f"/v2/{target.path}/blobs/uploads/?{query}"
    response = transport.request("POST", path, scope)
    if response.status == 202 and "Location" in response.headers:
        return transport.place(response.headers["Location"], path)
    return "" if response.status == 201 else None


def cancel(transport: Transport, target: Target, place: str) -> None:
    """End an upload; whether the registry takes that or not."""
    transport.request("DELETE", place, target.scope)


def upload(
    transport: Transport,
    target: Target,
    blob: Descriptor,
    read: Callable[[int], Iterator[bytes]],
    place: str = "",
) -> None:
    """Upload a blob whose bytes from an offset on ``read`` gives, to ``place`` if that was given already.

    NotFound, SystemFailure.
    """
    session = _Session(place) if place else _begin(transport, target)
    for attempt in range(transport.tries):
        problem = _try(transport, target, blob, read, session)
        if problem is None:
            return
        if attempt == transport.tries - 1:
            raise problem
        time.sleep(0.2 * 2**attempt)
        session = _take_up(transport, target, session)
    raise AssertionError("unreachable")


def _begin(transport: Transport, target: Target) -> _Session:
    path = f"/v2/{target.path}/blobs/uploads/"
    response = transport.request("POST", path, target.scope)
    if response.status not in DONE or "Location" not in response.headers:
        raise failure(response, target.name, pushing=True)
    return _Session(transport.place(response.headers["Location"], path))


def _try(
    transport: Transport,
    target: Target,
    blob: Descriptor,
    read: Callable[[int], Iterator[bytes]],
    session: _Session,
) -> errors.SampanError | None:
    """Send what is missing; the reason why that should be tried again, None when the blob is there."""
    what = f"upload of {blob.digest}"
    try:
        if session.offset:
            response = _send(transport, target, "PATCH", session.place, blob, read, session.offset)
            if response.status in DONE:
                place = transport.place(response.headers.get("Location", session.place), session.place)
                response = transport.request(
                    "PUT", _closing(place, blob), target.scope, body=b"", again=False
                )
        else:
            place = _closing(session.place, blob)
            response = _send(transport, target, "PUT", place, blob, read, 0)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        return errors.SystemFailure(f"{what} failed: {error}")
    if response.status in DONE:
        return None
    if response.status in (*_BROKEN, 404, 416):
        return failure(response, what, pushing=True)
    raise failure(response, what, pushing=True)


def _send(
    transport: Transport,
    target: Target,
    method: str,
    place: str,
    blob: Descriptor,
    read: Callable[[int], Iterator[bytes]],
    offset: int,
) -> urllib3.BaseHTTPResponse:
    headers = {"Content-Length": str(blob.size - offset), "Content-Type": "application/octet-stream"}
    if method == "PATCH":
        headers["Content-Range"] = f"{offset}-{blob.size - 1}"
    return transport.request(
        method, place, target.scope, headers=headers, body=lambda: read(offset), again=False
    )


def _closing(place: str, blob: Descriptor) -> str:
    return f"{place}{'&' if '?' in place else '?'}{urlencode({'digest': blob.digest})}"


def _take_up(transport: Transport, target: Target, session: _Session) -> _Session:
    """Where a broken upload goes on (GET of its place, 204 with a Range), or a new one."""
    response = transport.request("GET", session.place, target.scope)
    found = _RANGE.fullmatch(response.headers.get("Range", ""))
    if response.status != 204 or found is None or found.group(1) == "0":
        return _begin(transport, target)
    place = transport.place(response.headers.get("Location", session.place), session.place)
    return _Session(place, int(found.group(1)) + 1)
