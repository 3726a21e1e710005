from __future__ import annotations

from pathlib import Path

import pytest

from sampan.storage.blobs import BlobStore
from sampan.storage.layers import LayerStore


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "root")


@pytest.fixture
def layers(blobs: BlobStore) -> LayerStore:
    return LayerStore(blobs.root, blobs)
