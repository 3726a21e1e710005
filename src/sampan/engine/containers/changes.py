"""``docker diff`` and ``docker export``: what a container's root holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sampan.engine.containers import roots
from sampan.engine.containers.context import Containers
from sampan.storage import diff, tree


async def changes(containers: Containers, reference: str) -> list[diff.Change]:
    """Paths that differ from the image, parents before children."""
    container = containers.get(reference)
    upper = containers.state_dir(container.id) / "upper"
    return await asyncio.to_thread(diff.changes, upper, containers.lowers(container))


async def export(containers: Containers, reference: str) -> AsyncIterator[bytes]:
    """The container's root as a tar, in pieces. Volumes aren't part of it, as with Docker."""
    container = containers.get(reference)
    root = await asyncio.to_thread(roots.open_layers, containers, container)

    async def pieces() -> AsyncIterator[bytes]:
        packed = tree.pack_all(root.fileno())
        try:
            while (piece := await asyncio.to_thread(next, packed, None)) is not None:
                yield piece
        finally:
            root.close()

    containers.publish(container, "export")
    return pieces()
