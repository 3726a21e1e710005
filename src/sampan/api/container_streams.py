"""Streams of a container: attach (raw and websocket) and logs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import TYPE_CHECKING

from sampan import errors
from sampan.api import streams, websocket
from sampan.api.http import Answer, HijackedConnection, Request, Response, Route, StreamResponse, Upgrade
from sampan.engine.containers import attach as attach_
from sampan.engine.containers import logs as logs_
from sampan.engine.containers.logoutput import LogOptions
from sampan.engine.containers.timestamps import parse_unix

if TYPE_CHECKING:
    from sampan.engine.containers.record import Container
    from sampan.engine.engine import Engine


def _options(request: Request, container: Container) -> attach_.AttachOptions:
    query, config = request.query, container.config
    keys = attach_.parse_keys(query.get("detachKeys") or attach_.DEFAULT_KEYS)
    stream = query.bool("stream")
    return attach_.AttachOptions(
        stdin=stream and query.bool("stdin") and config.open_stdin,
        stdout=stream and query.bool("stdout"),
        stderr=stream and query.bool("stderr"),
        lasting_stdin=config.tty or not config.stdin_once,
        detach_keys=keys if config.tty else b"",
    )


async def attach(engine: Engine, request: Request) -> Answer:
    """POST /containers/{id}/attach: errors come as bare text, as dockerd sends them."""
    try:
        container = engine.containers.get(request.params["id"])
        options = _options(request, container)
        attach_.check(container)
    except errors.SampanError as problem:
        return streams.raw_error(problem, HTTPStatus(problem.status).phrase)

    async def serve(connection: HijackedConnection) -> None:
        await _serve(engine, request, container, connection, options)

    return streams.raw_upgrade(request, serve, tty=container.config.tty)


async def _serve(
    engine: Engine,
    request: Request,
    container: Container,
    client: attach_.Connection,
    options: attach_.AttachOptions,
) -> None:
    if request.query.bool("logs"):
        await _replay(engine, container, client, options, request)
    if request.query.bool("stream"):
        await attach_.attach(engine.containers, container, client, options)


async def _replay(
    engine: Engine,
    container: Container,
    client: attach_.Connection,
    options: attach_.AttachOptions,
    request: Request,
) -> None:
    query = request.query
    wanted = LogOptions(stdout=query.bool("stdout"), stderr=query.bool("stderr"))
    async for chunk in logs_.of_container(engine.containers, container, wanted):
        if chunk:
            await client.write(chunk)


async def attach_websocket(engine: Engine, request: Request) -> Answer:
    """GET /containers/{id}/attach/ws: each message carries raw bytes, without frame heads."""
    container = engine.containers.get(request.params["id"])
    options = _options(request, container)
    attach_.check(container)
    accept = websocket.accept_headers(request)
    if accept is None:
        return Upgrade(_refuse_websocket, 400, "Bad Request", {}, False)

    async def serve(connection: HijackedConnection) -> None:
        client = websocket.Client(connection, multiplexed=not container.config.tty)
        await _serve(engine, request, container, client, options)
        await client.close()

    return Upgrade(serve, 101, "Switching Protocols", accept, False)


async def _refuse_websocket(connection: HijackedConnection) -> None:
    await connection.write(b"not websocket protocol")


def _time(request: Request, name: str) -> int:
    text = request.query.get(name)
    if not text or text == "0":
        return 0
    try:
        return parse_unix(text)
    except ValueError as problem:
        raise errors.InvalidParameter(f'invalid value for "{name}": {problem}') from None


def _tail(text: str) -> int | None:
    """``tail``: what is no number, or negative, means all."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


async def logs(engine: Engine, request: Request) -> Response | StreamResponse:
    """GET /containers/{id}/logs."""
    query = request.query
    stdout, stderr = query.bool("stdout"), query.bool("stderr")
    if not stdout and not stderr:
        raise errors.InvalidParameter("must specify at least one of 'stdout' or 'stderr'")
    container = engine.containers.get(request.params["id"])
    options = LogOptions(
        stdout=stdout,
        stderr=stderr,
        since_ns=_time(request, "since"),
        until_ns=_time(request, "until"),
        tail=_tail(query.get("tail")),
        follow=query.bool("follow"),
        timestamps=query.bool("timestamps"),
        details=query.bool("details"),
        # Docker's command line doesn't see where frames end, and takes seconds for a million of them;
        # docker-py, for one, gives them to its caller one by one.
        merge=request.headers.get("user-agent", "").startswith("Docker-Client/"),
    )
    chunks: AsyncIterator[bytes] = logs_.of_container(engine.containers, container, options)
    # Open before the head: docker-py reads after it, when it has removed the container that has ended.
    await anext(chunks)
    return StreamResponse(chunks, streams.stream_type(request, tty=container.config.tty))


ROUTES = [
    Route("POST", "/containers/{id}/attach", attach),
    Route("GET", "/containers/{id}/attach/ws", attach_websocket),
    Route("GET", "/containers/{id}/logs", logs),
]
