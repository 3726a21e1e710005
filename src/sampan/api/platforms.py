"""The ``platform`` parameter of ``/images``: JSON of an OCI platform (image-index.md), since API 1.48."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan import errors
from sampan.images.manifest import Platform

if TYPE_CHECKING:
    from sampan.api.http import Request
    from sampan.engine.engine import Engine


def asked(request: Request) -> list[Platform]:
    """The platforms that a request names; InvalidParameter for what is no JSON of one."""
    try:
        return [msgspec.json.decode(text, type=Platform) for text in request.query.list("platform") if text]
    except msgspec.DecodeError as error:
        raise errors.InvalidParameter(f"failed to parse platform: {error}") from error


def require(engine: Engine, name: str, request: Request) -> None:
    """NotFound unless the local image is of a platform that was asked for: an image here has one."""
    wanted = asked(request)
    if not wanted:
        return
    image = engine.images.get(name)
    for platform in wanted:
        same = (platform.os, platform.architecture) == (image.os, image.architecture)
        if same and platform.variant in ("", image.variant):
            return
    names = ", ".join(map(str, wanted))
    raise errors.NotFound(
        f"image with reference {name} was found but does not provide the specified platform ({names})",
        hint=f"It is for {image.os}/{image.architecture}.",
    )
