"""Looking into stacked layers without mounting them: what overlayfs would show at a path."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from sampan.kernel import xattr
from sampan.storage.extract import OPAQUE_XATTR


def is_whiteout(found: os.stat_result) -> bool:
    """Whether a file of a layer says that the name is gone (overlayfs.rst)."""
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(directory: bytes) -> bool:
    """Whether a directory of a layer hides the same directory of the layers below."""
    return xattr.read(directory, OPAQUE_XATTR) == b"y"


def lookup(lowers: Sequence[Path], path: bytes) -> tuple[bytes, os.stat_result] | None:
    """Where ``path`` is found first, topmost layer first, and its lstat(2); None when it doesn't exist.

    Symbolic links on the way aren't followed: such a path doesn't exist in this sense.
    """
    parts = [part for part in path.split(b"/") if part]
    for lower in lowers:
        found = _in_layer(os.fsencode(lower), parts)
        if not isinstance(found, bool):
            return found
        if found:
            return None
    return None


def _in_layer(layer: bytes, parts: list[bytes]) -> tuple[bytes, os.stat_result] | bool:
    """The file in one layer; True when this layer hides it in those below, False when it says nothing."""
    hidden = False
    here = layer
    found = os.lstat(layer)
    for part in parts:
        if not stat.S_ISDIR(found.st_mode):
            return True
        here = here + b"/" + part
        try:
            found = os.lstat(here)
        except FileNotFoundError:
            return hidden
        if is_whiteout(found):
            return True
        hidden = hidden or (stat.S_ISDIR(found.st_mode) and is_opaque(here))
    return here, found
