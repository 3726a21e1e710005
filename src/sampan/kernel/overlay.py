"""Overlay file systems that no mount table shows (overlayfs.rst; fsmount(2)).

The engine reads and writes a stopped container's files through such a mount; closing it unmounts it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from sampan.kernel import mounts

_STRING_LIMIT = 255  # bytes that fsconfig(2) takes as a string


def mount_detached(
    lowers: Sequence[Path], upper: Path | None, work: Path | None, *, readonly: bool = False
) -> int:
    """A descriptor of the merged directory of ``lowers`` (topmost first) and, when given, ``upper``.

    ``work`` must be an empty directory on the file system of ``upper``. OSError as in fsconfig(2); ENOENT
    names the layer that is missing.
    """
    for path in (*lowers, *filter(None, (upper, work))):
        if not path.is_dir():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    flags = mounts.MOUNT_ATTR_RDONLY if readonly else 0
    texts = [str(path) for path in lowers]
    pair = (str(upper), str(work)) if upper is not None and work is not None else (None, None)
    if all(len(os.fsencode(path)) <= _STRING_LIMIT for path in (*texts, *filter(None, pair))):
        return mounts.overlay(texts, pair[0], pair[1], flags)
    with ExitStack() as stack:
        short = [_short(stack, path) for path in texts]
        above = [_short(stack, path) if path else None for path in pair]
        return mounts.overlay(short, above[0], above[1], flags)


def _short(stack: ExitStack, path: str) -> str:
    """The same directory under a name that is short enough."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"
