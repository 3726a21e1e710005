"""Fixtures of the client tests: what each client needs to find the session's daemon."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import Daemon


@pytest.fixture
def host(sampand: Daemon, busybox: str) -> str:
    """The DOCKER_HOST of a daemon that has the image ``busybox``."""
    assert busybox
    return sampand.host


@pytest.fixture
def unique() -> str:
    """A word that no other test uses, for names."""
    return f"t{secrets.token_hex(4)}"


@pytest.fixture
def client(host: str) -> Iterator[Any]:
    """docker-py's high-level client."""
    docker = pytest.importorskip("docker", reason="docker-py is not installed")
    with contextlib.closing(docker.DockerClient(base_url=host, timeout=60)) as found:
        yield found


@pytest.fixture
def box(client: Any) -> Iterator[Any]:
    """A container that runs and does nothing."""
    container = client.containers.run("busybox", "sleep 1000", detach=True, init=True)
    yield container
    container.remove(force=True)
