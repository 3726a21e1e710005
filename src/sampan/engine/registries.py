"""Use cases that need a registry: pull and push, as streams of Docker's progress objects."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from sampan.engine import threads
from sampan.images.reference import Reference

if TYPE_CHECKING:
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


def _transport(engine: Engine, reference: Reference, auth: str) -> Transport:
    from sampan.registry.transport import Credentials, Settings, Transport

    found = decode_auth(auth)
    credentials = Credentials(
        found.get("username", ""), found.get("password", ""), found.get("identitytoken", "")
    )
    settings = Settings(insecure=engine.config.insecure_registries, mirrors=engine.config.registry_mirrors)
    return Transport(reference.domain, credentials, settings)


async def pull(engine: Engine, reference: Reference, auth: str) -> AsyncIterator[dict[str, Any]]:
    """Pull and tag one image."""
    from sampan.registry.pull import Puller

    def work(report: threads.Report) -> None:
        Puller(engine.images).pull(_transport(engine, reference, auth), reference, report)

    async for found in threads.progress(work):
        yield found
    engine.events.publish("image", "pull", reference.familiar, {"name": reference.familiar_name})


async def push(engine: Engine, reference: Reference, auth: str) -> AsyncIterator[dict[str, Any]]:
    """Push one tag."""
    from sampan.registry import push as pushing

    def work(report: threads.Report) -> None:
        pushing.push(engine.images, _transport(engine, reference, auth), reference, report)

    async for found in threads.progress(work):
        yield found
    engine.events.publish("image", "push", reference.familiar, {"name": reference.familiar_name})
