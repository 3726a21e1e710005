"""Use cases that need a registry: pull, push, log in, ask and search."""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sampan import errors
from sampan.engine import threads
from sampan.images import manifest
from sampan.images.reference import Reference

if TYPE_CHECKING:
    from sampan.build.options import Platform
    from sampan.engine.engine import Engine
    from sampan.registry.auth import Credentials
    from sampan.registry.hosts import Hosts
    from sampan.registry.transport import Transport

T = TypeVar("T")
HUB = "docker.io"
_HUB_INDEX = "index.docker.io"
log = logging.getLogger("sampan.registries")


def decode_auth(header: str) -> dict[str, str]:
    """``X-Registry-Auth``: base64 of JSON; what can't be read counts as no credentials, as in dockerd."""
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key.lower(): value for key, value in found.items() if isinstance(value, str)}


def _credentials(login: Mapping[str, str]) -> Credentials:
    from sampan.registry.auth import Credentials

    names = ("username", "password", "identitytoken", "registrytoken")
    return Credentials(*(login.get(name, "") for name in names))


def _transport(engine: Engine, domain: str, login: Mapping[str, str], *, mirror: str = "") -> Transport:
    from sampan.registry.transport import Settings, Transport

    config = engine.config
    settings = Settings(
        insecure=config.insecure_registries,
        tries=config.max_download_attempts,
        hosts=_hosts(engine),
    )
    # A mirror is another party: it gets none of the user's credentials.
    return Transport(domain, None if mirror else _credentials(login), settings, mirror=mirror)


def _hosts(engine: Engine) -> Hosts:
    """What is kept of registries' hosts; the module is only loaded by who needs it."""
    if engine.registry_hosts is None:
        from sampan.registry.hosts import Hosts

        engine.registry_hosts = Hosts()
    return engine.registry_hosts


async def _asking(engine: Engine, work: Callable[[], T]) -> T:
    """``work`` in a thread."""
    try:
        return await asyncio.to_thread(work)
    finally:
        _let_go(engine)


async def _progress(
    engine: Engine, action: str, reference: Reference, work: Callable[[threads.Report], None]
) -> AsyncIterator[dict[str, Any]]:
    """``threads.progress``, and an event when it is done."""
    try:
        async for found in threads.progress(work):
            yield found
    finally:
        _let_go(engine)
    _tell(engine, action, reference)


def _tell(engine: Engine, action: str, reference: Reference) -> None:
    """Publish what was done; with the image's labels, where the name stands for an image here."""
    try:
        labels = engine.images.get(reference.familiar).labels
    except errors.SampanError:
        labels = {}
    name = {"name": reference.familiar_name}
    engine.events.publish("image", action, reference.familiar, {**labels, **name})


def _let_go(engine: Engine) -> None:
    """Close connections when nobody has used them for a while."""
    if engine.registry_hosts is not None:
        from sampan.registry.hosts import LIFE

        asyncio.get_running_loop().call_later(LIFE + 1, engine.registry_hosts.drop_idle)


def _through_mirrors(
    engine: Engine, domain: str, login: Mapping[str, str], work: Callable[[Transport], T]
) -> T:
    """``work`` with each mirror of Docker Hub in turn, then with the registry itself."""
    for mirror in engine.config.registry_mirrors if domain == HUB else ():
        try:
            return work(_transport(engine, domain, login, mirror=mirror))
        except errors.SampanError as error:
            log.info("the mirror %s didn't serve: %s", mirror, error.message)
    return work(_transport(engine, domain, login))


async def pull(
    engine: Engine,
    reference: Reference,
    login: Mapping[str, str],
    platform: Platform | None = None,
    *,
    every_tag: bool = False,
    every_platform: bool = False,
) -> AsyncIterator[dict[str, Any]]:
    """Pull and tag one image, of this machine's platform or of ``platform``; Docker's progress objects.

    ``every_tag`` pulls all images that the repository has instead of ``reference``'s tag, ``every_platform`` all
    that an index holds.
    """
    from sampan.registry.pull import Puller

    wanted = None
    if platform is not None:
        wanted = manifest.Platform(platform.architecture, platform.os, platform.variant)
    puller = Puller(engine.images, engine.gates, at_once=engine.config.max_concurrent_downloads)

    def one(report: threads.Report, name: Reference) -> None:
        _through_mirrors(
            engine,
            name.domain,
            login,
            lambda transport: puller.pull(transport, name, report, wanted, everything=every_platform),
        )

    def work(report: threads.Report) -> None:
        names = _every_tag(engine, reference, login) if every_tag else [reference]
        others: list[errors.Unsupported] = []
        for name in names:
            try:
                with engine.leases.working():  # layers come before the tag that keeps them
                    one(report, name)
            except errors.Unsupported as error:  # signatures and charts have tags beside the images'
                others.append(error)
                if len(others) == len(names):
                    raise
                report({"status": f"Skipped {name.familiar}: {error.message}"})

    async for found in _progress(engine, "pull", reference, work):
        yield found


def _every_tag(engine: Engine, reference: Reference, login: Mapping[str, str]) -> list[Reference]:
    from sampan.registry import catalog

    found = _through_mirrors(
        engine, reference.domain, login, lambda transport: catalog.tags(transport, reference)
    )
    return [reference.with_tag(tag) for tag in found]


async def log_in(engine: Engine, server: str, login: Mapping[str, str]) -> str:
    """Try credentials on a registry (host, or URL as ``docker login`` sends Docker Hub's).

    The identity token that it gives for them, "" for none. Unauthorized, SystemFailure.
    """
    host = server.partition("://")[2] if "://" in server else server
    domain = host.partition("/")[0] or HUB
    if domain in ("index.docker.io", "registry-1.docker.io"):
        domain = HUB

    return await _asking(engine, lambda: _transport(engine, domain, login).log_in())


async def describe(engine: Engine, reference: Reference, login: Mapping[str, str]) -> dict[str, Any]:
    """Descriptor and platforms of what a registry has under a name, without pulling it."""
    from sampan.registry import catalog

    def work() -> dict[str, Any]:
        return _through_mirrors(
            engine, reference.domain, login, lambda transport: catalog.describe(transport, reference)
        )

    return await _asking(engine, work)


async def search(engine: Engine, term: str, limit: int, login: Mapping[str, str]) -> list[dict[str, Any]]:
    """Repositories by a word, on Docker Hub or on the registry that ``term`` begins with (``host/word``)."""
    from sampan.registry import catalog

    first, mark, rest = term.partition("/")
    named = mark and ("." in first or ":" in first or first == "localhost")
    domain, word = (first, rest) if named else (_HUB_INDEX, term)

    def work() -> list[dict[str, Any]]:
        transport = _transport(engine, domain, {})
        return catalog.search(transport, word, limit, _credentials(login))

    return await _asking(engine, work)


def login_for(domain: str, auth: Mapping[str, Any]) -> Mapping[str, str]:
    """The credentials for a registry among those of ``X-Registry-Config``: its keys are hosts or URLs."""
    wanted = _HUB_INDEX if domain == HUB else domain
    for key in (domain, wanted, *auth):
        host = key.partition("://")[2] if "://" in key else key
        if key in auth and host.partition("/")[0] in (domain, wanted):
            login: Mapping[str, str] = auth[key]
            return login
    return {}


async def pull_base(
    engine: Engine,
    text: str,
    platform: Platform,
    auth: Mapping[str, Any],
    note: Callable[[str], None],
) -> None:
    """Pull a build's base image; ``auth`` is ``X-Registry-Config``: credentials by registry."""
    reference = Reference.parse(text).with_default_tag()
    login = login_for(reference.domain, auth)
    async for found in pull(engine, reference, login, platform):
        if "progressDetail" not in found and "status" in found:
            note(found["status"])


def _to_push(engine: Engine, reference: Reference) -> list[Reference]:
    """What a push of ``reference`` sends: the tag, or without one every tag of the repository.

    NotFound in dockerd's words when there is none.
    """
    tags = engine.images.repository(reference)
    if not tags:
        raise errors.NotFound(
            f"An image does not exist locally with the tag: {reference.familiar_name}",
            hint="See `docker images` for what there is.",
        )
    if reference.tag and reference.tag not in tags:
        raise errors.NotFound(
            f"tag does not exist: {reference.familiar}", hint=f"Tags that are here: {', '.join(tags[:10])}."
        )
    return [reference.with_tag(tag) for tag in ([reference.tag] if reference.tag else tags)]


async def push(
    engine: Engine,
    wanted: Reference,
    login: Mapping[str, str],
    platform: manifest.Platform | None = None,
) -> AsyncIterator[dict[str, Any]]:
    """Push a tag, or all of a repository one after the other; Docker's progress objects.

    Of indexes all that is here goes, or the image for ``platform``.
    """
    from sampan.registry import push as pushing

    yield {"status": f"The push refers to repository [{wanted.name}]"}
    for reference in _to_push(engine, wanted):

        def work(report: threads.Report, reference: Reference = reference) -> None:
            transport = _transport(engine, reference.domain, login)
            at_once = engine.config.max_concurrent_uploads
            with engine.leases.working():
                pushing.push(engine.images, transport, reference, report, at_once=at_once, platform=platform)

        async for found in _progress(engine, "push", reference, work):
            yield found
