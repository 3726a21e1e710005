"""``docker system df``: what images, containers, volumes and the build cache take, and what could go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sampan.engine import images
from sampan.engine.containers.filters import Selection
from sampan.engine.containers.listing import list_containers

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


async def document(engine: Engine, types: Sequence[str], version: tuple[int, int]) -> dict[str, Any]:
    """The answer for those object types; from 1.52 on with sums beside the lists."""
    found: dict[str, Any] = {}
    if "image" in types:
        found["LayersSize"] = sum(layer.size for layer in engine.layers.list())
        found["Images"] = _images(engine, version)
    if "container" in types:
        # Here containers show their health to clients of every version.
        newest = max(version, (1, 52))
        listed = await list_containers(engine.containers, Selection(), all_=True, size=True, version=newest)
        found["Containers"] = listed
    if "volume" in types:
        found["Volumes"] = await _volumes(engine)
    if "build-cache" in types:
        found["BuildCache"] = list(engine.builder.usage())
    return found | (_sums(found) if version >= (1, 52) else {})


def _images(engine: Engine, version: tuple[int, int]) -> list[dict[str, Any]]:
    listed = images.summaries(engine, {})
    uses: dict[str, int] = {}
    variants = {row.id: engine.images.variants(row) for row in engine.images.rows()}
    layers = {row: {chain for image in found for chain in image.layers} for row, found in variants.items()}
    for chain in (chain for found in layers.values() for chain in found):
        uses[chain] = uses.get(chain, 0) + 1
    for item in listed:
        row = item["Id"]
        item["Containers"] = sum(len(engine.containers.using_image(image.id)) for image in variants[row])
        item["SharedSize"] = sum(engine.layers.get(chain).size for chain in layers[row] if uses[chain] > 1)
        if version < (1, 44):
            item["VirtualSize"] = item["Size"]
        if version < (1, 48):
            del item["Descriptor"]
    return listed


async def _volumes(engine: Engine) -> list[dict[str, Any]]:
    listed = []
    for volume in engine.volumes.all():
        usage = {
            "RefCount": len(engine.volumes.users(volume.name)),
            "Size": await engine.volumes.size(volume.name),
        }
        listed.append({**volume.document(), "UsageData": usage})
    return listed


def _sums(found: dict[str, Any]) -> dict[str, Any]:
    sums: dict[str, Any] = {}
    if "Images" in found:
        idle = [item for item in found["Images"] if not item["Containers"]]
        sums["ImageUsage"] = _usage(
            found["Images"], idle, found["LayersSize"], sum(i["Size"] - i["SharedSize"] for i in idle)
        )
    if "Containers" in found:
        sizes = [item.get("SizeRw", 0) for item in found["Containers"]]
        idle = [
            item for item in found["Containers"] if item["State"] not in ("running", "paused", "restarting")
        ]
        freed = sum(item.get("SizeRw", 0) for item in idle)
        sums["ContainerUsage"] = _usage(found["Containers"], idle, sum(sizes), freed)
    if "Volumes" in found:
        idle = [item for item in found["Volumes"] if not item["UsageData"]["RefCount"]]
        total = sum(item["UsageData"]["Size"] for item in found["Volumes"])
        sums["VolumeUsage"] = _usage(found["Volumes"], idle, total, sum(i["UsageData"]["Size"] for i in idle))
    if "BuildCache" in found:
        idle = [item for item in found["BuildCache"] if not item["InUse"]]
        total = sum(item["Size"] for item in found["BuildCache"])
        sums["BuildCacheUsage"] = _usage(found["BuildCache"], idle, total, sum(i["Size"] for i in idle))
    return sums


def _usage(items: list[Any], idle: list[Any], total: int, reclaimable: int) -> dict[str, Any]:
    return {
        "ActiveCount": len(items) - len(idle),
        "Items": items,
        "Reclaimable": reclaimable,
        "TotalCount": len(items),
        "TotalSize": total,
    }
