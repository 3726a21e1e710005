"""Use cases on images: list, inspect, remove, prune, load, save."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sampan import errors
from sampan.engine import manifests as manifest_lists
from sampan.engine import threads
from sampan.engine.containers.timestamps import parse_filter_time
from sampan.images import archive
from sampan.images.manifest import Platform
from sampan.images.reference import Reference
from sampan.images.store import Image

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

Filters = Mapping[str, list[str]]
LIST_FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")
PRUNE_FILTERS = ("dangling", "label", "label!", "until")


def selection(engine: Engine, filters: Filters) -> Callable[[Image], bool]:
    """The test that the filters of list and prune mean (``reference`` and ``dangling`` aside).

    InvalidParameter for times that are none, NotFound for images that aren't there.
    """
    now = time.time_ns()
    until = [parse_filter_time(text, now) for text in filters.get("until", ())]
    before = [engine.images.get(name).created_ns for name in filters.get("before", ())]
    since = [engine.images.get(name).created_ns for name in filters.get("since", ())]

    def wanted(image: Image) -> bool:
        created = image.created_ns
        return (
            all(_has_label(image, text) for text in filters.get("label", ()))
            and not any(_has_label(image, text) for text in filters.get("label!", ()))
            and all(created <= bound for bound in until)
            and all(created < bound for bound in before)
            and all(created > bound for bound in since)
        )

    return wanted


def _has_label(image: Image, text: str) -> bool:
    key, mark, value = text.partition("=")
    return key in image.labels and (not mark or image.labels[key] == value)


def _named_by(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name, with or without its tag, fits a ``reference`` filter; no wildcard stands for a slash."""
    if not patterns:
        return lambda _name: True
    from sampan.build.glob import Glob

    globs = [Glob(pattern) for pattern in patterns]
    return lambda name: any(glob.match(name) or glob.match(name.rpartition(":")[0] or name) for glob in globs)


def summaries(
    engine: Engine,
    filters: Filters,
    *,
    everything: bool = False,
    dangling: bool | None = None,
    manifests: bool = False,
) -> list[dict[str, Any]]:
    """What ``docker images`` lists: newest first, intermediate images only with ``everything``.

    ``manifests`` adds what each stands for, platform by platform.
    """
    found = []
    patterns = filters.get("reference", ())
    named, wanted = _named_by(patterns), selection(engine, filters)
    for image in engine.images.rows():
        tags, digests = engine.images.tags(image.id), engine.images.digests(image.id)
        if patterns:
            tags = [tag for tag in tags if named(tag)]
            digests = [name for name in digests if named(name.split("@")[0])]
            if not tags and not digests:
                continue
        if not tags and not digests and not everything and engine.images.children(image.id):
            continue
        if dangling is not None and dangling != (not tags):
            continue
        if wanted(image):
            found.append(summary(engine, image, tags, digests))
            index = _index(engine, tags, digests)
            found[-1]["Descriptor"] = manifest_lists.descriptor(engine, image, index)
            if manifests:
                found[-1]["Manifests"] = manifest_lists.listed(engine, image, index)
    return found


def _index(engine: Engine, tags: list[str], digests: list[str]) -> str:
    """The index that the names of a line stand for, "" for none."""
    targets = (engine.images.target(Reference.parse(name)) for name in (*tags, *digests))
    return next(filter(None, targets), "")


def size(engine: Engine, images: list[Image]) -> int:
    """Bytes of the files of some images' layers, each layer counted once."""
    if len(images) == 1:
        return images[0].size
    layers = {layer for image in images for layer in image.layers}
    return sum(engine.layers.get(layer).size for layer in layers)


def summary(engine: Engine, image: Image, tags: list[str], digests: list[str]) -> dict[str, Any]:
    """One line of the list."""
    return {
        "Containers": -1,
        "Created": image.created_ns // 1_000_000_000,
        "Id": image.id,
        "Labels": image.labels or None,
        "ParentId": image.parent,
        "RepoDigests": digests,
        "RepoTags": tags,
        "SharedSize": -1,
        "Size": size(engine, engine.images.variants(image)),
    }


def remove(
    engine: Engine, reference: str, *, force: bool, prune: bool, platforms: Sequence[Platform] = ()
) -> list[dict[str, str]]:
    """``docker rmi``: untag, or delete with everything that only this image needed.

    Conflict while containers use it: a running one always, a stopped one unless ``force``. Of an index all images
    go that are here, or only those for ``platforms``.
    """
    try:
        found = engine.images.get(reference)
    except errors.NotFound as missing:  # without its hint: what is to go needn't be fetched
        raise errors.NotFound(missing.message) from None
    if platforms:
        chosen = list(
            {(one := engine.images.get(reference, wanted)).id: one for wanted in platforms}.values()
        )
        if len(chosen) < len(engine.images.variants(found, engine.images.target_of(reference))):
            return _remove_some(engine, chosen, reference, force=force)
    if _is_name(engine, reference):
        return _remove_name(engine, engine.images.row_of(found), reference, force=force, prune=prune)
    image = engine.images.row_of(found)
    names = engine.images.tags(image.id) + engine.images.digests(image.id)
    if not _is_single(names) and not force:
        raise errors.Conflict(
            f"conflict: unable to delete {image.id[7:19]} (must be forced) - image is referenced in multiple "
            "repositories"
        )
    going = _going(engine, image)
    _check_use(engine, going, reference, force=force, by_id=True)
    if any(engine.images.children(one.id) for one in going):
        raise errors.Conflict(
            f"conflict: unable to delete {image.id[7:19]} (cannot be forced) - "
            "image has dependent child images"
        )
    return _remove_all(engine, image, names, going, prune=prune)


def _remove_name(
    engine: Engine, image: Image, reference: str, *, force: bool, prune: bool
) -> list[dict[str, str]]:
    """Take a tag or digest from an image, which goes with its last one."""
    names = engine.images.tags(image.id) + engine.images.digests(image.id)
    left = set(names) - _leaving(reference, names)
    going = _going(engine, image)
    if not left or _is_single(names):
        _check_use(engine, going, reference, force=force, by_id=False)
    if left or any(engine.images.children(one.id) for one in going):
        return _untag(engine, image, [name for name in names if name not in left])
    return _remove_all(engine, image, names, going, prune=prune)


def _leaving(reference: str, names: list[str]) -> set[str]:
    """The names that go with one of them: with the last tag of a repository its digests."""
    name = Reference.parse(reference)
    if name.digest:
        return {f"{name.familiar_name}@{name.digest}"}
    mine = name.with_default_tag().familiar
    same = [one for one in names if Reference.parse(one).name == name.name]
    others = [one for one in same if "@" not in one and one != mine]
    return {mine} if others else {mine, *same}


def _is_single(names: list[str]) -> bool:
    """Whether an image has one tag at most, and all its names are one repository's."""
    tags = [name for name in names if "@" not in name]
    return len(tags) <= 1 and len({Reference.parse(name).name for name in names}) <= 1


def _remove_all(
    engine: Engine, image: Image, names: list[str], going: list[Image], *, prune: bool
) -> list[dict[str, str]]:
    answers = _untag(engine, image, names)
    for one in going:
        answers += _delete(engine, one, prune=prune)
    return answers


def _is_name(engine: Engine, reference: str) -> bool:
    """Whether an image that was found was named by tag or digest, not by an id."""
    try:
        return engine.images.by_reference(Reference.parse(reference)) is not None
    except errors.InvalidParameter:
        return False


def _going(engine: Engine, image: Image) -> list[Image]:
    """What is deleted with an image: those of its indexes that nothing else names."""
    mine = {*engine.images.tags(image.id), *engine.images.digests(image.id)}
    others = [one for one in engine.images.variants(image) if one.id != image.id]
    return [image] + [
        one for one in others if {*engine.images.tags(one.id), *engine.images.digests(one.id)} <= mine
    ]


def _remove_some(engine: Engine, images: list[Image], reference: str, *, force: bool) -> list[dict[str, str]]:
    """Remove some of an index's images; its names stay."""
    _check_use(engine, images, reference, force=force, by_id=True)
    for image in images:
        if engine.images.children(image.id):
            raise errors.Conflict(
                f"conflict: unable to delete {image.id[7:19]} (cannot be forced) - "
                "image has dependent child images"
            )
    return [answer for image in images for answer in _delete(engine, image, prune=False)]


def _check_use(engine: Engine, images: list[Image], reference: str, *, force: bool, by_id: bool) -> None:
    for container in (one for image in images for one in engine.containers.using_image(image.id)):
        shown = container.image[7:19]
        if container.running:
            raise errors.Conflict(
                f"conflict: unable to delete {shown} (cannot be forced) - "
                f"image is being used by running container {container.id[:12]}"
            )
        if not force and by_id:
            raise errors.Conflict(
                f"conflict: unable to delete {shown} (must be forced) - "
                f"image is being used by stopped container {container.id[:12]}"
            )
        if not force:
            raise errors.Conflict(
                f'conflict: unable to remove repository reference "{reference}" (must force) - container '
                f"{container.id[:12]} is using its referenced image {shown}"
            )


def _untag(engine: Engine, image: Image, names: list[str]) -> list[dict[str, str]]:
    answers = []
    for name in names:
        if engine.images.find(name) is None:
            continue
        for gone in engine.images.untag(name):
            answers.append({"Untagged": gone})
        engine.events.publish("image", "untag", image.id, {**image.labels, "name": image.id})
    return answers


def _delete(engine: Engine, image: Image, *, prune: bool) -> list[dict[str, str]]:
    answers = [{"Deleted": image.id}]
    engine.images.delete(image.id)
    engine.events.publish("image", "delete", image.id, {**image.labels, "name": image.id})
    parent = engine.images.by_id(image.parent) if image.parent else None
    lonely = parent and not engine.images.tags(parent.id) and not engine.images.children(parent.id)
    if prune and parent and lonely and not engine.containers.using_image(parent.id):
        answers += _delete(engine, parent, prune=prune)
    return answers


async def collect(engine: Engine) -> None:
    """Free what nothing reaches any more."""
    await asyncio.to_thread(engine.leases.collect)


async def prune(engine: Engine, filters: Filters, *, dangling: bool) -> tuple[list[dict[str, str]], int]:
    """Remove unused images (only untagged ones when ``dangling``): what was removed, bytes freed."""
    if len(filters.get("until", ())) > 1:
        raise errors.InvalidParameter("more than one until filter specified")
    wanted = selection(engine, filters)
    answers: list[dict[str, str]] = []
    freed = 0
    for image in engine.images.rows():
        tags, going = engine.images.tags(image.id), _going(engine, image)
        if dangling and tags:
            continue
        if any(engine.containers.using_image(one.id) or engine.images.children(one.id) for one in going):
            continue
        if wanted(image):
            freed += size(engine, going)
            answers += _untag(engine, image, tags + engine.images.digests(image.id))
            for one in going:
                answers += _delete(engine, one, prune=True)
    await collect(engine)
    engine.events.publish("image", "prune", "", {"reclaimed": str(freed)})
    return answers, freed


async def load(
    engine: Engine, body: AsyncIterator[bytes], *, quiet: bool, platforms: Sequence[Platform] = ()
) -> AsyncIterator[dict[str, Any]]:
    """``docker load``: progress objects."""
    reader = threads.Reader(body)

    def work(report: threads.Report) -> list[archive.Loaded]:
        with engine.leases.working():  # a collection meanwhile leaves alone what has no tag yet
            return archive.load(engine.images, reader.read, report, quiet=quiet, platforms=platforms)

    def done(loaded: list[archive.Loaded]) -> None:
        for item in loaded:
            name = item.names[0] if item.names else item.image.id
            engine.events.publish("image", "load", item.image.id, {**item.image.labels, "name": name})

    try:
        async for found in threads.progress(work, done):
            yield found
    finally:
        reader.cancel()


def save(
    engine: Engine, names: list[str], without: Collection[str] = (), platforms: Sequence[Platform] = ()
) -> AsyncIterator[bytes]:
    """``docker save``: the archive, without the layers of some diffIDs. NotFound comes before the first byte.

    Of indexes it holds all images that are here, or those for ``platforms``.
    """
    pieces = archive.save(engine.images, names, without, platforms)
    for name in names:
        image = engine.images.get(name)
        engine.events.publish("image", "save", image.id, {**image.labels, "name": image.id})
    return threads.pieces(iter(pieces))
