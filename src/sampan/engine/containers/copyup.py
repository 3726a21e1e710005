"""What a new volume and a missing working directory take from the image, written before the first start."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from sampan import errors
from sampan.engine.containers.record import MountPoint
from sampan.kernel import mounts as kernel_mounts
from sampan.kernel import paths
from sampan.storage import tree


def wanted(point: MountPoint) -> bool:
    """Whether the image's content at this destination goes into the volume: only into an empty one."""
    if point.type != "volume" or point.no_copy or point.subpath:
        return False
    try:
        return not any(os.scandir(point.source))
    except OSError:
        return False


def populate(
    lowers: Sequence[Path], upper: Path, work: Path, working_dir: str, points: Iterable[MountPoint]
) -> None:
    """Copy the image's content into empty volumes and make the working directory in the container's root.

    SystemFailure "Cannot mkdir: …" when the working directory is a file. Links in the image lead nowhere
    but inside it.
    """
    root = kernel_mounts.overlay([str(path) for path in lowers], str(upper), str(work))
    try:
        for point in points:
            _copy(root, point)
        if working_dir:
            make_working_directory(root, working_dir)
    finally:
        os.close(root)


def _copy(root: int, point: MountPoint) -> None:
    try:
        source = paths.open_in_root(root, point.destination, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        target = os.open(point.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            tree.copy_tree(source, target)
        finally:
            os.close(target)
    finally:
        os.close(source)


def make_working_directory(root: int, path: str) -> None:
    """Make ``path`` inside ``root`` with its parents; SystemFailure in Docker's words when it is a file."""
    try:
        os.close(paths.make_directories(root, path))
    except NotADirectoryError:
        raise errors.SystemFailure(f"Cannot mkdir: {path} is not a directory") from None
