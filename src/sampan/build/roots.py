"""The files of a finished stage or image, to be read by COPY --from and mounted by RUN."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sampan.build.trees import Root
from sampan.errors import NotFound
from sampan.kernel import overlay, paths, xattr

_OPAQUE = "trusted.overlay.opaque"


@contextmanager
def opened(lowers: list[Path], label: str) -> Iterator[Root]:
    """The merged directory of ``lowers`` (topmost first) for reading."""
    if len(lowers) > 1:
        fd = overlay.mount_detached(lowers, None, None, readonly=True)
    elif lowers:
        # overlayfs wants two directories when none is for writing.
        fd = os.open(lowers[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    else:
        fd = -1
    if fd < 0:
        raise NotFound(f"{label} has no files", hint="It is built FROM scratch and copies nothing.")
    try:
        yield Root(fd, label)
    finally:
        os.close(fd)


def real_path(lowers: list[Path], path: str, label: str) -> str:
    """``path`` in the merged view with every link resolved, relative ("" for the root). NotFound."""
    with opened(lowers, label) as root:
        try:
            fd = paths.open_in_root(root.fd, path, os.O_PATH)
        except OSError as error:
            raise NotFound(f"stat {path}: file does not exist") from error
        try:
            top = os.readlink(f"/proc/self/fd/{root.fd}").rstrip("/")
            return os.readlink(f"/proc/self/fd/{fd}")[len(top) :].strip("/")
        finally:
            os.close(fd)


def stack(lowers: list[Path], path: str) -> list[Path]:
    """The host paths that together are ``path`` (resolved): several directories to stack, or one file.

    A layer where a part of the path is a whiteout, a file, or an opaque directory hides those below.
    """
    found: list[Path] = []
    for lower in lowers:
        here, last = _in_layer(lower, path)
        if here is not None:
            if not stat.S_ISDIR(os.lstat(here).st_mode):
                return found or [here]
            found.append(here)
        if last:
            break
    return found


def _in_layer(lower: Path, path: str) -> tuple[Path | None, bool]:
    """``path`` in one layer, and whether layers below can't show through."""
    here = lower
    last = False
    for part in [part for part in path.split("/") if part]:
        here = here / part
        try:
            found = os.lstat(here)
        except FileNotFoundError:
            return None, last
        if not stat.S_ISDIR(found.st_mode):
            whiteout = stat.S_ISCHR(found.st_mode) and found.st_rdev == 0
            return (None if whiteout else here), True
        last = last or xattr.read(os.fsencode(here), _OPAQUE) == b"y"
    return here, last
