"""Trees of files inside a root: packing for ``docker cp`` and export, unpacking, copying.

Roots are descriptors (an overlay mount that no table shows, /proc/<pid>/root): whatever the processes in
there do meanwhile, nothing outside is read or written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator

from sampan.kernel import paths, xattr
from sampan.storage import compress, extract, pack
from sampan.storage.extract import OVERLAY_XATTRS, Extractor
from sampan.storage.tar import Entry, TarReader

_PIECE = 1 << 20
_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def pack_root(rootfd: int, *, fractions: bool = False) -> Iterator[bytes]:
    """The whole root as a tar, names relative; what is mounted below it is left out."""
    packer = pack.Packer(pack.Options(fractions=fractions, one_file_system=True))
    yield from packer.tree(rootfd)
    yield packer.end()


def pack_path(
    rootfd: int, path: str | bytes, name: str | bytes | None = None, *, owner: tuple[int, int] | None = None
) -> Iterator[bytes]:
    """``path`` as a tar whose first member is called ``name`` (default: the path's last part).

    Parents are resolved inside the root, the last part is packed as it is (a link as a link), unless the
    path ends in ``/`` or ``/.``: then it must be a directory. Raises OSError when it is missing.
    """
    raw = os.fsencode(path)
    packer = pack.Packer(pack.Options(fractions=True, owner=owner))
    directory, _, last = raw.rstrip(b"/").rpartition(b"/")
    if last in (b"", b".", b"..") or raw.endswith(b"/"):
        fd = paths.open_in_root(rootfd, raw, os.O_RDONLY | os.O_DIRECTORY)
        label = last if last not in (b"", b"..") else b"."
        steps = packer.tree(fd, os.fsencode(name) if name is not None else label, top=True)
    else:
        fd = paths.open_in_root(rootfd, directory or b"/", os.O_PATH | os.O_DIRECTORY)
        steps = packer.single(fd, last, os.fsencode(name) if name is not None else last)
    try:
        yield from steps
        yield packer.end()
    finally:
        os.close(fd)


def pack_all(rootfd: int, path: str = "/") -> Iterator[bytes]:
    """What lies below the directory ``path``, without the directory itself, as a tar."""
    fd = paths.open_in_root(rootfd, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield from pack_root(fd)
    finally:
        os.close(fd)


def unpack(
    rootfd: int,
    path: str | bytes,
    pieces: Iterable[bytes],
    *,
    owner: tuple[int, int] | None = None,
    protect_kind: bool = False,
    keep_root: bool = True,
    observe: Callable[[bytes, Entry], None] | None = None,
) -> extract.Result:
    """Unpack an archive, compressed or not, into the directory ``path`` of the root (NotFound as OSError).

    Links in the archive resolve against the root, not against ``path``: absolute ones mean the root's.
    Options as in ``extract.Options``.
    """
    options = extract.Options(owner=owner, protect_kind=protect_kind, keep_root=keep_root, observe=observe)
    source = iter(pieces)
    reader = TarReader(compress.pieces(lambda _: next(source, b"")))
    fd = paths.open_in_root(rootfd, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with Extractor(fd, options) as extractor:
            result = extractor.unpack(reader)
        reader.finish()
        return result
    finally:
        os.close(fd)


class _Copy:
    """One copy: remembers hard links and the times of directories."""

    def __init__(self, owner: tuple[int, int] | None) -> None:
        self.owner = owner
        self.links: dict[tuple[int, int], bytes] = {}
        self.size = 0


def copy_tree(source: int, target: int, *, owner: tuple[int, int] | None = None) -> int:
    """Copy all below the directory ``source`` into the directory ``target``; bytes of content copied.

    Owner, mode, times, attributes, links between the files and special files are kept, and the target gets
    the source's own owner and mode. Data is shared where the file system can (copy_file_range(2)).
    """
    copy = _Copy(owner)
    _copy_level(source, target, b"", target, copy)
    return copy.size


def _copy_level(source: int, target: int, path: bytes, top: int, copy: _Copy) -> None:
    for name in os.listdir(source):
        _copy_one(source, target, os.fsencode(name), path, top, copy)
    found = os.fstat(source)
    _describe(target, found, xattr.read_all(source), copy)
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _copy_one(source: int, target: int, name: bytes, path: bytes, top: int, copy: _Copy) -> None:
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    here = path + b"/" + name if path else name
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=target)
        inner, outer = os.open(name, _DIR, dir_fd=source), os.open(name, _DIR, dir_fd=target)
        try:
            _copy_level(inner, outer, here, top, copy)
        finally:
            os.close(inner)
            os.close(outer)
        return
    if found.st_nlink > 1:
        first = copy.links.setdefault((found.st_dev, found.st_ino), here)
        if first != here:
            os.link(first, name, src_dir_fd=top, dst_dir_fd=target, follow_symlinks=False)
            return
    if kind == stat.S_IFREG:
        _copy_file(source, target, name, copy)
    elif kind == stat.S_IFLNK:
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        os.chown(name, *(copy.owner or (found.st_uid, found.st_gid)), dir_fd=target, follow_symlinks=False)
    elif kind != stat.S_IFSOCK:
        os.mknod(name, kind | 0o600, found.st_rdev, dir_fd=target)
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            _describe(b"/proc/self/fd/%d" % fd, found, {}, copy)
        finally:
            os.close(fd)
    if kind not in (stat.S_IFREG, stat.S_IFSOCK):
        os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_file(source: int, target: int, name: bytes, copy: _Copy) -> None:
    inner = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        found = os.fstat(inner)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        outer = os.open(name, flags, 0o600, dir_fd=target)
        try:
            copy.size += copy_data(inner, outer)
            _describe(outer, found, xattr.read_all(inner), copy)
            os.utime(outer, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(outer)
    finally:
        os.close(inner)


def copy_data(source: int, target: int) -> int:
    """Copy from one file's position to another's until the end; bytes copied."""
    total = 0
    try:
        while count := os.copy_file_range(source, target, 1 << 30):
            total += count
    except OSError:
        if total:
            raise
    if total:
        return total
    # Other file systems, and those of the kernel's own, whose files claim to be empty.
    while data := os.read(source, _PIECE):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
        total += len(data)
    return total


def _describe(target: int | bytes, found: os.stat_result, attributes: dict[str, bytes], copy: _Copy) -> None:
    os.chown(target, *(copy.owner or (found.st_uid, found.st_gid)))
    os.chmod(target, stat.S_IMODE(found.st_mode))
    for name, value in attributes.items():
        if not name.startswith(OVERLAY_XATTRS):
            xattr.write(target, name, value)
