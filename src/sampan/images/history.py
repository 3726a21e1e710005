"""``docker history``: how an image was made."""

from __future__ import annotations

from typing import NamedTuple

from sampan.images.image import Image, parse_time
from sampan.images.store import ImageStore


class HistoryStep(NamedTuple):
    """One line of ``docker history``; ``size`` in bytes."""

    image_id: str
    created_ns: int
    created_by: str
    comment: str
    size: int
    tags: list[str]


def steps(store: ImageStore, image: Image) -> list[HistoryStep]:
    """The lines of ``docker history``, newest first."""
    found = []
    position = 0
    for step in image.history:
        size = 0
        if not step.get("empty_layer") and position < len(image.layers):
            size = store.layers.get(image.layers[position]).size
            position += 1
        created = parse_time(str(step.get("created") or ""))
        text, comment = str(step.get("created_by") or ""), str(step.get("comment") or "")
        found.append(HistoryStep("<missing>", created, text, comment, size, []))
    found.reverse()
    return _named(store, image, found)


def _named(store: ImageStore, image: Image, found: list[HistoryStep]) -> list[HistoryStep]:
    """Ids of the image itself and of its parents that are still here."""
    here: Image | None = image
    for number, step in enumerate(found):
        if here is None:
            break
        found[number] = step._replace(image_id=here.id, tags=store.tags(here.id))
        here = store.by_id(here.parent) if here.parent else None
    return found
