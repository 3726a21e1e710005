"""``/session`` and ``/grpc``: where BuildKit's clients knock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan import errors
from sampan.api.http import Request, Response, Route

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

_HINT = "Use the classic builder: DOCKER_BUILDKIT=0 docker build …"


def _check(request: Request, error: type[errors.SampanError]) -> errors.SampanError:
    if not request.upgrade:
        return error("no upgrade proto in request")
    if request.upgrade.lower() != "h2c":
        return error(f"protocol {request.upgrade} not supported")
    return errors.Unsupported("BuildKit's protocol is not supported", hint=_HINT)


async def session(engine: Engine, request: Request) -> Response:
    """POST /session."""
    raise _check(request, errors.InvalidParameter)


async def grpc(engine: Engine, request: Request) -> Response:
    """POST /grpc."""
    raise _check(request, errors.SystemFailure)


ROUTES = [Route("POST", "/session", session), Route("POST", "/grpc", grpc)]
