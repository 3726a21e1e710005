"""Documents of the OCI image-spec and of Docker's schema 2: descriptors, manifests, indexes, configurations.

Documents whose digest matters are never encoded again: the bytes that came are kept, these are views.
"""

from __future__ import annotations

import platform as host
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from sampan.errors import InvalidParameter, NotFound
from sampan.storage import digest as digests

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
)
INDEXES = (OCI_INDEX, DOCKER_LIST)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
CONFIGS = (OCI_CONFIG, DOCKER_CONFIG)
_NAMES: dict[tuple[str, ...], str] = {
    MANIFESTS: "an image's",
    INDEXES: "an index's",
    SCHEMA1: "those of Docker's schema 1",
}
_GENERAL = ("", "application/json", "application/octet-stream", "text/plain")  # servers that know no kinds
_T = TypeVar("_T")
LIMIT = 4 << 20  # bytes of one document, as the distribution-spec wants registries to accept


class Platform(msgspec.Struct, omit_defaults=True):
    """What an image runs on (image-index.md)."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: list[str] | None = msgspec.field(default=None, name="os.features")

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, rename="camel", omit_defaults=True):
    """What a document points to (descriptor.md); ``size`` in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    platform: Platform | None = None
    urls: list[str] | None = None
    artifact_type: str = ""


class Manifest(msgspec.Struct, rename="camel"):
    """One image (manifest.md)."""

    config: Descriptor
    layers: list[Descriptor]
    schema_version: int = 2
    media_type: str = ""


class Index(msgspec.Struct, rename="camel"):
    """Several manifests, one a platform (image-index.md)."""

    manifests: list[Descriptor]
    schema_version: int = 2
    media_type: str = ""


class _Shape(msgspec.Struct, rename="camel"):
    """The fields that tell what a document is; their values don't matter here, not even null."""

    media_type: Any = None
    schema_version: Any = None
    config: msgspec.Raw | UnsetType = UNSET
    layers: msgspec.Raw | UnsetType = UNSET
    manifests: msgspec.Raw | UnsetType = UNSET
    fs_layers: msgspec.Raw | UnsetType = UNSET

    @property
    def said(self) -> str:
        """The kind that the document says it is."""
        return self.media_type if isinstance(self.media_type, str) else ""

    def kinds(self) -> tuple[str, ...]:
        """What the document can be by its fields (InvalidParameter)."""
        if self.schema_version == 1 or self.fs_layers is not UNSET:
            return SCHEMA1
        if self.manifests is not UNSET and (self.config is not UNSET or self.layers is not UNSET):
            # One client would run the image, another one what the index leads to (CVE-2021-41190).
            raise InvalidParameter("invalid manifest: it is both an image and an index")
        if self.manifests is not UNSET:
            return INDEXES
        if self.config is not UNSET and self.layers is not UNSET:
            return MANIFESTS
        raise InvalidParameter("invalid manifest: neither an image nor an index")


def media_type_of(raw: bytes) -> str:
    """The kind of a document that is here: what it says itself when its fields are of that kind, else OCI's.

    InvalidParameter for one that is no manifest or could be taken for two kinds.
    """
    shape = _decode(raw, _Shape)
    kinds = shape.kinds()
    return shape.said if shape.said in kinds else kinds[0]


def checked_type(raw: bytes, declared: str) -> str:
    """The same of a document from elsewhere; ``declared`` is the Content-Type or descriptor that it came with.

    InvalidParameter unless its fields, what it says itself and ``declared`` agree (distribution-spec, "Pulling
    manifests"). A Docker's for an OCI's of the same form is let pass, as are a web server's general types.
    """
    shape = _decode(raw, _Shape)
    kinds = shape.kinds()
    declared = declared.partition(";")[0].strip()
    claims = [shape.said, "" if declared in _GENERAL else declared]
    for claim, how in zip(claims, ("says that it is", "came as"), strict=True):
        if claim and claim not in kinds:
            raise InvalidParameter(
                f"invalid manifest: it {how} {claim[:200]}, its fields are {_NAMES[kinds]}"
            )
    return next((claim for claim in claims if claim), kinds[0])


def parse_manifest(raw: bytes) -> Manifest:
    """A manifest (InvalidParameter); every digest in it is checked for its form."""
    _expect(raw, MANIFESTS)
    manifest = _decode(raw, Manifest)
    for descriptor in (manifest.config, *manifest.layers):
        _check(descriptor)
    return manifest


def parse_index(raw: bytes) -> Index:
    """An index or manifest list (InvalidParameter)."""
    _expect(raw, INDEXES)
    index = _decode(raw, Index)
    for descriptor in index.manifests:
        _check(descriptor)
    return index


def _expect(raw: bytes, kinds: tuple[str, ...]) -> None:
    found = _decode(raw, _Shape).kinds()
    if found != kinds:
        raise InvalidParameter(f"invalid manifest: its fields are {_NAMES[found]}, not {_NAMES[kinds]}")


def _decode(raw: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InvalidParameter(f"invalid manifest: {error}") from error


def _check(descriptor: Descriptor) -> None:
    digests.parse(descriptor.digest)
    if descriptor.size < 0:
        raise InvalidParameter(f"invalid manifest: size {descriptor.size}")


def encode_manifest(config: Descriptor, layers: list[Descriptor], *, docker: bool = False) -> bytes:
    """A new manifest in the key order that others write."""
    kind = DOCKER_MANIFEST if docker else OCI_MANIFEST
    document = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": msgspec.to_builtins(config),
        "layers": msgspec.to_builtins(layers),
    }
    return msgspec.json.encode(document)


_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
}


def host_platform() -> Platform:
    """What this machine runs, in Go's names."""
    machine = host.machine()
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return Platform(architecture, "linux", "" if architecture == "arm64" else variant)


def parse_platform(text: str) -> Platform:
    """``os[/architecture[/variant]]`` as ``--platform`` has it (InvalidParameter)."""
    parts = text.lower().split("/")
    if not text or len(parts) > 3 or not all(parts):
        raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
    if len(parts) == 1:
        mine = host_platform()
        known = {name for name, _ in _MACHINES.values()}
        if parts[0] in known:
            return Platform(parts[0], "linux")
        return Platform(mine.architecture, parts[0])
    names = {"x86_64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386"}
    return Platform(names.get(parts[1], parts[1]), parts[0], parts[2] if len(parts) == 3 else "")


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The manifest of an index for a platform (NotFound in Docker's words)."""
    found = best([entry.platform for entry in index.manifests], wanted)
    if found is None:
        raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
    return index.manifests[found]


def best(offered: Sequence[Platform | None], wanted: Platform) -> int | None:
    """Which of the platforms serves the wanted one best: of its very variant, else the newest that fits."""
    fitting = [number for number, one in enumerate(offered) if fits(one, wanted)]
    variant = normal(wanted).variant

    def rank(number: int) -> tuple[bool, str]:
        mine = normal(offered[number] or Platform()).variant
        return mine == variant, mine

    return max(fitting, key=rank, default=None)  # the first of equals


def normal(platform: Platform) -> Platform:
    """Without what goes without saying: arm64 is v8, arm without a variant is v7 (containerd's platforms)."""
    variant = platform.variant
    if platform.architecture == "arm64" and variant in ("v8", "8"):
        variant = ""
    elif platform.architecture == "arm":
        variant = f"v{variant.removeprefix('v')}" if variant else "v7"
    return msgspec.structs.replace(platform, variant=variant)


def fits(offered: Platform | None, wanted: Platform) -> bool:
    """Whether an image for ``offered`` runs where ``wanted`` is asked; no platform fits everything."""
    if offered is None:
        return True
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return False
    offered, wanted = normal(offered), normal(wanted)
    if not wanted.variant or not offered.variant or offered.variant == wanted.variant:
        return True
    # 32-bit ARM runs the older variants too.
    return offered.architecture == "arm" and offered.variant <= wanted.variant


def is_attestation(entry: Descriptor) -> bool:
    """Whether an entry of an index is BuildKit's attestation of another one, which no machine runs."""
    if (entry.annotations or {}).get("vnd.docker.reference.type") == "attestation-manifest":
        return True
    return entry.platform is not None and (entry.platform.os, entry.platform.architecture) == (
        "unknown",
        "unknown",
    )


def compression(media_type: str) -> str:
    """How a layer of this media type is packed: "gzip", "zstd" or "" (its bytes decide in the end)."""
    for suffix, name in (("+gzip", "gzip"), (".gzip", "gzip"), ("+zstd", "zstd"), (".zstd", "zstd")):
        if media_type.endswith(suffix):
            return name
    return ""


def layer_media_type(kind: str) -> str:
    """The OCI media type of a layer packed as ``kind``."""
    return f"{OCI_LAYER}+{kind}" if kind else OCI_LAYER


def parse_config(raw: bytes) -> dict[str, Any]:
    """An image's configuration as a plain object; its ``rootfs.diff_ids`` are checked (InvalidParameter)."""
    try:
        document = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise InvalidParameter(f"invalid image configuration: {error}") from error
    rootfs = document.get("rootfs") if isinstance(document, dict) else None
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(document, dict) or (rootfs is not None and not isinstance(rootfs, dict)):
        raise InvalidParameter("invalid image JSON, no RootFS key")
    for diff_id in diff_ids or []:
        if not isinstance(diff_id, str):
            raise InvalidParameter(
                f"invalid image configuration: rootfs.diff_ids holds {diff_id!r}, which is no digest"
            )
        digests.parse(diff_id)
    return document


def diff_ids(document: dict[str, Any]) -> list[str]:
    """The uncompressed layers' digests of a configuration, bottom first."""
    return list((document.get("rootfs") or {}).get("diff_ids") or [])
