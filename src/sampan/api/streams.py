"""The streams of the Engine API: JSON lines of progress, raw and multiplexed byte streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec

from sampan import errors
from sampan.api.http import HijackedConnection, Request, StreamResponse, Upgrade

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"


def stream_type(request: Request, *, tty: bool, asked: bool = True) -> str:
    """The content type of an output stream: older clients than 1.42 know the raw one only.

    ``asked`` is False for an attach without the upgrade, where dockerd says raw too.
    """
    return MULTIPLEXED if not tty and asked and request.version >= (1, 42) else RAW


def raw_upgrade(
    request: Request,
    handler: Callable[[HijackedConnection], Awaitable[None]],
    *,
    tty: bool,
    common: bool = False,
) -> Upgrade:
    """Hijack for attach and exec: ``101 UPGRADED`` if the client asked for it, else 200 until close.

    ``common`` (exec) adds Docker's four header fields behind the stream's own.
    """
    if not request.upgrade:
        return Upgrade(handler, 200, "OK", {"Content-Type": RAW}, common)
    headers = {
        "Content-Type": stream_type(request, tty=tty),
        "Connection": "Upgrade",
        "Upgrade": request.upgrade,
    }
    return Upgrade(handler, 101, "UPGRADED", headers, common)


def raw_error(error: errors.SampanError, reason: str) -> Upgrade:
    """How attach reports an error: bare text on a raw stream, then close."""

    async def send(connection: HijackedConnection) -> None:
        await connection.write(str(error).encode("utf-8", "surrogateescape") + b"\r\n")

    return Upgrade(send, error.status, reason, {"Content-Type": RAW})


def frame(stream: int, data: bytes) -> bytes:
    """One frame of the multiplexed format: stream (1 stdout, 2 stderr), three zeroes, length, data."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


def error_object(error: BaseException) -> dict[str, Any]:
    """The last object of a progress stream that failed."""
    message = str(error) or type(error).__name__
    detail: dict[str, Any] = {"message": message}
    code = getattr(error, "detail_code", None)
    if code is not None:
        detail["code"] = code
    return {"errorDetail": detail, "error": message}


async def progress(
    objects: AsyncIterator[Mapping[str, Any]],
    *,
    begun: bool = False,
    headers: Mapping[str, str] | None = None,
    end: bytes = b"\r\n",
) -> StreamResponse:
    """A progress stream of JSON objects, each ended by ``end`` (CRLF).

    An error before the first object is raised here and gets its own status; a later one becomes the
    stream's last line. With ``begun`` the status is 200 in any case, as ``images/load`` and ``push`` do.
    """
    first: Mapping[str, Any] | None = None
    if not begun:
        first = await anext(objects, None)
    return StreamResponse(_lines(first, objects, end), headers=headers or {})


async def _lines(
    first: Mapping[str, Any] | None, objects: AsyncIterator[Mapping[str, Any]], end: bytes
) -> AsyncIterator[bytes]:
    try:
        if first is not None:
            yield msgspec.json.encode(first) + end
        async for found in objects:
            yield msgspec.json.encode(found) + end
    except errors.SampanError as error:
        yield msgspec.json.encode(error_object(error)) + end
    finally:
        close = getattr(objects, "aclose", None)
        if close is not None:
            await close()
