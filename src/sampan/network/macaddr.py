"""MAC addresses of containers' interfaces."""

from __future__ import annotations

import os
import re

from sampan.errors import InvalidParameter

_FORM = re.compile(r"[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}")


def random_mac() -> str:
    """A locally administered unicast address, as Docker makes them since 28."""
    raw = bytearray(os.urandom(6))
    raw[0] = (raw[0] | 0x02) & 0xFE
    return raw.hex(":")


def parse_mac(text: str) -> str:
    """The address in lower case with colons. InvalidParameter with Go's words when it isn't one."""
    if not _FORM.fullmatch(text):
        raise InvalidParameter(f"invalid MAC address: {text}" if text else "invalid MAC address")
    return text.lower().replace("-", ":")
