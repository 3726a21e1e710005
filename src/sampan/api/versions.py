"""API versions: which we speak, how a path names one, and how the others are refused."""

from __future__ import annotations

import re

from sampan.api.http import JSON, Response, json_response

MINIMUM = (1, 24)
CURRENT = (1, 55)
CURRENT_TEXT = "1.55"
MINIMUM_TEXT = "1.24"

_PREFIX = re.compile(r"/v([0-9.]+)(/.*)\Z", re.DOTALL)


def split_version(path: str) -> tuple[str, str]:
    """("1.44", "/containers/json") from "/v1.44/containers/json"; ("", path) without a version."""
    found = _PREFIX.match(path)
    return (found.group(1), found.group(2)) if found else ("", path)


def parse_version(text: str) -> tuple[int, int]:
    """(1, 44) from "1.44"; missing or overlong parts count as Docker's comparison has them."""
    parts = [int(part[:9]) if part else 0 for part in text.split(".")]
    return (parts[0], parts[1] if len(parts) > 1 else 0)


def refusal(text: str, version: tuple[int, int]) -> Response | None:
    """The answer for a version that isn't spoken, or None. Below 1.24 it is plain text, as dockerd has it."""
    if version > CURRENT:
        message = f"client version {text} is too new. Maximum supported API version is {CURRENT_TEXT}"
        return _refused(message, JSON)
    if version < MINIMUM:
        message = (
            f"client version {text} is too old. Minimum supported API version is {MINIMUM_TEXT}, "
            "please upgrade your client to a newer version"
        )
        return _refused(message, "text/plain; charset=utf-8")
    return None


def _refused(message: str, content_type: str) -> Response:
    if content_type == JSON:
        return json_response({"message": message}, 400)
    headers = {"X-Content-Type-Options": "nosniff"}
    return Response(400, message.encode() + b"\n", headers, content_type)
