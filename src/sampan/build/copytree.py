"""Copying sources into a step's root file system, as COPY and ADD do.

Everything goes through descriptors of the merged mount, so that no link of the image or the context leads
out of it. Regular files of the context that need no change are hard-linked into the upper directory instead
of copied: a layer's files never change again, and the context goes away, so nobody shares them for long.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable
from dataclasses import dataclass

from sampan.build.modes import Change
from sampan.build.rootfs import RootFs, make_directory
from sampan.build.trees import Item, Source
from sampan.errors import InvalidParameter
from sampan.kernel import paths, xattr

_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SENDFILE_LIMIT = 1 << 30


@dataclass(slots=True)
class _Level:
    """A directory on the way down: its path in the source, both descriptors, its place in the upper one."""

    path: str
    source: int
    target: int
    real: str
    item: Item | None

    def close(self, times: dict[str, int]) -> None:
        """Give the directory its time, and note it in ``times``: links that are put off change it again."""
        if self.item is not None:
            when = self.item.status.st_mtime_ns
            os.utime(self.target, ns=(when, when))
            times[self.real] = when
        os.close(self.source)
        os.close(self.target)


class Copier:
    """Copies any number of sources into ``rootfs``; ``finish()`` makes the links when all are in.

    ``owner``: uid and gid of everything made, None to keep the sources' (directories that have to be made on
    the way belong to root then); ``mode``: the change that ``--chmod`` asks for; ``link``: whether files of
    the context may be linked instead.
    """

    def __init__(
        self,
        rootfs: RootFs,
        owner: tuple[int, int] | None = (0, 0),
        mode: Change | None = None,
        *,
        link: bool = True,
    ) -> None:
        self.rootfs = rootfs
        self.link = link
        self.owner = owner
        self.mode = mode
        self.links: dict[str, str] = {}
        self.times: dict[str, int] = {}
        self.used: set[tuple[int, int]] = set()
        # Where the first name of a file with several names has gone: the others become links to it.
        self.first: dict[tuple[int, int], str] = {}

    def copy(self, source: Source, destination: str) -> None:
        """Copy ``source`` to the absolute path ``destination``; a trailing slash makes it a directory.

        Raises InvalidParameter when a directory and a file are in each other's way.
        """
        before = set(self.used)
        self.first.clear()
        if source.is_dir:
            self._directory(source, destination, before)
        else:
            self._single(source, destination, before)

    def finish(self) -> None:
        """Unmount, then link what was put off: a mounted upper directory must not be changed from below."""
        self.rootfs.close()
        top = os.open(self.rootfs.upper, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened: dict[str, int] = {}
        try:
            for target, source in self.links.items():
                directory, _, name = target.rpartition("/")
                fd = opened.get(directory)
                if fd is None:
                    fd = paths.openat2(
                        top, directory or ".", os.O_PATH | os.O_DIRECTORY, resolve=paths.RESOLVE_NO_SYMLINKS
                    )
                    opened[directory] = fd
                _link(source, name, fd)
            for directory, fd in opened.items():
                if (when := self.times.get(directory)) is not None:
                    os.utime(f"/proc/self/fd/{fd}", ns=(when, when))
        finally:
            for fd in (*opened.values(), top):
                os.close(fd)

    def _single(self, source: Source, destination: str, before: set[tuple[int, int]]) -> None:
        name = posixpath.basename(source.asked) if source.asked != "." else ""
        if not destination.endswith("/"):
            destination = _followed(self.rootfs, destination)
        there = self.rootfs.status(destination)
        if destination.endswith("/") or (there is not None and stat.S_ISDIR(there.st_mode)):
            directory = destination
        else:
            directory, _, name = destination.rpartition("/")
        directory = posixpath.join(directory or "/", source.parents)
        target = self._open_directory(directory)
        holder, _, base = source.path.rpartition("/")
        try:
            inner = paths.open_in_root(source.root.fd, holder or ".", os.O_RDONLY | os.O_DIRECTORY)
            level = _Level("", inner, target, self.rootfs.real_path(target), None)
            try:
                self._leaf(source, level, source.items[0], base, name, source.path, before)
            finally:
                os.close(inner)
        finally:
            os.close(target)

    def _open_directory(self, path: str) -> int:
        try:
            return self.rootfs.make_directories(path, self.owner or (0, 0))
        except NotADirectoryError:
            raise InvalidParameter(f"cannot copy to non-directory: {path}") from None

    def _directory(self, source: Source, destination: str, before: set[tuple[int, int]]) -> None:
        top = posixpath.join(destination, source.parents)
        target = self._open_directory(top)
        inner = paths.open_in_root(source.root.fd, source.path or ".", os.O_RDONLY | os.O_DIRECTORY)
        stack = [_Level("", inner, target, self.rootfs.real_path(target), None)]
        try:
            for item in source.items[1:]:
                parent, _, name = item.path.rpartition("/")
                while stack[-1].path != parent:
                    stack.pop().close(self.times)
                if stat.S_ISDIR(item.status.st_mode):
                    stack.append(self._enter(stack[-1], item, name))
                else:
                    path = posixpath.join(source.path, item.path)
                    self._leaf(source, stack[-1], item, name, name, path, before)
        finally:
            while stack:
                stack.pop().close(self.times)

    def _enter(self, level: _Level, item: Item, name: str) -> _Level:
        mode = self._mode(item)
        real = f"{level.real}/{name}" if level.real else name
        try:
            target = make_directory(level.target, name, self._owner(item), mode)
        except FileExistsError:
            target = self._merge(level, item, name, mode, real)
        for key, value in item.xattrs:
            xattr.write(target, key, value)
        return _Level(item.path, os.open(name, _DIR, dir_fd=level.source), target, real, item)

    def _merge(self, level: _Level, item: Item, name: str, mode: int, real: str) -> int:
        """Open a directory that is there already, and give it the mode and owner of the one that comes."""
        try:
            target = os.open(name, _DIR, dir_fd=level.target)
        except (NotADirectoryError, OSError) as error:
            hint = ""
            if stat.S_ISLNK(os.lstat(f"/proc/self/fd/{level.target}/{name}").st_mode):
                link = os.readlink(name, dir_fd=level.target)
                hint = f"/{real} is a symbolic link to {link}; copy there instead."
            raise InvalidParameter(f"cannot copy to non-directory: /{real}", hint=hint) from error
        os.fchown(target, *self._owner(item))
        os.fchmod(target, mode)
        return target

    def _leaf(
        self,
        source: Source,
        level: _Level,
        item: Item,
        name: str,
        target: str,
        path: str,
        before: set[tuple[int, int]],
    ) -> None:
        """Anything but a directory: ``name`` in the level's source directory becomes ``target``."""
        real = f"{level.real}/{target}" if level.real else target
        self.links.pop(real, None)
        self._clear(level.target, target, real)
        kind = stat.S_IFMT(item.status.st_mode)
        if kind == stat.S_IFREG:
            if not self._may_link(source, item, before):
                self._named(level, item, name, target, real)
                return
            self.links[real] = posixpath.join(source.root.directory, path)
            self.used.add((item.status.st_dev, item.status.st_ino))
            # Any change to the directory brings it to the upper one, where the link will go.
            os.fchmod(level.target, stat.S_IMODE(os.fstat(level.target).st_mode))
        elif kind == stat.S_IFLNK:
            os.symlink(item.link, target, dir_fd=level.target)
            os.chown(target, *self._owner(item), dir_fd=level.target, follow_symlinks=False)
            _describe_by_name(level.target, target, item)
        else:
            os.mknod(target, kind | 0o600, item.status.st_rdev, dir_fd=level.target)
            os.chown(target, *self._owner(item), dir_fd=level.target, follow_symlinks=False)
            os.chmod(target, self._mode(item), dir_fd=level.target)
            _describe_by_name(level.target, target, item)

    def _clear(self, directory: int, name: str, real: str) -> None:
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise InvalidParameter(f"cannot replace to directory /{real} with file")
        os.unlink(name, dir_fd=directory)

    def _may_link(self, source: Source, item: Item, before: set[tuple[int, int]]) -> bool:
        status = item.status
        return (
            self.link
            and bool(source.root.directory)
            and (status.st_uid, status.st_gid) == self._owner(item)
            and self._mode(item) == stat.S_IMODE(status.st_mode)
            and (status.st_dev, status.st_ino) not in before
        )

    def _owner(self, item: Item) -> tuple[int, int]:
        return self.owner or (item.status.st_uid, item.status.st_gid)

    def _mode(self, item: Item) -> int:
        mode = stat.S_IMODE(item.status.st_mode)
        return self.mode(mode, stat.S_ISDIR(item.status.st_mode)) if self.mode else mode

    def _named(self, level: _Level, item: Item, name: str, target: str, real: str) -> None:
        """Copy a file, or link it to the copy that its other name got."""
        status = item.status
        first = self.first.get((status.st_dev, status.st_ino)) if status.st_nlink > 1 else None
        if first is not None:
            fd = self.rootfs.fd
            os.link(first, target, src_dir_fd=fd, dst_dir_fd=level.target, follow_symlinks=False)
            return
        self._regular(level, item, name, target)
        if status.st_nlink > 1:
            self.first[(status.st_dev, status.st_ino)] = real

    def _regular(self, level: _Level, item: Item, name: str, target: str) -> None:
        source = os.open(name, _READ, dir_fd=level.source)
        try:
            fd = os.open(target, _CREATE, 0o600, dir_fd=level.target)
            try:
                while os.sendfile(fd, source, None, _SENDFILE_LIMIT):
                    pass
                if (owner := self._owner(item)) != (0, 0):
                    os.fchown(fd, *owner)
                os.fchmod(fd, self._mode(item))
                for key, value in item.xattrs:
                    xattr.write(fd, key, value)
                when = item.status.st_mtime_ns
                os.utime(fd, ns=(when, when))
            finally:
                os.close(fd)
        finally:
            os.close(source)


def _followed(rootfs: RootFs, path: str) -> str:
    try:
        return rootfs.follow(path)
    except NotADirectoryError as error:
        raise InvalidParameter(f"cannot copy to {error}") from None


def _describe_by_name(directory: int, name: str, item: Item) -> None:
    for key, value in item.xattrs:
        xattr.write(xattr.at(directory, os.fsencode(name)), key, value)
    when = item.status.st_mtime_ns
    os.utime(name, ns=(when, when), dir_fd=directory, follow_symlinks=False)


def _link(source: str, name: str, directory: int) -> None:
    try:
        os.link(source, name, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        # What the merged view removed is a whiteout here; the new file takes its place.
        os.unlink(name, dir_fd=directory)
        os.link(source, name, dst_dir_fd=directory, follow_symlinks=False)


def write_file(
    rootfs: RootFs,
    path: str,
    data: Iterable[bytes],
    owner: tuple[int, int],
    mode: int,
    modified: float | None = None,
) -> None:
    """Write a here-document's text or a download to the absolute ``path`` (its directory is made).

    ``modified``: seconds since 1970. Raises InvalidParameter when a directory has that name.
    """
    path = _followed(rootfs, path)
    directory, _, name = path.rpartition("/")
    target = rootfs.make_directories(directory or "/", owner)
    try:
        try:
            found = os.stat(name, dir_fd=target, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            if stat.S_ISDIR(found.st_mode):
                raise InvalidParameter(f"cannot replace to directory {path} with file")
            os.unlink(name, dir_fd=target)
        fd = os.open(name, _CREATE, 0o600, dir_fd=target)
        with os.fdopen(fd, "wb") as file:
            file.writelines(data)
            file.flush()
            os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            if modified is not None:
                os.utime(fd, (modified, modified))
    finally:
        os.close(target)
