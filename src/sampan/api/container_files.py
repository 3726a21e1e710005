"""``docker cp``: /containers/{id}/archive."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec

from sampan import errors
from sampan.api.http import Request, Response, Route, StreamResponse
from sampan.engine.containers import archive

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

_STAT = "X-Docker-Container-Path-Stat"


def _path(request: Request) -> str:
    path = request.query.get("path")
    if not path:
        raise errors.InvalidParameter("bad parameter: path cannot be empty")
    return path


def _header(stat: archive.PathStat) -> dict[str, str]:
    return {_STAT: base64.b64encode(msgspec.json.encode(stat.document())).decode()}


async def stat(engine: Engine, request: Request) -> Response:
    """HEAD /containers/{id}/archive."""
    found = await archive.stat(engine.containers, request.params["id"], _path(request))
    return Response(200, b"", _header(found))


async def get(engine: Engine, request: Request) -> StreamResponse:
    """GET /containers/{id}/archive."""
    found, pieces = await archive.get(engine.containers, request.params["id"], _path(request))
    return StreamResponse(pieces, "application/x-tar", headers=_header(found))


async def put(engine: Engine, request: Request) -> Response:
    """PUT /containers/{id}/archive."""
    query = request.query
    body: AsyncIterator[bytes] = request.body
    await archive.put(
        engine.containers,
        request.params["id"],
        _path(request),
        body,
        no_overwrite_dir_non_dir=query.bool("noOverwriteDirNonDir"),
        copy_owner=query.bool("copyUIDGID"),
    )
    return Response(200)


ROUTES = [
    Route("HEAD", "/containers/{id}/archive", stat),
    Route("GET", "/containers/{id}/archive", get),
    Route("PUT", "/containers/{id}/archive", put),
]
