"""``docker import``: an image from a root file system's archive, in the request or on a web server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sampan.engine import threads
from sampan.images import transfer
from sampan.images.store import Image

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

_REPORT_EVERY = 0.1


async def import_image(
    engine: Engine, body: AsyncIterator[bytes], asked: transfer.ImportOptions
) -> AsyncIterator[dict[str, Any]]:
    """``docker import`` of a root file system, from the body or a URL; the last object is the image's id."""
    options = replace(asked, apply=_apply)
    made: list[Image] = []
    if asked.source == "-":
        made.append(await _import_body(engine, body, options))
    else:
        async for found in threads.progress(partial(_import_url, engine, options), made.append):
            yield found
    engine.events.publish("image", "import", made[0].id, {**made[0].labels, "name": made[0].id})
    yield {"status": made[0].id}


async def _import_body(engine: Engine, body: AsyncIterator[bytes], options: transfer.ImportOptions) -> Image:
    reader = threads.Reader(body)

    def work() -> Image:
        with engine.leases.working():
            return transfer.import_tar(engine.images, reader.read, options)

    try:
        return await asyncio.to_thread(work)
    finally:
        reader.cancel()


def _import_url(engine: Engine, options: transfer.ImportOptions, report: threads.Report) -> Image:
    from sampan.registry.download import download

    with download(options.source) as (read, size), engine.leases.working():
        report({"status": f"Downloading from {options.source}"})
        return transfer.import_tar(engine.images, _reported(read, size, report), options)


def _reported(read: Callable[[int], bytes], size: int, report: threads.Report) -> Callable[[int], bytes]:
    """``read``, with progress told ten times a second."""
    done, last = 0, 0.0

    def reading(count: int) -> bytes:
        nonlocal done, last
        piece = read(count)
        done += len(piece)
        now = time.monotonic()
        if now - last > _REPORT_EVERY or not piece:
            last = now
            report({"status": "Importing", "progressDetail": {"current": done, "total": size}})
        return piece

    return reading


def _apply(config: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    if not changes:
        return config
    from sampan.build.changes import apply_changes

    return apply_changes(config, changes)
