"""Image stores in temporary directories, for tests below the engine."""

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
    """Makes stores by name."""

    def make(name: str) -> ImageStore:
        root = tmp_path / name
        blobs = BlobStore(root)
        return ImageStore(Database(root / "sampan.db"), blobs, LayerStore(root, blobs))

    return make
