"""Unpacking an archive below a directory, whatever the archive says.

Every parent directory is opened by openat2 with RESOLVE_IN_ROOT: symbolic links and ``..`` of a hostile
archive resolve inside the root, as they would for a process that runs there. Files are made with O_EXCL and
O_NOFOLLOW below such a descriptor, so nothing outside is ever opened, replaced or changed.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sampan import errors
from sampan.kernel import paths, xattr
from sampan.storage import tar
from sampan.storage.blobs import write_all
from sampan.storage.record import Moved, RecordWriter
from sampan.storage.tar import ArchiveError, Entry, TarReader

WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
OPAQUE_XATTR = "trusted.overlay.opaque"
OVERLAY_XATTRS = ("trusted.overlay.", "user.overlay.")
_DIRFDS = 64
_TIME_LIMIT = 1 << 62  # ns; later and earlier times are cut, as the kernel would do
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PARENT = os.O_PATH | os.O_DIRECTORY


@dataclass
class Options:
    """How to unpack.

    ``whiteouts``: the archive is a layer; ``.wh.`` names become overlay whiteouts.
    ``owner``: uid and gid for everything, instead of the archive's.
    ``protect_kind``: refuse to replace a directory by something else and the other way round (docker cp).
    ``clamp``: ``..`` above the archive's root is the root, as for a process that runs there (ADD), not an error.
    ``keep_root``: leave mode, owner and time of the directory unpacked into as they are.
    ``observe``: called with each entry's path once it is made.
    """

    whiteouts: bool = False
    owner: tuple[int, int] | None = None
    protect_kind: bool = False
    clamp: bool = False
    keep_root: bool = False
    observe: Callable[[bytes, Entry], None] | None = None


@dataclass
class Result:
    """What unpacking found: bytes of file content, paths of directories that the archive didn't list (b"" is
    the root), and what had to be put aside (record.py).
    """

    size: int = 0
    entries: int = 0
    implied: list[bytes] = field(default_factory=list)
    moved: Moved = field(default_factory=list)


class Extractor:
    """Unpacks one archive below ``rootfd``. A context manager; closes what it opened, not ``rootfd``."""

    def __init__(
        self,
        rootfd: int,
        options: Options,
        recorder: RecordWriter | None = None,
        extra: Path | None = None,
    ) -> None:
        self._root, self._options = rootfd, options
        self._recorder, self._extra = recorder, extra
        self._fds: dict[bytes, tuple[int, bytes]] = {}
        self._times: list[tuple[bytes, int]] = []
        self._root_listed = False
        self.result = Result()
        self._make = {
            tar.REGULAR: self._regular,
            tar.DIRECTORY: self._directory,
            tar.SYMLINK: self._symlink,
            tar.LINK: self._link,
            tar.CHAR: self._node,
            tar.BLOCKDEV: self._node,
            tar.FIFO: self._node,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()

    def _forget(self) -> None:
        for fd, _ in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def unpack(self, reader: TarReader) -> Result:
        """Make every member. Raises ArchiveError or SystemFailure, naming the member."""
        for entry in reader:
            path = clean(entry.name, clamp=self._options.clamp)
            try:
                self._one(path, entry, reader)
            except (OSError, OverflowError) as error:
                raise _failure(error, path) from error
        for path, mtime in self._times:
            self._set_time(path, mtime)
        if not self._root_listed:
            self.result.implied.insert(0, b"")
        return self.result

    def _set_time(self, path: bytes, mtime: int) -> None:
        """Of a directory, now that all is in it; one that a later member replaced is no more."""
        parent, _, name = path.rpartition(b"/")
        try:
            if parent and parent not in self._fds:
                plain = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_SYMLINKS
                self._keep(parent, (paths.openat2(self._root, parent, _PARENT, resolve=plain), parent))
            fd = self._fds[parent][0] if parent else self._root
            if not name or stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                os.utime(name or b".", ns=(mtime, mtime), dir_fd=fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise _failure(error, path) from error

    def _one(self, path: bytes, entry: Entry, reader: TarReader) -> None:
        if entry.type == tar.GLOBAL_PAX:
            return
        parent, _, name = path.rpartition(b"/")
        if self._options.whiteouts and name.startswith(WHITEOUT):
            self._whiteout(parent, name)
            return
        make = self._make.get(entry.type)
        if make is None:
            raise ArchiveError(f"unhandled tar header type {entry.type[0]}")
        if not path:
            self._top(entry)
            return
        self.result.entries += 1
        fd, real = self._parent(parent)
        entry.mtime_ns = max(-_TIME_LIMIT, min(_TIME_LIMIT, entry.mtime_ns))
        try:
            make(fd, name, real, entry, reader)
        except FileExistsError:
            opaque = self._clear(fd, name, real, entry)
            # Directories put aside may be open here under their old names.
            fd, real = self._parent(parent)
            make(fd, name, real, entry, reader)
            if opaque and entry.type == tar.DIRECTORY:
                xattr.write(xattr.at(fd, name), OPAQUE_XATTR, b"y")
        if self._options.observe is not None:
            self._options.observe(path, entry)

    # -- directories on the way -------------------------------------------------------------------------

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """A descriptor for the directory ``path`` and its path without symbolic links; made if missing."""
        if not path:
            return self._root, b""
        found = self._fds.get(path)
        if found is None:
            try:
                found = self._open_parent(path)
            except FileNotFoundError:
                found = self._make_parents(path)
            self._keep(path, found)
        return found

    def _keep(self, path: bytes, found: tuple[int, bytes]) -> None:
        if len(self._fds) >= _DIRFDS:
            os.close(self._fds.pop(next(iter(self._fds)))[0])
        self._fds[path] = found

    def _open_parent(self, path: bytes) -> tuple[int, bytes]:
        plain = paths.RESOLVE_IN_ROOT | paths.RESOLVE_NO_SYMLINKS
        try:
            return paths.openat2(self._root, path, _PARENT, resolve=plain), path
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        fd = paths.open_in_root(self._root, path, _PARENT)
        return fd, self._real_path(fd) if self._recorder is not None else path

    def _make_parents(self, path: bytes) -> tuple[int, bytes]:
        """Make ``path`` and what is missing above it: up to what is there, then down again.

        Not by recursion: a name may have a thousand parts.
        """
        missing = [path]
        while (above := missing[-1].rpartition(b"/")[0]) and above not in self._fds:
            try:
                self._keep(above, self._open_parent(above))
            except FileNotFoundError:
                missing.append(above)
        for one in missing[:0:-1]:
            self._keep(one, self._make_parent(one))
        return self._make_parent(path)

    def _make_parent(self, path: bytes) -> tuple[int, bytes]:
        above, _, name = path.rpartition(b"/")
        fd, real = self._parent(above)
        os.mkdir(name, 0o755, dir_fd=fd)
        made = os.open(name, _OPEN_DIR, dir_fd=fd)
        os.fchmod(made, 0o755)
        if self._options.owner is not None:
            os.fchown(made, *self._options.owner)
        inner = real + b"/" + name if real else name
        self.result.implied.append(inner)
        return made, inner

    def _real_path(self, fd: int) -> bytes:
        root = os.readlink(b"/proc/self/fd/%d" % self._root)
        return os.readlink(b"/proc/self/fd/%d" % fd)[len(root) + 1 :]

    # -- what is in the way -----------------------------------------------------------------------------

    def _clear(self, fd: int, name: bytes, real: bytes, entry: Entry) -> bool:
        """Remove what already has this name; True when that was a whiteout of the same archive."""
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        is_dir = stat.S_ISDIR(found.st_mode)
        if self._options.protect_kind and is_dir != (entry.type == tar.DIRECTORY):
            there, here = ("directory", "non-directory") if is_dir else ("non-directory", "directory")
            raise errors.InvalidParameter(
                f'cannot overwrite {there} "/{os.fsdecode(name)}" with {here} "{os.fsdecode(entry.name)}"'
            )
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            os.unlink(name, dir_fd=fd)
            return self._options.whiteouts
        if self._recorder is not None and self._extra is not None:
            self._put_aside(fd, name, real)
        elif is_dir:
            shutil.rmtree(name, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)
        self._forget()
        return False

    def _put_aside(self, fd: int, name: bytes, real: bytes) -> None:
        """Keep a replaced file for the record: the archive holds its bytes too."""
        assert self._recorder is not None and self._extra is not None
        self._extra.mkdir(exist_ok=True)
        number = len(self.result.moved)
        os.rename(name, os.fsencode(self._extra / str(number)), src_dir_fd=fd)
        path = real + b"/" + name if real else name
        self.result.moved.append((self._recorder.payloads, path.hex(), number))

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        """Turn a ``.wh.`` name into what overlayfs takes (layer.md, "Whiteouts"; overlayfs.rst)."""
        fd, _ = self._parent(parent)
        if name == _OPAQUE:
            xattr.write(xattr.at(fd, b""), OPAQUE_XATTR, b"y")
            return
        target = name[len(WHITEOUT) :]
        if target.startswith(WHITEOUT):  # bookkeeping of aufs
            return
        if target in (b"", b".", b".."):
            raise ArchiveError(f"invalid whiteout {os.fsdecode(name)}")
        try:
            os.mknod(target, stat.S_IFCHR, 0, dir_fd=fd)
        except FileExistsError:
            # A whiteout hides lower layers only, never what its own layer has.
            if stat.S_ISDIR(os.stat(target, dir_fd=fd, follow_symlinks=False).st_mode):
                xattr.write(xattr.at(fd, target), OPAQUE_XATTR, b"y")

    # -- one kind each ----------------------------------------------------------------------------------

    def _top(self, entry: Entry) -> None:
        """The root of the archive, "./"."""
        if entry.type != tar.DIRECTORY or self._options.keep_root:
            return
        self._root_listed = True
        self._describe_at(self._root, b".", _OPEN_DIR, entry)
        self._times.append((b"", entry.mtime_ns))

    def _describe(self, fd: int, entry: Entry, path: int | bytes | None = None) -> None:
        """Owner, mode and attributes of an open file; ``path`` stands for a descriptor made with O_PATH."""
        target = fd if path is None else path
        os.chown(target, *(self._options.owner or (entry.uid, entry.gid)))
        # After chown, which clears setuid, setgid and file capabilities.
        os.chmod(target, entry.mode)
        for name, value in entry.xattrs.items():
            # Overlay's own marks would let an archive redirect lookups in the layers below.
            if not name.startswith(OVERLAY_XATTRS):
                xattr.write(target, name, value)

    def _describe_at(self, parent: int, name: bytes, flags: int, entry: Entry) -> None:
        """The same by name: through a descriptor, as the name may become a symbolic link meanwhile."""
        fd = os.open(name, flags, dir_fd=parent)
        try:
            self._describe(fd, entry, b"/proc/self/fd/%d" % fd if flags & os.O_PATH else None)
        finally:
            os.close(fd)

    def _regular(self, parent: int, name: bytes, real: bytes, entry: Entry, reader: TarReader) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            path = real + b"/" + name if real else name
            if entry.sparse is None:
                for view in reader.payload():
                    write_all(fd, view)
                if self._recorder is not None:
                    self._recorder.file(path, 0, entry.size)
            else:
                self._sparse(fd, path, entry, reader)
            self.result.size += entry.real_size
            self._describe(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _sparse(self, fd: int, path: bytes, entry: Entry, reader: TarReader) -> None:
        pieces = iter(entry.sparse or ())
        offset = left = 0
        for view in reader.payload():
            while len(view):
                while not left:
                    offset, left = next(pieces)
                    if self._recorder is not None:
                        self._recorder.file(path, offset, left)
                step = min(left, len(view))
                os.lseek(fd, offset, os.SEEK_SET)
                write_all(fd, view[:step])
                view, offset, left = view[step:], offset + step, left - step
        os.ftruncate(fd, entry.real_size)

    def _directory(self, parent: int, name: bytes, real: bytes, entry: Entry, reader: TarReader) -> None:
        path = real + b"/" + name if real else name
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(found.st_mode):
                raise
            if path in self.result.implied:
                self.result.implied.remove(path)
        self._describe_at(parent, name, _OPEN_DIR, entry)
        self._times.append((path, entry.mtime_ns))

    def _symlink(self, parent: int, name: bytes, real: bytes, entry: Entry, reader: TarReader) -> None:
        os.symlink(entry.linkname, name, dir_fd=parent)
        owner = self._options.owner or (entry.uid, entry.gid)
        os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
        for key, value in entry.xattrs.items():
            if not key.startswith(OVERLAY_XATTRS):
                xattr.write(xattr.at(parent, name), key, value)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _link(self, parent: int, name: bytes, real: bytes, entry: Entry, reader: TarReader) -> None:
        directory, _, target = clean(entry.linkname, clamp=self._options.clamp).rpartition(b"/")
        if not target:
            raise ArchiveError(f"invalid hard link {os.fsdecode(entry.name)}")
        source = paths.open_in_root(self._root, directory, _PARENT)
        try:
            there = _lstat(parent, name)
            if there and os.path.samestat(there, os.stat(target, dir_fd=source, follow_symlinks=False)):
                return  # a member linked to itself
            os.link(target, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _node(self, parent: int, name: bytes, real: bytes, entry: Entry, reader: TarReader) -> None:
        kinds = {tar.CHAR: stat.S_IFCHR, tar.BLOCKDEV: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
        device = 0 if entry.type == tar.FIFO else os.makedev(entry.major, entry.minor)
        os.mknod(name, kinds[entry.type] | 0o600, device, dir_fd=parent)
        self._describe_at(parent, name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, entry)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)


def _lstat(parent: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def clean(name: bytes, *, clamp: bool = False) -> bytes:
    """A member's name as a relative path without ``.`` and ``..``; b"" is the root itself.

    Raises ArchiveError when it leads above the root and isn't to be ``clamp``ed there, or holds a NUL.
    """
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts and not clamp:
                raise ArchiveError(f'"{os.fsdecode(name)}" is outside of the archive\'s root')
            del parts[-1:]
        elif part and part != b".":
            parts.append(part)
    path = b"/".join(parts)
    if b"\0" in path:
        raise ArchiveError("archive/tar: invalid tar header")
    return path


def _failure(error: OSError | OverflowError, path: bytes) -> errors.SampanError:
    where = "/" + os.fsdecode(path)
    if isinstance(error, OverflowError):
        return ArchiveError(f"{where}: archive/tar: invalid tar header")
    text = os.strerror(error.errno or 0)
    text = text[:1].lower() + text[1:]
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "Free some disk space (docker system prune removes what isn't used) and try again."
    return errors.SystemFailure(f"write {where}: {text}", hint=hint)
