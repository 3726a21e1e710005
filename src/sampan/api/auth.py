"""``/auth`` and ``/distribution``: what is asked of a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan import errors
from sampan.api.http import Request, Response, Route, json_response
from sampan.engine import registries
from sampan.images.reference import Reference

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


class AuthConfig(msgspec.Struct):
    """The body of POST /auth."""

    username: str = ""
    password: str = ""
    server_address: str = msgspec.field(default="", name="serveraddress")
    identity_token: str = msgspec.field(default="", name="identitytoken")


async def auth(engine: Engine, request: Request) -> Response:
    """POST /auth: try credentials; nothing is kept."""
    try:
        asked = await request.json(AuthConfig)
    except errors.InvalidParameter as problem:
        # Body and header hold the same; dockerd speaks of the header in both cases.
        raise errors.InvalidParameter(f"invalid X-Registry-Auth header: {problem.message}") from None
    login = {
        "username": asked.username,
        "password": asked.password,
        "identitytoken": asked.identity_token,
    }
    token = await registries.log_in(engine, asked.server_address, login)
    answer = {"Status": "Login Succeeded"}
    return json_response(answer | ({"IdentityToken": token} if token else {}))


async def distribution(engine: Engine, request: Request) -> Response:
    """GET /distribution/{name}/json."""
    reference = Reference.parse(request.params["name"]).with_default_tag()
    login = registries.decode_auth(request.headers.get("x-registry-auth"))
    return json_response(await registries.describe(engine, reference, login))


ROUTES = [Route("POST", "/auth", auth), Route("GET", "/distribution/{name}/json", distribution)]
