"""The root file system that one build step changes: looked at merged, written to an overlay's upper."""

from __future__ import annotations

import os
import posixpath
import stat
from pathlib import Path
from typing import Self

from sampan.kernel import overlay, paths

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


_MAX_LINKS = 40


class RootFs:
    """``lowers`` (topmost first) with ``upper`` over them, as one detached mount; a context manager.

    ``fd`` is the merged root. Without lowers (FROM scratch, ``--link``) it is the upper directory itself.
    Nothing shows in the host's mount table, and closing unmounts.
    """

    def __init__(self, lowers: list[Path], upper: Path, work: Path) -> None:
        self.upper = upper
        self.fd = -1
        if lowers:
            self.fd = overlay.mount_detached(lowers, upper, work)
            self._merged = True
        else:
            self.fd = os.open(upper, _DIR)
            self._merged = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmount."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def status(self, path: str) -> os.stat_result | None:
        """What ``path`` leads to (links followed inside the root), None when nothing is there."""
        try:
            fd = paths.open_in_root(self.fd, path, os.O_PATH)
        except OSError:
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def follow(self, path: str) -> str:
        """``path``, or what it leads to when it is a link, also one to nowhere; NotADirectoryError in circles."""
        for _ in range(_MAX_LINKS):
            directory, _, name = path.rpartition("/")
            try:
                parent = paths.open_in_root(self.fd, directory or "/", os.O_PATH | os.O_DIRECTORY)
            except OSError:
                return path
            try:
                target = os.readlink(name, dir_fd=parent)
                path = posixpath.join("/", self.real_path(parent), target)
            except OSError:
                return path
            finally:
                os.close(parent)
        raise NotADirectoryError(f"{path}: too many levels of symbolic links")

    def real_path(self, fd: int) -> str:
        """The path below the root, without links and leading slash, of an open directory; "" for the root."""
        here = os.readlink(f"/proc/self/fd/{fd}")
        top = os.readlink(f"/proc/self/fd/{self.fd}").rstrip("/")
        return here[len(top) :].strip("/")

    def make_directories(self, path: str, owner: tuple[int, int] = (0, 0), mode: int = 0o755) -> int:
        """Open the directory ``path`` for reading; what is missing of it is made with ``owner`` and ``mode``.

        A link to nowhere is followed, and what it names is made. Raises NotADirectoryError when something
        else is in the way or links lead in circles.
        """
        try:
            return paths.open_in_root(self.fd, path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            pass
        waiting = _parts(path)[::-1]
        here, links = paths.open_in_root(self.fd, "/", os.O_RDONLY | os.O_DIRECTORY), 0
        try:
            while waiting:
                name = waiting.pop()
                inner = self._enter(here, name, owner, mode)
                if isinstance(inner, str):
                    links += 1
                    if links > _MAX_LINKS:
                        raise NotADirectoryError(f"{path}: too many levels of symbolic links")
                    target = inner if inner.startswith("/") else f"/{self.real_path(here)}/{inner}"
                    waiting += _parts(target)[::-1]
                    inner = paths.open_in_root(self.fd, "/", os.O_RDONLY | os.O_DIRECTORY)
                os.close(here)
                here = inner
        except BaseException:
            os.close(here)
            raise
        return here

    def _enter(self, parent: int, name: str, owner: tuple[int, int], mode: int) -> int | str:
        """The directory ``name`` below ``parent``, made if need be, or the target of a link in its place."""
        if name == "..":
            above = posixpath.dirname("/" + self.real_path(parent))
            return paths.open_in_root(self.fd, above, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return make_directory(parent, name, owner, mode)
        except FileExistsError:
            pass
        if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            return os.readlink(name, dir_fd=parent)
        return os.open(name, _DIR, dir_fd=parent)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def make_directory(parent: int, name: str, owner: tuple[int, int], mode: int) -> int:
    """Make the directory ``name`` below ``parent`` and open it. Raises FileExistsError."""
    os.mkdir(name, 0o700, dir_fd=parent)
    fd = os.open(name, _DIR, dir_fd=parent)
    if owner != (0, 0):
        os.fchown(fd, *owner)
    os.fchmod(fd, mode)
    return fd


def changed(upper: Path, lowers: list[Path]) -> bool:
    """Whether a step left anything in its upper directory, or changed the root directory's owner or mode."""
    with os.scandir(upper) as entries:
        if next(entries, None) is not None:
            return True
    if not lowers:
        return False
    here, below = os.lstat(upper), os.lstat(lowers[0])
    return (here.st_mode, here.st_uid, here.st_gid) != (below.st_mode, below.st_uid, below.st_gid)


def clamp_times(upper: Path, epoch: int) -> None:
    """Set back every modification time below ``upper`` that lies after ``epoch`` (seconds since 1970)."""
    for directory, _, files, fd in os.fwalk(upper, topdown=False, follow_symlinks=False):
        for name in files:
            _clamp(name, fd, epoch)
        with os.scandir(fd) as entries:
            links = [e.name for e in entries if e.is_symlink()]
        for name in links:
            _clamp(name, fd, epoch)
        _clamp(directory, None, epoch)


def _clamp(name: str, fd: int | None, epoch: int) -> None:
    found = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if found.st_mtime > epoch and not (stat.S_ISCHR(found.st_mode) and found.st_rdev == 0):
        os.utime(name, (epoch, epoch), dir_fd=fd, follow_symlinks=False)
