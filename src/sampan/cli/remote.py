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
    user = Credentials(login.get("username", ""), login.get("password", ""), login.get("identitytoken", ""))
    return Transport(reference.domain, user, Settings(insecure=(reference.domain,) if insecure else ()))


def describe(cli: CLI, text: str, platform: str = "") -> dict[str, Any]:
    """What a registry says of an image, in the form of inspect; ``Size`` is that of the download, in bytes.

    ``platform`` chooses from an index; without it this machine's is taken. NotFound.
    """
    from sampan.images import manifest as documents
    from sampan.images.reference import Reference
    from sampan.registry import index
    from sampan.registry.pull import resolve

    name = Reference.parse(text).with_default_tag()
    transport = connect(cli, name)
    remote = resolve(transport, name)
    found: dict[str, Any] = {"RepoTags": [name.familiar] if name.tag else [], "RepoDigests": []}
    found["RepoDigests"] = [f"{name.familiar_name}@{remote.digest}"]
    found["Descriptor"] = {
        "mediaType": remote.media_type,
        "digest": remote.digest,
        "size": len(remote.raw),
    }
    if remote.media_type in documents.INDEXES:
        entries = documents.parse_index(remote.raw)
        found["Platforms"] = [str(one.platform) for one in entries.manifests if one.platform]
        wanted = documents.parse_platform(platform) if platform else documents.host_platform()
        remote = resolve(transport, name, documents.choose(entries, wanted).digest)
    manifest = documents.parse_manifest(remote.raw)
    config = index.configuration(transport, name, manifest)
    return found | {
        "Id": manifest.config.digest,
        "Created": config.get("created", ""),
        "Config": config.get("config") or {},
        "Architecture": config.get("architecture", ""),
        "Os": config.get("os", ""),
        "Size": sum(layer.size for layer in manifest.layers),
        "RootFS": {"Type": "layers", "Layers": documents.diff_ids(config)},
    }
