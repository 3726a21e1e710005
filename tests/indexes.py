"""An image for several platforms, with attestations, as BuildKit makes them: as documents and as an archive."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from tests.tars import tar_of

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
INTOTO = "application/vnd.in-toto+json"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(kind: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digest(data), "size": len(data), **more}


@dataclass
class Multi:
    """``raw`` is the index; ``manifests`` by platform (``linux/arm64``), attestations under ``att/arm64``."""

    raw: bytes = b""
    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest(self.raw)

    def digest_for(self, platform: str) -> str:
        return digest(self.manifests[platform])

    def image(self, platform: str) -> str:
        """The image's id."""
        found: str = json.loads(self.manifests[platform])["config"]["digest"]
        return found

    def put(self, data: bytes) -> bytes:
        self.blobs[digest(data)] = data
        return data

    def archive(self, name: str, without: tuple[str, ...] = ()) -> bytes:
        """An OCI layout under a tag in full, without the manifests of some."""
        gone = {self.digest_for(one) for one in without}
        files = {
            "blobs/" + key.replace(":", "/"): data for key, data in self.blobs.items() if key not in gone
        }
        files["blobs/" + self.digest.replace(":", "/")] = self.raw
        note = {"io.containerd.image.name": name}
        index = {"schemaVersion": 2, "manifests": [descriptor(INDEX, self.raw, annotations=note)]}
        files |= {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps(index).encode(),
        }
        return tar_of(files)


def multi(*architectures: str, seed: str = "") -> Multi:
    """An index of such an image: each platform has a layer of its own on one that all share."""
    made = Multi()
    entries = []
    base = tar_of({"base": b"for all" + seed.encode()})
    for name in architectures:
        own = tar_of({"platform": f"{name}{seed}".encode()})
        packed = [made.put(gzip.compress(layer, mtime=0)) for layer in (base, own)]
        config = made.put(
            json.dumps(
                {
                    "os": "linux",
                    "architecture": name,
                    "config": {"Cmd": ["true"]},
                    "rootfs": {"type": "layers", "diff_ids": [digest(base), digest(own)]},
                }
            ).encode()
        )
        # Odd spacing: whoever encodes it anew gives another digest.
        image = made.put(
            json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": MANIFEST,
                    "config": descriptor(CONFIG, config),
                    "layers": [descriptor(LAYER, layer) for layer in packed],
                },
                indent=3,
            ).encode()
        )
        made.manifests[f"linux/{name}"] = image
        entries.append(descriptor(MANIFEST, image, platform={"architecture": name, "os": "linux"}))
    for name in architectures:
        entries.append(_attestation(made, name))
    made.raw = json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, "annotations": {"odd": "one"}},
        indent=5,
    ).encode()
    return made


def _attestation(made: Multi, name: str) -> dict[str, Any]:
    statement = made.put(json.dumps({"predicate": name}).encode())
    layers = [descriptor(INTOTO, statement)]
    config = made.put(
        json.dumps(
            {
                "architecture": "unknown",
                "os": "unknown",
                "rootfs": {"type": "layers", "diff_ids": [digest(statement)]},
            }
        ).encode()
    )
    raw = made.put(
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": descriptor(CONFIG, config),
                "layers": layers,
            }
        ).encode()
    )
    made.manifests[f"att/{name}"] = raw
    notes = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": made.digest_for(f"linux/{name}"),
    }
    return descriptor(MANIFEST, raw, platform={"architecture": "unknown", "os": "unknown"}, annotations=notes)


def nested(*architectures: str) -> tuple[Multi, Multi]:
    """An index that holds one with these platforms, and one that holds that twice; and the inner one."""
    inner = multi(*architectures)
    middle = inner.put(inner.raw)
    entry = descriptor(INDEX, middle)
    second = inner.put(
        json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}, indent=2).encode()
    )
    outer = Multi(manifests=inner.manifests, blobs=inner.blobs)
    entries = [entry, descriptor(INDEX, second, platform={"architecture": "", "os": ""})]
    outer.raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}, indent=1).encode()
    return outer, inner
