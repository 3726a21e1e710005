"""Docker's stream frames, taken apart: 8 bytes of head (stream, three zeros, size), then the text."""

from __future__ import annotations

import struct


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """The frames of ``data`` as (stream, text); fails on a broken one."""
    found, at = [], 0
    while at < len(data):
        stream, size = struct.unpack_from(">BxxxI", data, at)
        at += 8 + size
        assert at <= len(data)
        found.append((stream, data[at - size : at]))
    return found


def text(data: bytes) -> bytes:
    """What the frames of ``data`` say, of whatever stream."""
    return b"".join(piece for _, piece in frames(data))
