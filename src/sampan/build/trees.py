"""What COPY and ADD find at a source: the files with their attributes, and one digest over it all.

A source lies below a root directory (the context, another stage, an image, a git checkout) that may be
hostile: it is walked by descriptors, and links resolve inside that root. The digest covers names, kinds,
content, mode, owner, link targets and extended attributes; times don't count, so that a fresh checkout of
the same files hits the cache.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sampan.build.glob import Glob
from sampan.build.ignore import Ignore, clean
from sampan.errors import InvalidParameter, NotFound, SystemFailure
from sampan.kernel import paths, xattr
from sampan.storage import digest as digests

_DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PIECE = 1 << 20
MAX_DEPTH = 256
"""Directories nested deeper than this are refused; the walk keeps one descriptor a level."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file: ``path`` relative to the source ("" is the source itself), its status, and what it holds."""

    path: str
    status: os.stat_result
    link: str = ""
    digest: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()

    def line(self) -> str:
        """What the digest takes of it, without the path."""
        found = self.status
        kind = stat.S_IFMT(found.st_mode)
        device = found.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
        attributes = ",".join(f"{name}={value.hex()}" for name, value in self.xattrs)
        owner = f"{found.st_uid}:{found.st_gid}"
        return f"{found.st_mode:o} {owner} {device} {self.link!r} {self.digest} {attributes}"


@dataclass(slots=True)
class Root:
    """A directory to copy from. ``digests`` may hold content digests known already, by real path.

    ``plain``: no file in it has extended attributes worth asking for. ``directory``: the host path of the
    same directory when its regular files may be hard-linked instead of copied (the context's).
    """

    fd: int
    label: str
    digests: dict[str, str] = field(default_factory=dict)
    plain: bool = False
    directory: str = ""


@dataclass(slots=True)
class Source:
    """One resolved source: where it was asked for, its real path in the root, and all it holds."""

    root: Root
    asked: str
    path: str
    items: list[Item]
    parents: str = ""

    @property
    def is_dir(self) -> bool:
        """Whether the source is a directory (its contents are copied)."""
        return stat.S_ISDIR(self.items[0].status.st_mode)

    def digest(self) -> str:
        """Hex SHA-256 over everything that counts for the cache."""
        state = hashlib.sha256()
        name = "" if self.is_dir else posixpath.basename(self.asked)
        for item in self.items:
            line = f"{self.parents}\0{name}\0{item.path}\0{item.line()}\n"
            state.update(line.encode("utf-8", "surrogateescape"))
        return state.hexdigest()


def relative(path: str) -> str:
    """``path`` as a clean path below a root: no leading slash, no ``..`` above it, "." for the root."""
    return clean("/" + path).lstrip("/") or "."


def too_deep(path: str) -> InvalidParameter:
    """The error for directories below ``path``."""
    return InvalidParameter(f"directories are nested more than {MAX_DEPTH} deep: {path[:80]}…")


def expand_glob(root: Root, pattern: str) -> list[str]:
    """The paths below ``root`` that ``pattern`` (Go's filepath.Match; ``**`` too) means, sorted.

    A pattern without wildcards is returned as it is, whether it exists or not.
    """
    if not any(ch in pattern for ch in "*?[\\"):
        return [pattern]
    wanted = relative(pattern)
    Glob(wanted)
    glob = Glob(wanted, "ignore" if "**" in wanted else "path")
    depth = None if "**" in wanted else wanted.count("/") + 1
    return [path for path in sorted(_names(root, depth, wanted)) if glob.match(path)]


def _names(root: Root, depth: int | None, pattern: str) -> Iterator[str]:
    """Every path below ``root`` down to ``depth`` levels, starting at the pattern's literal directory."""
    literal: list[str] = []
    for part in pattern.split("/")[:-1]:
        if any(ch in part for ch in "*?[\\"):
            break
        literal.append(part)
    base = "/".join(literal)
    try:
        fd = paths.open_in_root(root.fd, base or ".", _DIR_FLAGS & ~os.O_NOFOLLOW)
    except OSError:
        return
    try:
        yield from _below(fd, base, None if depth is None else depth - len(literal))
    finally:
        os.close(fd)


def _below(fd: int, prefix: str, depth: int | None) -> Iterator[str]:
    if prefix.count("/") > MAX_DEPTH:
        raise too_deep(prefix)
    with os.scandir(fd) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_dir in found:
        path = f"{prefix}/{name}" if prefix else name
        yield path
        if is_dir and (depth is None or depth > 1):
            inner = os.open(name, _DIR_FLAGS, dir_fd=fd)
            try:
                yield from _below(inner, path, None if depth is None else depth - 1)
            finally:
                os.close(inner)


def scan(root: Root, path: str, exclude: Ignore | None = None, seen_as: str = "") -> Source:
    """Everything at ``path`` below ``root``; a link there is followed, links further down are kept.

    ``exclude`` leaves out what lies below it, by paths that begin with ``seen_as`` instead of ``path``. Raises
    NotFound when nothing is there.
    """
    wanted = relative(path)
    try:
        fd = paths.open_in_root(root.fd, wanted, os.O_PATH)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise NotFound(f"stat {wanted}: file does not exist") from None
        raise SystemFailure(f"stat {wanted}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        real = _real_path(root.fd, fd, wanted)
        walker = _Walker(root, real, exclude, seen_as)
        walker.top(fd, status)
    finally:
        os.close(fd)
    return Source(root, wanted, real, walker.items)


def _real_path(rootfd: int, fd: int, wanted: str) -> str:
    """The path of an open file below its root without links, "" for the root itself."""
    top = os.readlink(f"/proc/self/fd/{rootfd}").rstrip("/")
    here = os.readlink(f"/proc/self/fd/{fd}")
    if here == top or not here.startswith(f"{top}/"):
        return "" if here == top or wanted == "." else wanted
    return here[len(top) + 1 :]


class _Walker:
    """Collects the items of one source."""

    def __init__(self, root: Root, real: str, exclude: Ignore | None, seen_as: str) -> None:
        self.root = root
        self.real = real
        self.exclude = exclude
        self.seen_as = seen_as
        self.items: list[Item] = []
        self.links: dict[tuple[int, int], str] = {}

    def top(self, fd: int, status: os.stat_result) -> None:
        reopened = f"/proc/self/fd/{fd}"
        if stat.S_ISDIR(status.st_mode):
            inner = os.open(reopened, _DIR_FLAGS & ~os.O_NOFOLLOW)
            try:
                self.items.append(Item("", status, xattrs=self.attributes(inner)))
                self.directory(inner, "", 0)
            finally:
                os.close(inner)
        elif stat.S_ISREG(status.st_mode):
            inner = os.open(reopened, _FILE_FLAGS & ~os.O_NOFOLLOW)
            try:
                self.items.append(Item("", status, "", self.content(inner, ""), self.attributes(inner)))
            finally:
                os.close(inner)
        else:
            self.items.append(Item("", status))

    def directory(self, fd: int, prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise too_deep(prefix)
        for name in sorted(os.listdir(fd)):
            path = f"{prefix}/{name}" if prefix else name
            left_out = self.exclude is not None and self.exclude.excludes(posixpath.join(self.seen_as, path))
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                self.inner(fd, name, path, status, left_out, depth)
            elif not left_out:
                self.leaf(fd, name, path, status)

    def full(self, path: str) -> str:
        return f"{self.real}/{path}" if self.real else path

    def inner(
        self, fd: int, name: str, path: str, status: os.stat_result, left_out: bool, depth: int
    ) -> None:
        if left_out and self.exclude is not None and self.exclude.prunes(posixpath.join(self.seen_as, path)):
            return
        inside = os.open(name, _DIR_FLAGS, dir_fd=fd)
        try:
            place = len(self.items)
            self.items.append(Item(path, status, xattrs=self.attributes(inside)))
            self.directory(inside, path, depth + 1)
            if left_out and len(self.items) == place + 1:
                self.items.pop()
        finally:
            os.close(inside)

    def leaf(self, fd: int, name: str, path: str, status: os.stat_result) -> None:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            self.items.append(self.regular(fd, name, path, status))
        elif kind == stat.S_IFLNK:
            link = os.readlink(name, dir_fd=fd)
            self.items.append(Item(path, status, link, "", self.attributes(xattr.at(fd, os.fsencode(name)))))
        elif kind != stat.S_IFSOCK:
            self.items.append(Item(path, status))

    def regular(self, fd: int, name: str, path: str, status: os.stat_result) -> Item:
        known = self.known(path)
        if known and self.root.plain:
            return Item(path, status, "", known)
        file = os.open(name, _FILE_FLAGS, dir_fd=fd)
        try:
            return Item(path, status, "", known or self.content(file, path), self.attributes(file))
        finally:
            os.close(file)

    def known(self, path: str) -> str:
        return self.root.digests.get(self.full(path), "")

    def content(self, fd: int, path: str) -> str:
        known = self.known(path) if path else self.root.digests.get(self.real, "")
        if known:
            return known
        state = digests.hasher()
        while piece := os.read(fd, _PIECE):
            state.update(piece)
        return state.hexdigest()

    def attributes(self, target: int | bytes) -> tuple[tuple[str, bytes], ...]:
        if self.root.plain:
            return ()
        found = xattr.read_all(target)
        return tuple(sorted((name, value) for name, value in found.items() if kept_attribute(name)))


def kept_attribute(name: str) -> bool:
    """Whether an extended attribute belongs to the content: not overlay's marks, not the host's labels."""
    if name.startswith(("trusted.overlay.", "user.overlay.")):
        return False
    return name.startswith(("user.", "trusted.", "security.capability", "system.posix_acl_"))


def filtered(source: Source, keep: Callable[[Item], bool]) -> Source:
    """``source`` with only the items that ``keep`` takes (its top always stays)."""
    items = [item for item in source.items if not item.path or keep(item)]
    return Source(source.root, source.asked, source.path, items, source.parents)
