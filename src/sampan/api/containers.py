"""``/containers``: making, listing, inspecting, steering; streams are in container_streams.py."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec

from sampan import errors
from sampan.api import container_files, container_streams
from sampan.api.http import JSON, Request, Response, Route, StreamResponse, json_response
from sampan.api.query import parse_int
from sampan.engine.containers import changes as changes_
from sampan.engine.containers import commit as commit_
from sampan.engine.containers import create as create_
from sampan.engine.containers import filters, inspect, lifecycle, listing, remove, stats, top, update, waits
from sampan.runtime.config import ContainerConfig, CreateRequest, UpdateRequest

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


async def create(engine: Engine, request: Request) -> Response:
    """POST /containers/create."""
    body = await request.json(CreateRequest, name="")
    container, warnings = await create_.create(
        engine.containers,
        body,
        name=request.query.get("name"),
        platform=request.query.get("platform") if request.version >= (1, 41) else "",
    )
    return json_response({"Id": container.id, "Warnings": warnings}, 201)


async def list_(engine: Engine, request: Request) -> Response:
    """GET /containers/json."""
    query = request.query
    selection = filters.parse(engine.containers, query.filters(filters.LIST_FILTERS))
    found = await listing.list_containers(
        engine.containers,
        selection,
        all_=query.bool("all"),
        limit=query.int("limit"),
        size=query.bool("size"),
        version=request.version,
    )
    return json_response(found)


async def inspect_(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/json."""
    document = await inspect.inspect(
        engine.containers, request.params["id"], request.version, size=request.query.bool("size")
    )
    return json_response(document)


async def start(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/start."""
    async for chunk in request.body:
        if chunk.strip():
            raise errors.InvalidParameter(
                "starting container with non-empty request body was deprecated since API v1.22 and removed "
                "in v1.24"
            )
    for name in ("checkpoint", "checkpoint-dir"):
        if request.query.get(name):
            raise errors.Unsupported(f"{name}: checkpoints are not supported", hint="Start it without.")
    await lifecycle.start(engine.containers, request.params["id"])
    return Response(204)


def _timeout(request: Request) -> int | None:
    text = request.query.get("t")
    return parse_int(text) if text else None


async def stop(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/stop."""
    signal = request.query.get("signal") if request.version >= (1, 42) else ""
    await lifecycle.stop(engine.containers, request.params["id"], timeout=_timeout(request), signal=signal)
    return Response(204)


async def restart(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/restart."""
    signal = request.query.get("signal") if request.version >= (1, 42) else ""
    await lifecycle.restart_container(
        engine.containers, request.params["id"], timeout=_timeout(request), signal=signal
    )
    return Response(204)


async def kill(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/kill."""
    await lifecycle.kill(engine.containers, request.params["id"], request.query.get("signal"))
    return Response(204)


async def pause(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/pause."""
    await lifecycle.pause(engine.containers, request.params["id"])
    return Response(204)


async def unpause(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/unpause."""
    await lifecycle.unpause(engine.containers, request.params["id"])
    return Response(204)


async def wait(engine: Engine, request: Request) -> StreamResponse:
    """POST /containers/{id}/wait: the head at once (``docker run`` waits for it), the code later."""
    condition = waits.parse_condition(request.query.get("condition") if request.version >= (1, 30) else "")
    container = engine.containers.get(request.params["id"])
    future = waits.begin(engine.containers, container, condition)

    async def body() -> AsyncIterator[bytes]:
        try:
            code = await future
        except errors.SampanError as problem:
            yield msgspec.json.encode({"StatusCode": -1, "Error": {"Message": problem.message}}) + b"\n"
            return
        yield msgspec.json.encode({"StatusCode": code}) + b"\n"

    return StreamResponse(body(), JSON)


async def delete(engine: Engine, request: Request) -> Response:
    """DELETE /containers/{id}."""
    query = request.query
    await remove.remove(
        engine.containers,
        request.params["id"],
        force=query.bool("force"),
        volumes=query.bool("v"),
        link=query.bool("link"),
    )
    return Response(204)


async def rename(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/rename."""
    remove.rename(engine.containers, request.params["id"], request.query.get("name"))
    return Response(204)


async def prune(engine: Engine, request: Request) -> Response:
    """POST /containers/prune."""
    given = request.query.filters(filters.PRUNE_FILTERS)
    until, keep = filters.prune_bounds(given, time.time_ns())
    ids, reclaimed = await remove.prune(engine.containers, until_ns=until, keep=keep)
    return json_response({"ContainersDeleted": ids or None, "SpaceReclaimed": reclaimed})


async def update_(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/update."""
    body = await request.json(UpdateRequest)
    warnings = await update.update(engine.containers, request.params["id"], body)
    return json_response({"Warnings": warnings or None})


async def resize(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/resize."""
    await lifecycle.resize(engine.containers, request.params["id"], *size_parameters(request))
    return Response(200)


def size_parameters(request: Request) -> tuple[int, int]:
    """``h`` and ``w``; InvalidParameter in dockerd's words when one is no number."""
    found = []
    for name, word in (("h", "height"), ("w", "width")):
        text = request.query.get(name)
        if not re.fullmatch(r"\d{1,10}", text) or int(text) > 0xFFFFFFFF:
            raise errors.InvalidParameter(f'invalid resize {word} "{text}": invalid syntax')
        found.append(min(int(text), 0xFFFF))
    return found[0], found[1]


async def changes(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/changes."""
    found = await changes_.changes(engine.containers, request.params["id"])
    return json_response([{"Path": change.path, "Kind": change.kind} for change in found] or None)


async def export(engine: Engine, request: Request) -> StreamResponse:
    """GET /containers/{id}/export."""
    pieces = await changes_.export(engine.containers, request.params["id"])
    return StreamResponse(pieces, "application/octet-stream")


async def top_(engine: Engine, request: Request) -> Response:
    """GET /containers/{id}/top."""
    return json_response(
        await top.top(engine.containers, request.params["id"], request.query.get("ps_args") or "-ef")
    )


async def stats_(engine: Engine, request: Request) -> Response | StreamResponse:
    """GET /containers/{id}/stats."""
    query = request.query
    container = engine.containers.get(request.params["id"])
    if not query.bool("stream", True):
        one_shot = query.bool("one-shot") and request.version >= (1, 41)
        return json_response(await stats.once(engine.containers, container, one_shot=one_shot))

    async def lines() -> AsyncIterator[bytes]:
        async for sample in stats.stream(engine.containers, container):
            yield msgspec.json.encode(sample) + b"\n"

    return StreamResponse(lines(), None)


async def commit(engine: Engine, request: Request) -> Response:
    """POST /commit."""
    query = request.query
    body = await request.json(ContainerConfig, required=False)
    options = commit_.CommitOptions(
        repo=query.get("repo"),
        tag=query.get("tag"),
        author=query.get("author"),
        comment=query.get("comment"),
        changes=query.list("changes"),
        pause=query.bool("pause", True),
        config=body,
    )
    image_id = await commit_.commit(engine.containers, query.get("container"), options)
    return json_response({"Id": image_id}, 201)


ROUTES = [
    Route("POST", "/containers/create", create),
    Route("GET", "/containers/json", list_),
    Route("POST", "/containers/prune", prune),
    Route("POST", "/commit", commit),
    Route("GET", "/containers/{id}/json", inspect_),
    Route("POST", "/containers/{id}/start", start),
    Route("POST", "/containers/{id}/stop", stop),
    Route("POST", "/containers/{id}/restart", restart),
    Route("POST", "/containers/{id}/kill", kill),
    Route("POST", "/containers/{id}/pause", pause),
    Route("POST", "/containers/{id}/unpause", unpause),
    Route("POST", "/containers/{id}/wait", wait),
    Route("POST", "/containers/{id}/rename", rename),
    Route("POST", "/containers/{id}/update", update_),
    Route("POST", "/containers/{id}/resize", resize),
    Route("GET", "/containers/{id}/changes", changes),
    Route("GET", "/containers/{id}/export", export),
    Route("GET", "/containers/{id}/top", top_),
    Route("GET", "/containers/{id}/stats", stats_),
    Route("DELETE", "/containers/{id}", delete),
    *container_streams.ROUTES,
    *container_files.ROUTES,
]
