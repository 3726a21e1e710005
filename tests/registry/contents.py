"""Every kind of content that may be pushed to a registry: images, indexes, artifacts, what is about others."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass, field
from typing import Any

from tests.registry.serving import CONFIG, INDEX, LAYER, MANIFEST, digest_of

EMPTY = "application/vnd.oci.empty.v1+json"
EXAMPLE = "application/vnd.example.data.v1"
SIGNATURE = "application/vnd.example.signature.v1"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
NONDISTRIBUTABLE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"

Descriptor = dict[str, Any]


@dataclass
class Content:
    """What a client has: blobs, and manifests in the order in which they are pushed."""

    algorithm: str = "sha256"
    inline: bool = False
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    referrers: dict[str, list[Descriptor]] = field(default_factory=dict)

    def describe(self, data: bytes, kind: str) -> Descriptor:
        found: Descriptor = {"mediaType": kind, "digest": digest_of(data, self.algorithm), "size": len(data)}
        return {**found, "data": base64.b64encode(data).decode()} if self.inline else found

    def blob(self, kind: str, data: bytes | None = None) -> Descriptor:
        data = os.urandom(700) if data is None else data
        found = self.describe(data, kind)
        self.blobs[found["digest"]] = data
        return found

    def manifest(self, document: dict[str, Any], kind: str, tag: str = "") -> Descriptor:
        raw = json.dumps({"schemaVersion": 2, "mediaType": kind, **document}).encode()
        found = self.describe(raw, kind)
        self.manifests[found["digest"]] = (raw, kind)
        if tag:
            self.tags[tag] = found["digest"]
        subject = document.get("subject")
        if subject:
            type_ = document.get("artifactType") or document.get("config", {}).get("mediaType")
            entry = {"mediaType": kind, "digest": found["digest"], "size": len(raw)}
            entry |= {"artifactType": type_} if type_ else {}
            entry |= {"annotations": document["annotations"]} if "annotations" in document else {}
            self.referrers.setdefault(subject["digest"], []).append(entry)
        return found

    def image(self, tag: str = "", layers: int = 2, kind: str = MANIFEST, **more: Any) -> Descriptor:
        config = json.dumps({"os": "linux", "architecture": "amd64", "author": os.urandom(4).hex()}).encode()
        document = {
            "config": self.blob(CONFIG, config),
            "layers": [self.blob(LAYER) for _ in range(layers)],
            **more,
        }
        return self.manifest(document, kind, tag)

    def artifact(self, tag: str = "", layer: bytes | None = None, **more: Any) -> Descriptor:
        kind = EMPTY if layer == b"{}" else EXAMPLE
        document = {
            "artifactType": EXAMPLE,
            "config": self.blob(EMPTY, b"{}"),
            "layers": [self.blob(kind, layer)],
            **more,
        }
        return self.manifest(document, MANIFEST, tag)

    def index(self, *entries: Descriptor, tag: str = "", kind: str = INDEX, **more: Any) -> Descriptor:
        return self.manifest({"manifests": list(entries), **more}, kind, tag)


def plain(content: Content) -> None:
    content.image("image")


def no_layers(content: Content) -> None:
    content.image("bare", layers=0)


def large(content: Content) -> None:
    content.image("large", annotations={f"note-{number}": "A" * 10_000 for number in range(390)})


def inline_data(content: Content) -> None:
    content.inline = True
    content.image("inline")


def unknown_fields(content: Content) -> None:
    content.index(
        content.image(**{"org.example": {"deep": [1, None]}}), tag="more", extra=[{"digest": "odd"}]
    )


def nondistributable(content: Content) -> None:
    elsewhere = {**content.describe(os.urandom(50), NONDISTRIBUTABLE), "urls": ["https://example.com/layer"]}
    content.manifest(
        {"config": content.blob(CONFIG), "layers": [elsewhere, content.blob(LAYER)]}, MANIFEST, "nd"
    )


def docker(content: Content) -> None:
    content.index(content.image(kind=DOCKER_MANIFEST), tag="docker", kind=DOCKER_LIST)


def index(content: Content) -> None:
    content.index(content.image(), content.image(), tag="multi")


def empty_index(content: Content) -> None:
    content.index(tag="nothing")


def nested_index(content: Content) -> None:
    content.index(
        content.index(content.image()), content.index(content.image(), content.image()), tag="nested"
    )


def index_of_blobs(content: Content) -> None:
    """A cache as BuildKit's first exporter writes it."""
    content.index(content.blob(LAYER), content.blob("application/vnd.buildkit.cacheconfig.v0"), tag="cache")


def artifact(content: Content) -> None:
    content.artifact("artifact")
    content.artifact("empty", layer=b"{}")


def helm(content: Content) -> None:
    config = content.blob("application/vnd.cncf.helm.config.v1+json", b'{"name":"chart"}')
    layer = content.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    content.manifest({"config": config, "layers": [layer]}, MANIFEST, "0.1.0")


def artifact_index(content: Content) -> None:
    content.index(content.artifact(), content.artifact(), tag="artifacts", artifactType=EXAMPLE)


def subjects(content: Content) -> None:
    image = content.image("app")
    content.image(subject=image)
    content.artifact("sbom", subject=image, annotations={"org.example.format": "json"})
    content.artifact(subject=image, artifactType=SIGNATURE, annotations={"org.example.key": "1"})
    content.index(content.artifact(), subject=image, artifactType=SIGNATURE)
    content.index(subject=image)


def missing_subject(content: Content) -> None:
    content.artifact("early", subject=content.describe(b"comes later", MANIFEST))


def signature_by_tag(content: Content) -> None:
    """A signature as cosign stores it: found by a tag that is made of the image's digest."""
    image = content.image("signed")
    config = content.blob(CONFIG, b'{"rootfs":{"type":"layers"}}')
    layer = content.blob("application/vnd.dev.cosign.simplesigning.v1+json", b'{"critical":{}}')
    layer["annotations"] = {"dev.cosignproject.cosign/signature": "MEUCIQ=="}
    tag = image["digest"].replace(":", "-")[:100] + ".sig"  # a tag has 128 characters at most
    content.manifest({"config": config, "layers": [layer]}, MANIFEST, tag)


def other_kind(content: Content) -> None:
    """The artifact manifest that image-spec 1.1 had in its release candidates, and a kind that nobody knows."""
    image = content.image()
    kind = "application/vnd.oci.artifact.manifest.v1+json"
    content.manifest({"artifactType": EXAMPLE, "blobs": [content.blob(EXAMPLE)], "subject": image}, kind)
    content.manifest({"parts": {"deep": [content.blob(EXAMPLE)]}}, "application/vnd.example.bundle+json", "b")


KINDS = (
    *(plain, no_layers, large, inline_data, unknown_fields, nondistributable, docker),
    *(index, empty_index, nested_index, index_of_blobs, artifact, helm, artifact_index),
    *(subjects, missing_subject, signature_by_tag, other_kind),
)
