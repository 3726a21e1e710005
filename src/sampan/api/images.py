"""``/images``: list, inspect, history, tag, remove, prune, load, save, import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan import errors
from sampan.api import platforms, streams
from sampan.api.http import Answer, Request, Response, Route, StreamResponse, json_response
from sampan.api.query import filter_bool
from sampan.build.options import parse_platform
from sampan.engine import images, imports, manifests, registries
from sampan.images import history as image_history
from sampan.images.manifest import Platform
from sampan.images.manifest import parse_platform as parse_image_platform
from sampan.images.reference import Reference, from_parts
from sampan.images.transfer import ImportOptions
from sampan.storage.tar import ArchiveError

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

_TAR = "application/x-tar"


async def list_images(engine: Engine, request: Request) -> Response:
    """GET /images/json."""
    filters = request.query.filters(images.LIST_FILTERS)
    dangling = filter_bool(filters, "dangling", False) if "dangling" in filters else None
    found = images.summaries(
        engine,
        filters,
        everything=request.query.bool("all"),
        dangling=dangling,
        manifests=request.query.bool("manifests"),
    )
    if request.version < (1, 48):
        for item in found:
            del item["Descriptor"]
    if request.version < (1, 44):
        for item in found:
            item["VirtualSize"] = item["Size"]
    return json_response(found)


_ALWAYS_BEFORE_1_52: dict[str, Any] = {
    "User": "",
    **dict.fromkeys(("Env", "Cmd", "Volumes", "Entrypoint", "OnBuild", "Labels")),
    "WorkingDir": "",
}
_ALWAYS_BEFORE_1_50: dict[str, Any] = {
    **dict.fromkeys(("Hostname", "Domainname", "Image"), ""),
    **dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"), False),
}


def config_for(version: tuple[int, int], config: dict[str, Any]) -> dict[str, Any]:
    """An image's configuration as that API version shows it: the older, the more members that say nothing.

    (Changelog of the API, 1.50 and 1.52.)
    """
    if version >= (1, 52):
        return config
    return {**(_ALWAYS_BEFORE_1_50 if version < (1, 50) else {}), **_ALWAYS_BEFORE_1_52, **config}


def inspect_document(
    engine: Engine, name: str, version: tuple[int, int], platform: Platform | None = None
) -> dict[str, Any]:
    """What inspect shows of an image to a client of that API version."""
    image = engine.images.get(name, platform)
    document = image.document
    found: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": engine.images.tags(image.id),
        "RepoDigests": engine.images.digests(image.id),
        "Created": image.created,
        "Config": config_for(version, image.config),
        "Architecture": image.architecture,
        "Os": image.os,
        "Size": image.size,
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Metadata": {"LastTagTime": _tag_time(image.tagged_ns)},
    }
    if image.variant:
        found["Variant"] = image.variant
    said = {
        "Author": document.get("author", ""),
        "Comment": document.get("comment", ""),
        "Parent": image.parent,
    }
    if version >= (1, 52):
        found |= {name: text for name, text in said.items() if text}
    else:
        found |= {**said, "DockerVersion": ""}
        found["GraphDriver"] = {"Name": "overlay2", "Data": None}
    if version < (1, 45):
        # dockerd 29 says null; compose v1 looks here for the volumes that it takes over into a new container
        found |= {"Container": "", "ContainerConfig": found["Config"]}
    if version < (1, 44):
        found["VirtualSize"] = image.size
    if version >= (1, 48):
        found["Descriptor"] = manifests.descriptor(engine, image, engine.images.target_of(name))
    return found


def _tag_time(ns: int) -> str:
    from sampan.engine.containers.timestamps import rfc3339

    return rfc3339(ns)


async def inspect(engine: Engine, request: Request) -> Response:
    """GET /images/{name}/json."""
    name, platform = request.params["name"], platforms.one(request)
    shown = request.query.bool("manifests")
    if shown and platform is not None:
        raise errors.InvalidParameter(
            "conflicting options: manifests and platform options cannot both be set"
        )
    document = inspect_document(engine, name, request.version, platform)
    if shown:
        image = engine.images.get(name)
        document["Manifests"] = manifests.listed(engine, image, engine.images.target_of(name))
    return json_response(document)


async def history(engine: Engine, request: Request) -> Response:
    """GET /images/{name}/history."""
    image = engine.images.get(request.params["name"], platforms.one(request))
    steps = image_history.steps(engine.images, image)
    return json_response(
        [
            {
                "Id": step.image_id,
                "Created": step.created_ns // 1_000_000_000,
                "CreatedBy": step.created_by,
                "Tags": step.tags or None,
                "Size": step.size,
                "Comment": step.comment,
            }
            for step in steps
        ]
    )


async def tag(engine: Engine, request: Request) -> Response:
    """POST /images/{name}/tag."""
    image = engine.images.get(request.params["name"])
    index = engine.images.target_of(request.params["name"])
    repo = request.query.get("repo")
    if repo:
        name = from_parts(repo, request.query.get("tag")).with_default_tag()
        engine.images.tag(name, image.id, index=index)
        engine.events.publish("image", "tag", image.id, {**image.labels, "name": name.familiar})
    return Response(201)


async def remove(engine: Engine, request: Request) -> Response:
    """DELETE /images/{name}."""
    query = request.query
    answers = images.remove(
        engine,
        request.params["name"],
        force=query.bool("force"),
        prune=not query.bool("noprune"),
        platforms=platforms.asked(request, "platforms"),
    )
    await images.collect(engine)
    return json_response(answers)


async def prune(engine: Engine, request: Request) -> Response:
    """POST /images/prune."""
    filters = request.query.filters(images.PRUNE_FILTERS)
    answers, freed = await images.prune(engine, filters, dangling=filter_bool(filters, "dangling", True))
    return json_response({"ImagesDeleted": answers or None, "SpaceReclaimed": freed})


async def load(engine: Engine, request: Request) -> StreamResponse:
    """POST /images/load: 200 in any case, failures are the stream's last line."""
    quiet = request.query.bool("quiet", True)
    objects = images.load(engine, request.body, quiet=quiet, platforms=platforms.asked(request))
    return await streams.progress(_words(objects), begun=True)


async def _words(objects: Any) -> Any:
    """Archive errors as errors that the stream can tell."""
    try:
        async for found in objects:
            yield found
    except ArchiveError as error:
        raise errors.InvalidParameter(str(error)) from error


async def save_one(engine: Engine, request: Request) -> StreamResponse:
    """GET /images/{name}/get. ``without`` is an extension: diffIDs of layers that the reader has."""
    return _save(engine, request, [request.params["name"]])


async def save(engine: Engine, request: Request) -> StreamResponse:
    """GET /images/get?names=…."""
    return _save(engine, request, request.query.list("names"))


def _save(engine: Engine, request: Request, names: list[str]) -> StreamResponse:
    without = request.query.list("without")
    return StreamResponse(images.save(engine, names, without, platforms.asked(request)), _TAR)


async def create(engine: Engine, request: Request) -> Answer:
    """POST /images/create: pull from a registry, or import from the body. ``platform=all`` is an extension."""
    query = request.query
    if query.get("fromImage"):
        wanted = from_parts(query.get("fromImage"), query.get("tag"))
        every_tag = not wanted.tag and not wanted.digest
        named = query.get("platform")
        every_platform = named == "all"  # an extension
        platform = parse_platform(named) if named and not every_platform else None
        login = registries.decode_auth(request.headers.get("x-registry-auth"))
        objects = registries.pull(
            engine, wanted, login, platform, every_tag=every_tag, every_platform=every_platform
        )
        return await streams.progress(objects)
    if not query.get("fromSrc"):
        raise errors.InvalidParameter(
            "fromImage or fromSrc must be given", hint="fromSrc=- imports the request's body."
        )
    name: Reference | None = None
    if query.get("repo"):
        name = from_parts(query.get("repo"), query.get("tag")).with_default_tag()
    asked = ImportOptions(
        name=name,
        message=query.get("message"),
        changes=query.list("changes"),
        platform=parse_image_platform(query.get("platform")) if query.get("platform") else None,
        source=query.get("fromSrc"),
    )
    objects = imports.import_image(engine, request.body, asked)
    return await streams.progress(_words(objects), begun=False)


async def push(engine: Engine, request: Request) -> Answer:
    """POST /images/{name}/push."""
    wanted = from_parts(request.params["name"], request.query.get("tag"))
    login = registries.decode_auth(request.headers.get("x-registry-auth"))
    if wanted.digest:
        raise errors.InvalidParameter(
            "cannot push a digest reference", hint="Tag the image, and push the tag."
        )
    objects = registries.push(engine, wanted, login, platforms.one(request))
    return await streams.progress(objects, begun=True)


async def search(engine: Engine, request: Request) -> Response:
    """GET /images/search."""
    limit = request.query.int("limit", 25)
    if limit and not 1 <= limit <= 100:
        raise errors.InvalidParameter(f"limit {limit} is outside the range of [1, 100]")
    filters = request.query.filters(("is-official", "is-automated", "stars"))
    login = registries.decode_auth(request.headers.get("x-registry-auth"))
    found = await registries.search(engine, request.query.get("term"), limit or 25, login)
    return json_response([_result(one) for one in found if _matches(one, filters)])


def _result(found: dict[str, Any]) -> dict[str, Any]:
    """One repository, with the types that clients count on whatever the registry sent."""
    return {
        "star_count": found["star_count"] if isinstance(found.get("star_count"), int) else 0,
        "is_official": found.get("is_official") is True,
        "name": str(found.get("name", "")),
        "is_automated": False,
        "description": str(found.get("description") or ""),
    }


def _matches(found: dict[str, Any], filters: dict[str, list[str]]) -> bool:
    shown = _result(found)
    if "is-official" in filters and filter_bool(filters, "is-official", False) != shown["is_official"]:
        return False
    if "is-automated" in filters and filter_bool(filters, "is-automated", False):
        return False
    for stars in filters.get("stars", ()):
        if not stars.isdigit():
            raise errors.InvalidParameter(f"invalid filter 'stars={stars}'")
        if shown["star_count"] < int(stars):
            return False
    return True


ROUTES = [
    Route("GET", "/images/json", list_images),
    Route("GET", "/images/get", save),
    Route("GET", "/images/search", search),
    Route("POST", "/images/load", load),
    Route("POST", "/images/create", create),
    Route("POST", "/images/prune", prune),
    Route("GET", "/images/{name}/json", inspect),
    Route("GET", "/images/{name}/history", history),
    Route("GET", "/images/{name}/get", save_one),
    Route("POST", "/images/{name}/tag", tag),
    Route("POST", "/images/{name}/push", push),
    Route("DELETE", "/images/{name}", remove),
]
