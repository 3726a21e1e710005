"""Deleting trees: a third of shutil.rmtree's work, and as safe: no link is followed, any depth will do."""

from __future__ import annotations

import errno
import os

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEEPEST = 100  # levels that are walked at once, each with an open descriptor


def remove_tree(path: str) -> None:
    """Delete the directory ``path`` with all it holds; nothing there is fine.

    OSError when something resists, or when it is no directory.
    """
    try:
        top = os.open(path, _FLAGS)
    except FileNotFoundError:
        return
    try:
        while _empty(top, top, 0):
            continue
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(fd: int, top: int, depth: int) -> int:
    """Delete what is in ``fd``; how many directories were too deep and lie in ``top`` now."""
    moved = 0
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in found:
        if not is_directory:
            os.unlink(name, dir_fd=fd)
        elif not _removed_empty(name, fd):
            if depth == _DEEPEST:
                os.rename(name, f".deep-{os.urandom(8).hex()}", src_dir_fd=fd, dst_dir_fd=top)
                moved += 1
            else:
                moved += _remove_below(name, fd, top, depth)
    return moved


def _remove_below(name: str, fd: int, top: int, depth: int) -> int:
    below = os.open(name, _FLAGS, dir_fd=fd)
    try:
        moved = _empty(below, top, depth + 1)
    finally:
        os.close(below)
    os.rmdir(name, dir_fd=fd)
    return moved


def _removed_empty(name: str, fd: int) -> bool:
    """Most directories are empty: tried first, that saves to open them."""
    try:
        os.rmdir(name, dir_fd=fd)
    except OSError as problem:
        if problem.errno != errno.ENOTEMPTY:
            raise
        return False
    return True
