"""Fixtures of the runtime's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.bundles import Bundle, bundle_in, make_rootfs


@pytest.fixture(scope="session")
def oci_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A busybox root file system, shared: containers may write to it."""
    return make_rootfs(tmp_path_factory.mktemp("oci") / "rootfs")


@pytest.fixture
def bundle(tmp_path: Path, oci_rootfs: Path) -> Iterator[Bundle]:
    """An OCI bundle; the test fails if its container leaves anything behind."""
    with bundle_in(tmp_path / "bundle", oci_rootfs) as made:
        yield made
