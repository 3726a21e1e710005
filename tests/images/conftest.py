from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.images.store import ImageStore
from sampan.storage.blobs import BlobStore
from sampan.storage.db import Database
from sampan.storage.layers import LayerStore


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[[str], ImageStore]:
    def make(name: str) -> ImageStore:
        root = tmp_path / name
        blobs = BlobStore(root)
        return ImageStore(Database(root / "sampan.db"), blobs, LayerStore(root, blobs))

    return make


@pytest.fixture
def store(new_store: Callable[[str], ImageStore]) -> ImageStore:
    return new_store("store")
