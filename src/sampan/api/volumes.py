"""``/volumes``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from sampan import errors
from sampan.api import swarm
from sampan.api.http import Request, Response, Route, json_response
from sampan.api.query import filter_bool, filter_matches
from sampan.engine.volumes import Volume

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

_LIST_FILTERS = ("dangling", "driver", "label", "name")
_PRUNE_FILTERS = ("all", "label", "label!")
_GO_BOOLEANS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


class VolumeCreate(msgspec.Struct, rename="pascal", kw_only=True):
    """The body of ``POST /volumes/create``."""

    go_name: ClassVar[str] = "volume.CreateRequest"

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, Any] | None = None


async def create(engine: Engine, request: Request) -> Response:
    """POST /volumes/create."""
    body = await request.json(VolumeCreate, name="CreateRequest")
    if body.cluster_volume_spec is not None:
        raise errors.Unavailable(swarm.NOT_A_MANAGER)
    volume = engine.volumes.create(
        body.name, driver=body.driver, options=body.driver_opts, labels=body.labels
    )
    return json_response(volume.document(), 201)


async def list_(engine: Engine, request: Request) -> Response:
    """GET /volumes."""
    filters = request.query.filters(_LIST_FILTERS)
    wanted = _selection(engine, filters)
    found = [volume.document() for volume in engine.volumes.all() if wanted(volume)]
    return json_response({"Volumes": found, "Warnings": None})


def _selection(engine: Engine, filters: dict[str, list[str]]) -> Callable[[Volume], bool]:
    dangling = filter_bool(filters, "dangling", False) if filters.get("dangling") else None

    def wanted(volume: Volume) -> bool:
        if dangling is not None and bool(engine.volumes.users(volume.name)) == dangling:
            return False
        if filters.get("driver") and volume.driver not in filters["driver"]:
            return False
        if filters.get("name") and not any(filter_matches(text, volume.name) for text in filters["name"]):
            return False
        return has_labels(volume, filters.get("label") or [])

    return wanted


def has_labels(volume: Volume, wanted: list[str]) -> bool:
    """Whether the volume has all of ``key`` or ``key=value``."""
    labels = volume.labels or {}
    for text in wanted:
        key, mark, value = text.partition("=")
        if key not in labels or (mark and labels[key] != value):
            return False
    return True


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /volumes/{name}."""
    return json_response(engine.volumes.get(request.params["name"]).document())


async def remove(engine: Engine, request: Request) -> Response:
    """DELETE /volumes/{name}."""
    await engine.volumes.remove(request.params["name"], force=request.query.bool("force"))
    return Response(204)


async def update(engine: Engine, request: Request) -> Response:
    """PUT /volumes/{name}: only cluster volumes can be updated."""
    raise errors.Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


async def prune(engine: Engine, request: Request) -> Response:
    """POST /volumes/prune: since 1.42 only anonymous volumes, unless the filter ``all`` says otherwise."""
    filters = request.query.filters(_PRUNE_FILTERS)
    everything = request.version < (1, 42)
    for text in filters.get("all") or []:
        flag = _GO_BOOLEANS.get(text.lower())
        if flag is None:
            raise errors.InvalidParameter(
                f"invalid filter 'all': strconv.ParseBool: parsing \"{text}\": invalid syntax"
            )
        everything = flag
    unwanted = filters.get("label!") or []
    chosen = [
        volume
        for volume in engine.volumes.all()
        if (everything or volume.anonymous)
        and has_labels(volume, filters.get("label") or [])
        and not any(has_labels(volume, [label]) for label in unwanted)
    ]
    names, reclaimed = await engine.volumes.prune(chosen)
    return json_response({"VolumesDeleted": names, "SpaceReclaimed": reclaimed})


ROUTES = [
    Route("POST", "/volumes/create", create),
    Route("GET", "/volumes", list_),
    Route("POST", "/volumes/prune", prune),
    Route("GET", "/volumes/{name}", inspect),
    Route("DELETE", "/volumes/{name}", remove),
    Route("PUT", "/volumes/{name}", update),
]
