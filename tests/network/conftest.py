from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.network.lab import own_namespace


@pytest.fixture
def machine() -> Iterator[None]:
    """A network namespace for the test alone."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with own_namespace():
        yield
