"""``/exec`` and ``/containers/{id}/exec``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan import errors
from sampan.api import streams
from sampan.api.containers import size_parameters
from sampan.api.http import Answer, HijackedConnection, Request, Response, Route, json_response
from sampan.runtime.config import ExecConfig, ExecStart

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


async def create(engine: Engine, request: Request) -> Response:
    """POST /containers/{id}/exec."""
    config = await request.json(ExecConfig)
    exec_ = engine.execs.create(request.params["id"], config)
    return json_response({"Id": exec_.id}, 201)


async def start(engine: Engine, request: Request) -> Answer:
    """POST /exec/{id}/start: after the upgrade an error can only come as output."""
    options = await request.json(ExecStart, required=False)
    exec_id = request.params["id"]
    exec_, _ = engine.execs.check_start(exec_id)
    if options.detach:
        await engine.execs.start(exec_id, options)
        return Response(200)
    tty = exec_.config.tty

    async def serve(connection: HijackedConnection) -> None:
        try:
            await engine.execs.start(exec_id, options, connection)
        except errors.SampanError as problem:
            text = problem.message.encode("utf-8", "surrogateescape") + b"\r\n"
            await connection.write(text if tty else streams.frame(1, text))

    return streams.raw_upgrade(request, serve, tty=tty, common=True)


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /exec/{id}/json."""
    return json_response(engine.execs.document(request.params["id"]))


async def resize(engine: Engine, request: Request) -> Response:
    """POST /exec/{id}/resize."""
    rows, columns = size_parameters(request)
    await engine.execs.resize(request.params["id"], rows, columns)
    return Response(200)


ROUTES = [
    Route("POST", "/containers/{id}/exec", create),
    Route("POST", "/exec/{id}/start", start),
    Route("GET", "/exec/{id}/json", inspect),
    Route("POST", "/exec/{id}/resize", resize),
]
