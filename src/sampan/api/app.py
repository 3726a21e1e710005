"""The application behind the server: from a request to its handler, with the engine in hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sampan.api import system
from sampan.api.http import Answer, Request, Response, Route
from sampan.api.routes import Router, all_routes

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


class Application:
    """Resolves a request and awaits its handler. One for all listeners of a daemon."""

    def __init__(self, engine: Engine, routes: Iterable[Route] | None = None) -> None:
        self._engine = engine
        self._router = Router(all_routes() if routes is None else routes)

    def at_once(self, request: Request) -> Response | None:
        """The answer to a ping: the most frequent request, for which a task would be half of the work."""
        if request.target != "/_ping":
            return None
        return {"GET": system.PONG, "HEAD": system.PONG_HEAD}.get(request.method)

    async def __call__(self, request: Request) -> Answer:
        """The answer of the request's route; errors of ``sampan.errors`` pass through."""
        route = self._router.resolve(request)
        if isinstance(route, Response):
            return route
        return await route.handler(self._engine, request)
