"""The ``platform`` parameter of ``/images``: JSON of an OCI platform (image-index.md), since API 1.48."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan import errors
from sampan.images.manifest import Platform

if TYPE_CHECKING:
    from sampan.api.http import Request


def asked(request: Request, name: str = "platform") -> list[Platform]:
    """The platforms that a request names; InvalidParameter for what is no JSON of one."""
    try:
        return [msgspec.json.decode(text, type=Platform) for text in request.query.list(name) if text]
    except msgspec.DecodeError as error:
        raise errors.InvalidParameter(f"failed to parse platform: {error}") from error


def one(request: Request) -> Platform | None:
    """The platform that a request names, None for none (InvalidParameter for several)."""
    found = asked(request)
    if len(found) > 1:
        raise errors.InvalidParameter("multiple platforms not supported")
    return found[0] if found else None
