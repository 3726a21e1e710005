"""Registries that the command line asks by itself, with the user's own logins."""

from __future__ import annotations

from sampan.client import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.command import CLI
    from sampan.images.reference import Reference
    from sampan.registry.transport import Transport


def connect(cli: CLI, reference: Reference, *, insecure: bool = False) -> Transport:
    """The registry of a name; ``insecure`` allows plain HTTP and unknown certificates."""
    from sampan.registry.auth import Credentials
    from sampan.registry.transport import Settings, Transport

    login = credentials.get(cli.config, credentials.server_of(reference.domain))
    user = Credentials(
        *(login.get(name, "") for name in ("username", "password", "identitytoken", "registrytoken"))
    )
    return Transport(reference.domain, user, Settings(insecure=(reference.domain,) if insecure else ()))


def describe(cli: CLI, text: str, platform: str = "") -> dict[str, Any]:
    """What a registry says of an image, in the form of inspect (``registry.catalog.inspect``). NotFound."""
    from sampan.images.manifest import parse_platform
    from sampan.images.reference import Reference
    from sampan.registry import catalog

    name = Reference.parse(text).with_default_tag()
    return catalog.inspect(connect(cli, name), name, parse_platform(platform) if platform else None)
