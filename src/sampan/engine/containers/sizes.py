"""How much disk a container takes: its own layer, and all of its root."""

from __future__ import annotations

import asyncio

from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container
from sampan.engine.volumes import directory_size


async def writable(containers: Containers, container: Container) -> int:
    """Bytes of the files in the container's own layer."""
    return await asyncio.to_thread(directory_size, containers.state_dir(container.id) / "upper")


def of_image(containers: Containers, container: Container) -> int:
    """Bytes of the image's layers below it."""
    total, chain = 0, container.chain
    while chain:
        layer = containers.layers.get(chain)
        total += layer.size
        chain = layer.parent or ""
    return total


async def both(containers: Containers, container: Container) -> tuple[int, int]:
    """(SizeRw, SizeRootFs) of the Engine API."""
    own = await writable(containers, container)
    return own, own + of_image(containers, container)
