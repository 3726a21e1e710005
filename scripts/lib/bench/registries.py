"""Rows: ``serve-registry`` beside Debian's docker-registry."""

from __future__ import annotations

import registryload
from rows import row

from engine import Engine


@row("serve-registry: upload of 512 MB (beside docker-registry)", "MB/s", "≥ 1.0 ×", 2, "higher")
def registry_upload(e: Engine) -> float:
    return registryload.uploads(e.name, 1, 512 << 20)


@row("serve-registry: 16 uploads of 64 MB at once", "MB/s", "≥ 1.0 ×", 2, "higher")
def registry_uploads(e: Engine) -> float:
    return registryload.uploads(e.name, 16, 64 << 20)


@row("serve-registry: download of 256 MB", "MB/s", "≥ 1.0 ×", 3, "higher")
def registry_download(e: Engine) -> float:
    return registryload.downloads(e.name, 1, 256 << 20, 4)


@row("serve-registry: downloads by 16 clients", "MB/s", "≥ 1.0 ×", 3, "higher")
def registry_downloads(e: Engine) -> float:
    return registryload.downloads(e.name, 16, 128 << 20, 2)


@row("serve-registry: manifests, 1 client", "/s", "≥ 1.0 ×", 3, "higher")
def registry_manifests(e: Engine) -> float:
    return registryload.manifest_rate(e.name, 1, 2000)


@row("serve-registry: manifests, 16 clients", "/s", "≥ 1.0 ×", 3, "higher")
def registry_manifests_many(e: Engine) -> float:
    return registryload.manifest_rate(e.name, 16, 300)


@row("serve-registry: memory during 16 uploads of 1 GB", "MB PSS", "≤ 150 MB", 1)
def registry_memory(e: Engine) -> float:
    return registryload.upload_memory(e.name, 16, 1 << 30)
