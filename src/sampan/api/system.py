"""``_ping``, ``version``, ``info``, ``system/df``: the engine about itself."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sampan import errors
from sampan.api.http import Request, Response, Route, json_response
from sampan.engine import diskusage, system

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

_PING_HEADERS = {
    "Builder-Version": "1",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Swarm": "inactive",
}
_COMPOSE_1 = "1.44"
_TEXT = "text/plain; charset=utf-8"
PONG = Response(200, b"OK", _PING_HEADERS, _TEXT)
PONG_HEAD = Response(200, b"", _PING_HEADERS, _TEXT)
"""The answers to pings."""


async def ping(engine: Engine, request: Request) -> Response:
    """GET /_ping."""
    return PONG


async def ping_head(engine: Engine, request: Request) -> Response:
    """HEAD /_ping: with ``Content-Length: 0``, as dockerd has it."""
    return PONG_HEAD


async def version(engine: Engine, request: Request) -> Response:
    """GET /version.

    docker-compose 1.x speaks whatever version is answered here, but reads fields that 1.45 (``ContainerConfig``
    of an image) and 1.52 (``id`` of an event) dropped: it is told the last version that it understands.
    """
    document = system.version_document()
    if request.headers.get("user-agent").startswith("docker-compose/1."):
        document["ApiVersion"] = _COMPOSE_1
    return json_response(document)


async def info(engine: Engine, request: Request) -> Response:
    """GET /info."""
    return json_response(await asyncio.to_thread(system.info_document, engine, request.version))


_DF_TYPES = ("container", "image", "volume", "build-cache")


async def disk_usage(engine: Engine, request: Request) -> Response:
    """GET /system/df."""
    types = request.query.list("type") or list(_DF_TYPES)
    for kind in types:
        if kind not in _DF_TYPES:
            raise errors.InvalidParameter(f"unknown object type: {kind}")
    return json_response(await diskusage.document(engine, types, request.version))


ROUTES = [
    Route("GET", "/system/df", disk_usage),
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping_head),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
]
