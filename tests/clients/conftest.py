"""Fixtures of the client tests: what each client needs to find the session's daemon."""

from __future__ import annotations

import secrets

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
