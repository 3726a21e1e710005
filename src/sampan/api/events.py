"""``GET /events``: the stream of what happens, in the format that version and Accept choose."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec

from sampan import errors
from sampan.api.http import JSON, Request, Route, StreamResponse
from sampan.api.times import time_parameter
from sampan.engine.events import docker_event

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

JSONL, NDJSON, JSON_SEQ = "application/jsonl", "application/x-ndjson", "application/json-seq"
_RECORD_SEPARATOR = b"\x1e"


def media_type(request: Request) -> str:
    """Before 1.52 always JSON; then the first of ours that ``Accept`` names, JSON lines otherwise."""
    if request.version < (1, 52):
        return JSON
    for value in request.headers.all("accept"):
        for part in value.split(","):
            media = part.partition(";")[0].strip().lower()
            if media in (JSONL, NDJSON, JSON_SEQ):
                return media
    return JSONL


async def events(engine: Engine, request: Request) -> StreamResponse:
    """GET /events."""
    since_text, until_text = request.query.get("since"), request.query.get("until")
    since, until = time_parameter("since", since_text), time_parameter("until", until_text)
    if since is not None and until is not None and since > until:
        raise errors.InvalidParameter(
            f"`since` time ({since_text}) cannot be after `until` time ({until_text})"
        )
    filters = request.query.filters()
    media = media_type(request)
    legacy = request.version < (1, 52)
    before = _RECORD_SEPARATOR if media == JSON_SEQ else b""

    async def lines() -> AsyncIterator[bytes]:
        async for event in engine.events.subscribe(filters, since, until):
            yield before + msgspec.json.encode(docker_event(event, legacy=legacy)) + b"\n"

    return StreamResponse(lines(), media)


ROUTES = [Route("GET", "/events", events)]
