"""Managed plugins: there are none, and none can be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan import errors
from sampan.api.http import Request, Response, Route, json_response

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


async def list_plugins(engine: Engine, request: Request) -> Response:
    """GET /plugins: an empty list."""
    request.query.filters(("enabled", "capability"))
    return json_response([])


async def no_such_plugin(engine: Engine, request: Request) -> Response:
    """Whatever is asked about one plugin: it isn't there."""
    raise errors.NotFound(f'plugin "{request.params["name"]}" not found')


async def unsupported(engine: Engine, request: Request) -> Response:
    """Installing or making a plugin."""
    raise errors.Unsupported(
        "managed plugins are not supported", hint="sampan's volumes, networks and log drivers are built in."
    )


ROUTES = [
    Route("GET", "/plugins", list_plugins),
    Route("GET", "/plugins/privileges", unsupported),
    Route("POST", "/plugins/pull", unsupported),
    Route("POST", "/plugins/create", unsupported),
    Route("GET", "/plugins/{name}/json", no_such_plugin),
    Route("POST", "/plugins/{name}/enable", no_such_plugin),
    Route("POST", "/plugins/{name}/disable", no_such_plugin),
    Route("POST", "/plugins/{name}/upgrade", no_such_plugin),
    Route("POST", "/plugins/{name}/push", no_such_plugin),
    Route("POST", "/plugins/{name}/set", no_such_plugin),
    Route("DELETE", "/plugins/{name}", no_such_plugin),
]
