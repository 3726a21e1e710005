"""``docker commit``: a container's own layer on top of its image's, as a new image."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, field
from typing import Any

from sampan import gojson
from sampan.engine.containers.context import Containers
from sampan.engine.containers.merge import merge_env
from sampan.engine.containers.record import Container
from sampan.engine.containers.timestamps import rfc3339
from sampan.images.reference import Reference
from sampan.images.store import Image
from sampan.runtime.config import ContainerConfig
from sampan.storage import diff

# What belongs to one container only, not to images made from it.
_OWN = (
    "Hostname",
    "Domainname",
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "Tty",
    "OpenStdin",
    "StdinOnce",
)


@dataclass(frozen=True)
class CommitOptions:
    """What the client said: name, texts, Dockerfile instructions, a configuration to start from."""

    repo: str = ""
    tag: str = ""
    author: str = ""
    comment: str = ""
    changes: list[str] = field(default_factory=list)
    pause: bool = True
    config: ContainerConfig | None = None


async def commit(containers: Containers, reference: str, options: CommitOptions) -> str:
    """Make the image and give its id. NotFound, InvalidParameter for changes that aren't allowed.

    A running container is paused meanwhile, unless the options say otherwise.
    """
    container = containers.get(reference)
    target = _target(options)
    config = image_config(container, options)
    live = containers.live(container)
    async with live.lock:
        freeze = options.pause and container.state.status == "running" and live.cgroup is not None
        if freeze and live.cgroup is not None:
            await asyncio.to_thread(live.cgroup.freeze)
            containers.publish(container, "pause")
        try:
            image = await asyncio.to_thread(_store, containers, container, config, options)
            _announce(containers, container, image, target, options)
        finally:
            if freeze and live.cgroup is not None:
                await asyncio.to_thread(live.cgroup.thaw)
                containers.publish(container, "unpause")
    return image.id


def _target(options: CommitOptions) -> Reference | None:
    if not options.repo:
        return None
    name = f"{options.repo}:{options.tag}" if options.tag else options.repo
    return Reference.parse(name)


def image_config(container: Container, options: CommitOptions) -> dict[str, Any]:
    """The new image's ``config``: the container's, what the client sent on top, then the changes."""
    config: dict[str, Any] = {
        key: value for key, value in gojson.encode(container.config).items() if key not in _OWN
    }
    config["Image"] = ""
    if options.config is not None and options.config != ContainerConfig():
        sent = gojson.encode(options.config)
        config |= {key: value for key, value in sent.items() if value and key not in _OWN}
        config["Env"] = merge_env(options.config.env, container.config.env)
    if options.changes:
        from sampan.build.changes import apply_changes  # the parser of Dockerfiles: seldom needed

        config = apply_changes(config, options.changes)
    config.pop("Image", None)
    return config


def _store(
    containers: Containers, container: Container, config: dict[str, Any], options: CommitOptions
) -> Image:
    with containers.leases.working():
        return _store_kept(containers, container, config, options)


def _store_kept(
    containers: Containers, container: Container, config: dict[str, Any], options: CommitOptions
) -> Image:
    upper = containers.state_dir(container.id) / "upper"
    changed = bool(diff.changes(upper, containers.lowers(container)))
    base = containers.images.by_id(container.image) if container.image else None
    below = containers.layers.chain(container.chain) if container.chain else []
    diff_ids = [layer.diff_id for layer in reversed(below)]
    if changed:
        diff_ids.append(containers.layers.capture(container.chain or None, upper).diff_id)
    now = rfc3339(time.time_ns())
    history = list(base.history) if base is not None else []
    entry: dict[str, Any] = {"created": now, "created_by": " ".join([container.path, *container.args])}
    if options.author:
        entry["author"] = options.author
    if options.comment:
        entry["comment"] = options.comment
    if not changed:
        entry["empty_layer"] = True
    document = {
        "architecture": base.architecture if base is not None else _machine(),
        "os": base.os if base is not None else "linux",
        "author": options.author,
        "comment": options.comment,
        "config": config,
        "container": container.id,
        "created": now,
        "history": [*history, entry],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    if base is not None and base.variant:
        document["variant"] = base.variant
    raw = json.dumps({k: v for k, v in document.items() if v not in ("", None)}).encode()
    return containers.images.add(raw, parent=container.image)


def _machine() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def _announce(
    containers: Containers,
    container: Container,
    image: Image,
    target: Reference | None,
    options: CommitOptions,
) -> None:
    if target is not None:
        containers.images.tag(target, image.id)
        containers.events.publish("image", "tag", image.id, {**image.labels, "name": target.familiar})
    containers.publish(
        container,
        "commit",
        comment=options.comment,
        imageID=image.id,
        imageRef=target.familiar if target else "",
    )
