"""Swarm's endpoints, answered as by an engine that is not part of a swarm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan import errors
from sampan.api.http import Request, Response, Route

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node '
    "to swarm and try again."
)


async def not_a_manager(engine: Engine, request: Request) -> Response:
    """Everything that only a swarm manager can answer."""
    raise errors.Unavailable(NOT_A_MANAGER)


async def not_in_swarm(engine: Engine, request: Request) -> Response:
    """What any node of a swarm can answer."""
    raise errors.Unavailable("This node is not part of a swarm")


async def join(engine: Engine, request: Request) -> Response:
    """POST /swarm/init and /swarm/join: the address is checked as dockerd does, then refused."""
    asked: dict[str, Any] = await request.json(dict[str, Any], required=False)
    address = next((value for key, value in asked.items() if key.lower() == "listenaddr"), "") or ""
    if not address:
        raise errors.InvalidParameter('invalid ListenAddr "": invalid empty address')
    raise errors.Unsupported(
        "swarm mode is not supported",
        hint="Manage several machines with docker contexts, or run sampan's nodes under another scheduler.",
    )


_MANAGER_PATHS = (
    ("GET", "/swarm"),
    ("POST", "/swarm/update"),
    ("GET", "/swarm/unlockkey"),
    ("POST", "/swarm/unlock"),
    ("GET", "/nodes"),
    ("GET", "/nodes/{id}"),
    ("DELETE", "/nodes/{id}"),
    ("POST", "/nodes/{id}/update"),
    ("GET", "/services"),
    ("POST", "/services/create"),
    ("GET", "/services/{id}/logs"),
    ("GET", "/services/{id}"),
    ("DELETE", "/services/{id}"),
    ("POST", "/services/{id}/update"),
    ("GET", "/tasks"),
    ("GET", "/tasks/{id}/logs"),
    ("GET", "/tasks/{id}"),
    ("GET", "/secrets"),
    ("POST", "/secrets/create"),
    ("GET", "/secrets/{id}"),
    ("DELETE", "/secrets/{id}"),
    ("POST", "/secrets/{id}/update"),
    ("GET", "/configs"),
    ("POST", "/configs/create"),
    ("GET", "/configs/{id}"),
    ("DELETE", "/configs/{id}"),
    ("POST", "/configs/{id}/update"),
)

ROUTES = [
    *(Route(method, path, not_a_manager) for method, path in _MANAGER_PATHS),
    Route("POST", "/swarm/init", join),
    Route("POST", "/swarm/join", join),
    Route("POST", "/swarm/leave", not_in_swarm),
]
