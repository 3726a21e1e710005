"""Digests of content: ``algorithm:hex`` strings (OCI image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, TypeAlias

from sampan import errors

if TYPE_CHECKING:
    from hashlib import _Hash

Digest: TypeAlias = str
"""``sha256:<64 hex digits>`` or ``sha512:<128 hex digits>``, lower case."""

_LENGTHS = {"sha256": 64, "sha512": 128}
_PATTERN = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})")

EMPTY_SHA256 = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def parse(text: str) -> Digest:
    """``text`` itself when it is a digest of a known algorithm, else InvalidParameter in Docker's words."""
    if _PATTERN.fullmatch(text):
        return text
    algorithm, colon, _ = text.partition(":")
    if not colon:
        raise errors.InvalidParameter("invalid checksum digest format")
    if algorithm not in _LENGTHS:
        raise errors.InvalidParameter("unsupported digest algorithm")
    raise errors.InvalidParameter("invalid checksum digest length")


def valid(text: str) -> bool:
    """Whether ``text`` is a digest of a known algorithm."""
    return _PATTERN.fullmatch(text) is not None


def split(digest: Digest) -> tuple[str, str]:
    """Algorithm and hexadecimal part of a valid digest (InvalidParameter for another one)."""
    algorithm, _, encoded = parse(digest).partition(":")
    return algorithm, encoded


def encoded(digest: Digest) -> str:
    """The hexadecimal part."""
    return split(digest)[1]


def hasher(algorithm: str = "sha256") -> _Hash:
    """A fresh hash object for much content: the fastest there is; it lets other threads run meanwhile.

    It brings 4 MB of OpenSSL, which the engine doesn't start with (``daemon.start``).
    """
    try:
        from _hashlib import new
    except ImportError:  # a Python built without OpenSSL
        return hashlib.new(algorithm, usedforsecurity=False)
    return new(algorithm, usedforsecurity=False)


def finish(algorithm: str, state: _Hash) -> Digest:
    """The digest string of a hash object."""
    return f"{algorithm}:{state.hexdigest()}"


def of(data: bytes) -> Digest:
    """The sha256 digest of ``data``."""
    return "sha256:" + hashlib.sha256(data).hexdigest()
