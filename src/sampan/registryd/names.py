"""What clients name: repositories, tags, digests, byte ranges. Nothing else ever becomes part of a path."""

from __future__ import annotations

import re
from typing import NamedTuple

from sampan import errors
from sampan.registryd.refusals import Refusal
from sampan.storage import digest as digests
from sampan.storage.digest import Digest

NAME_LIMIT = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_CHUNK = re.compile(r"(?:bytes )?([0-9]{1,18})-([0-9]{1,18})")
_RANGE = re.compile(r"bytes=\s*([0-9]{0,18})-([0-9]{0,18})\s*")


class Span(NamedTuple):
    """Bytes of a blob: where they begin and how many."""

    start: int
    length: int


def is_repository(text: str) -> bool:
    """Whether the text can name a repository."""
    return len(text) <= NAME_LIMIT and _NAME.fullmatch(text) is not None


def repository(text: str) -> str:
    """``text`` when it can name a repository, else NAME_INVALID."""
    if not is_repository(text):
        raise Refusal("NAME_INVALID", "invalid repository name", detail=_short(text))
    return text


def is_tag(text: str) -> bool:
    """Whether the text can be a tag."""
    return _TAG.fullmatch(text) is not None


def tag(text: str) -> str:
    """``text`` when it can be a tag, else MANIFEST_INVALID."""
    if not is_tag(text):
        raise Refusal("MANIFEST_INVALID", "this can be no tag of a manifest", detail=_short(text))
    return text


def digest(text: str) -> Digest:
    """``text`` when it is a digest that we know, else DIGEST_INVALID."""
    try:
        return digests.parse(text)
    except errors.InvalidParameter as error:
        raise Refusal("DIGEST_INVALID", error.message, detail=_short(text)) from error


def chunk(text: str) -> Span:
    """The value of an upload's ``Content-Range`` (``0-99``); BLOB_UPLOAD_INVALID when malformed."""
    match = _CHUNK.fullmatch(text)
    if match is None or int(match[2]) < int(match[1]):
        raise Refusal("BLOB_UPLOAD_INVALID", "malformed Content-Range", detail=_short(text))
    return Span(int(match[1]), int(match[2]) - int(match[1]) + 1)


def span(text: str, size: int) -> Span | None:
    """The bytes that a ``Range`` field asks of a blob (RFC 9110 section 14.2).

    None for what may be ignored: other units, several ranges, malformed ones. A Refusal with status 416 for a
    range that holds none of the ``size`` bytes, or ends before it begins (the conformance suite wants that
    refused, not ignored).
    """
    match = _RANGE.fullmatch(text)
    if match is None or not (match[1] or match[2]):
        return None
    if match[1]:
        start = int(match[1])
        last = int(match[2]) if match[2] else max(start, size)
    else:
        start, last = max(0, size - int(match[2])), size
    if start >= size or last < start or (not match[1] and int(match[2]) == 0):
        fields = {"Content-Range": f"bytes */{size}"}
        raise Refusal("UNSUPPORTED", "requested range not satisfiable", status=416, headers=fields)
    return Span(start, min(last, size - 1) - start + 1)


def _short(text: str) -> str:
    """Hostile lengths aren't sent back."""
    return text if len(text) <= 300 else text[:300] + "…"
