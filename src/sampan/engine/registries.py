"""Use cases that need a registry: pull and push, as streams of Docker's progress objects."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from sampan import errors
from sampan.engine import threads
from sampan.images import manifest
from sampan.images.reference import Reference

if TYPE_CHECKING:
    from sampan.build.options import Platform
    from sampan.engine.engine import Engine
    from sampan.registry.transport import Transport


def decode_auth(header: str) -> dict[str, str]:
    """``X-Registry-Auth``: base64 of JSON; what can't be read counts as no credentials, as in dockerd."""
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key.lower(): value for key, value in found.items() if isinstance(value, str)}


def _transport(engine: Engine, reference: Reference, login: Mapping[str, str]) -> Transport:
    from sampan.registry.transport import Credentials, Settings, Transport

    credentials = Credentials(
        login.get("username", ""), login.get("password", ""), login.get("identitytoken", "")
    )
    settings = Settings(insecure=engine.config.insecure_registries, mirrors=engine.config.registry_mirrors)
    return Transport(reference.domain, credentials, settings)


async def pull(
    engine: Engine, reference: Reference, login: Mapping[str, str], platform: Platform | None = None
) -> AsyncIterator[dict[str, Any]]:
    """Pull and tag one image, of this machine's platform or of ``platform``; Docker's progress objects."""
    from sampan.registry.pull import Puller

    wanted = None
    if platform is not None:
        wanted = manifest.Platform(platform.architecture, platform.os, platform.variant)

    def work(report: threads.Report) -> None:
        with engine.leases.working():  # layers come before the tag that keeps them
            Puller(engine.images).pull(_transport(engine, reference, login), reference, report, wanted)

    async for found in threads.progress(work):
        yield found
    engine.events.publish("image", "pull", reference.familiar, {"name": reference.familiar_name})


async def pull_base(
    engine: Engine,
    text: str,
    platform: Platform,
    auth: Mapping[str, Any],
    note: Callable[[str], None],
) -> None:
    """Pull a build's base image; ``auth`` is ``X-Registry-Config``: credentials by registry."""
    reference = Reference.parse(text).with_default_tag()
    keys = [reference.domain, f"https://{reference.domain}"]
    if reference.domain == "docker.io":
        keys.append("https://index.docker.io/v1/")
    login: Mapping[str, str] = next((auth[key] for key in keys if key in auth), {})
    async for found in pull(engine, reference, login, platform):
        if "progressDetail" not in found and "status" in found:
            note(found["status"])


def to_push(engine: Engine, reference: Reference) -> list[Reference]:
    """What a push of ``reference`` sends: the tag, or without one every tag of the repository.

    NotFound in dockerd's words when there is none.
    """
    if reference.tag:
        return [reference]
    tags = [Reference.parse(tag) for image in engine.images.list() for tag in engine.images.tags(image.id)]
    found = sorted((tag for tag in tags if tag.name == reference.name), key=lambda tag: tag.familiar)
    if not found:
        raise errors.NotFound(
            f"An image does not exist locally with the tag: {reference.familiar_name}",
            hint="See `docker images` for what there is.",
        )
    return found


async def push(
    engine: Engine, references: Sequence[Reference], login: Mapping[str, str]
) -> AsyncIterator[dict[str, Any]]:
    """Push some tags, one after the other."""
    from sampan.registry import push as pushing

    for reference in references:

        def work(report: threads.Report, reference: Reference = reference) -> None:
            with engine.leases.working():
                pushing.push(engine.images, _transport(engine, reference, login), reference, report)

        async for found in threads.progress(work):
            yield found
        engine.events.publish("image", "push", reference.familiar, {"name": reference.familiar_name})
