"""A directory as a tar archive: layers, exports, ``docker cp``.

Walks by descriptors, never by path: a container that renames directories meanwhile can make the archive
miss files, but not lead it out of the root. Names come in byte order, so equal trees give equal archives.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from sampan.kernel import xattr
from sampan.storage import tar, tarwrite
from sampan.storage.extract import OPAQUE_XATTR
from sampan.storage.record import RecordWriter
from sampan.storage.tar import Entry

_PIECE = 1 << 20
_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHAR,
    stat.S_IFBLK: tar.BLOCKDEV,
    stat.S_IFIFO: tar.FIFO,
}
_KEPT = ("user.", "trusted.", "system.posix_acl_", "security.capability")
_DROPPED = ("trusted.overlay.", "user.overlay.")


@dataclass
class Options:
    """How to pack.

    ``whiteouts``: the tree is an overlay's upper directory: its marks become ``.wh.`` members.
    ``fractions``: keep parts of seconds. ``one_file_system``: leave out what is mounted below.
    ``owner``: uid and gid to write for all, instead of the files' own.
    """

    whiteouts: bool = False
    fractions: bool = False
    one_file_system: bool = False
    owner: tuple[int, int] | None = None


class Packer:
    """Packs one tree; hard links among its files are kept. Single use."""

    def __init__(self, options: Options, recorder: RecordWriter | None = None) -> None:
        self._options, self._recorder = options, recorder
        self._links: dict[tuple[int, int], bytes] = {}
        self.size = 0
        """Bytes of file content packed, each hard-linked file once."""
        self.left_out: list[bytes] = []
        """Paths of sockets."""

    def tree(self, dirfd: int, prefix: bytes = b"", *, top: bool = False) -> Iterator[bytes]:
        """All below the directory ``dirfd`` named behind ``prefix``; with ``top`` itself first."""
        fd = os.open(".", _DIR_FLAGS, dir_fd=dirfd)
        levels: list[_Level] = []
        try:
            levels.append((fd, prefix, iter(_sorted(fd))))
            here = os.fstat(fd)
            if top:
                yield self._directory(fd, here, prefix or b".")
            while levels:
                fd, path, names = levels[-1]
                name = next(names, None)
                if name is None:
                    os.close(levels.pop()[0])
                    continue
                below = yield from self._member(fd, name, path + b"/" + name if path else name, here.st_dev)
                if below is not None:
                    levels.append(below)
        finally:
            for level in levels:
                os.close(level[0])

    def single(self, dirfd: int, name: bytes, arcname: bytes) -> Iterator[bytes]:
        """``name`` in ``dirfd`` as the member ``arcname``; a directory with all below it."""
        found = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            yield from self._leaf(dirfd, name, arcname, found)
            return
        fd = os.open(name, _DIR_FLAGS, dir_fd=dirfd)
        try:
            yield from self.tree(fd, arcname, top=True)
        finally:
            os.close(fd)

    def end(self) -> bytes:
        """The archive's two closing blocks."""
        return self._raw(tarwrite.END)

    def _raw(self, data: bytes) -> bytes:
        if self._recorder is not None:
            self._recorder.raw(data)
        return data

    def _member(self, dirfd: int, name: bytes, path: bytes, device: int) -> _Steps:
        """One name of a directory; gives the level to go on with when that is a directory too."""
        try:
            found = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
            if self._options.one_file_system and found.st_dev != device:
                return None
            if not stat.S_ISDIR(found.st_mode):
                yield from self._leaf(dirfd, name, path, found)
                return None
            fd = os.open(name, _DIR_FLAGS, dir_fd=dirfd)
        except (FileNotFoundError, NotADirectoryError):
            return None  # removed or exchanged since the directory was read
        try:
            yield self._directory(fd, os.fstat(fd), path)
            return fd, path, iter(_sorted(fd))
        except BaseException:
            os.close(fd)
            raise

    def _entry(self, path: bytes, found: os.stat_result) -> Entry:
        entry = Entry(path, _KINDS[stat.S_IFMT(found.st_mode)])
        entry.mode = stat.S_IMODE(found.st_mode)
        entry.uid, entry.gid = self._options.owner or (found.st_uid, found.st_gid)
        entry.mtime_ns = found.st_mtime_ns
        return entry

    def _header(self, entry: Entry) -> bytes:
        return self._raw(tarwrite.header(entry, fractions=self._options.fractions))

    def _directory(self, fd: int, found: os.stat_result, path: bytes) -> bytes:
        entry = self._entry(path, found)
        marks = xattr.read_all(fd)
        entry.xattrs = _kept(marks)
        head = self._header(entry)
        if self._options.whiteouts and marks.get(OPAQUE_XATTR) == b"y":
            head += self._mark(path + b"/.wh..wh..opq", found)
        return head

    def _mark(self, path: bytes, found: os.stat_result) -> bytes:
        """An empty ``.wh.`` file (layer.md, "Whiteouts")."""
        mark = self._entry(path, found)
        mark.type, mark.mode = tar.REGULAR, 0o600
        return self._header(mark)

    def _leaf(self, dirfd: int, name: bytes, path: bytes, found: os.stat_result) -> Iterator[bytes]:
        """Anything but a directory. Sockets have no meaning in an archive and are left out, as by Docker."""
        kind = stat.S_IFMT(found.st_mode)
        if kind not in _KINDS:
            self.left_out.append(path)
            return
        if self._options.whiteouts and kind == stat.S_IFCHR and found.st_rdev == 0:
            above, slash, base = path.rpartition(b"/")
            yield self._mark(above + slash + b".wh." + base, found)
            return
        entry = self._entry(path, found)
        if found.st_nlink > 1:
            key = (found.st_dev, found.st_ino)
            first = self._links.setdefault(key, path)
            if first != path:
                entry.type, entry.linkname = tar.LINK, first
                yield self._header(entry)
                return
        if kind == stat.S_IFREG:
            yield from self._regular(dirfd, name, entry)
            return
        entry.xattrs = _kept(xattr.read_all(xattr.at(dirfd, name)))
        if kind == stat.S_IFLNK:
            entry.linkname = os.readlink(name, dir_fd=dirfd)
        elif kind != stat.S_IFIFO:
            entry.major, entry.minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        yield self._header(entry)

    def _regular(self, dirfd: int, name: bytes, entry: Entry) -> Iterator[bytes]:
        fd = os.open(name, _FILE_FLAGS, dir_fd=dirfd)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                return
            entry.size = left = found.st_size
            self.size += left
            entry.xattrs = _kept(xattr.read_all(fd))
            head = self._header(entry)
            if self._recorder is not None:
                self._recorder.file(entry.name, 0, left)
            tail = self._raw(tarwrite.padding(left))
            while left > 0:
                data = os.read(fd, min(left, _PIECE)) or bytes(min(left, _PIECE))
                # A file that shrank meanwhile is filled up with zeros: its header is out already.
                left -= len(data)
                yield head + data
                head = b""
            yield head + tail
        finally:
            os.close(fd)


_Level = tuple[int, bytes, Iterator[bytes]]
_Steps = Generator[bytes, None, "_Level | None"]


def _sorted(dirfd: int) -> list[bytes]:
    return sorted(os.fsencode(name) for name in os.listdir(dirfd))


def _kept(attributes: dict[str, bytes]) -> dict[str, bytes]:
    """Attributes that belong into an archive: not overlay's own, not the host's security labels."""
    return {
        name: value
        for name, value in attributes.items()
        if name.startswith(_KEPT) and not name.startswith(_DROPPED)
    }
