"""``/auth`` and ``/distribution``: what needs a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan import errors
from sampan.api.http import Request, Response, Route

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


async def not_yet(engine: Engine, request: Request) -> Response:
    """Refused: the registry client isn't wired to these endpoints."""
    raise errors.Unsupported(
        "logging in to and asking registries is not supported yet",
        hint="Bring images with 'docker load' or 'docker import'.",
    )


ROUTES = [Route("POST", "/auth", not_yet), Route("GET", "/distribution/{name}/json", not_yet)]
