from __future__ import annotations

from collections.abc import Callable

import pytest

from sampan.images.store import ImageStore
from tests.stores import new_store as new_store


@pytest.fixture
def store(new_store: Callable[[str], ImageStore]) -> ImageStore:
    return new_store("store")
