"""``docker cp``: looking at, reading and writing paths in a container's root, links resolved inside it."""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import stat as stat_
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from sampan import errors
from sampan.engine.containers import roots
from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container
from sampan.engine.containers.timestamps import rfc3339
from sampan.kernel import paths
from sampan.runtime import identity
from sampan.storage import compress, extract, pack
from sampan.storage.tar import ArchiveError, TarReader

T = TypeVar("T")

_MOST_LINKS = 255
# Bits of Go's os.FileMode.
_GO_KINDS = {
    stat_.S_IFDIR: 1 << 31,
    stat_.S_IFLNK: 1 << 27,
    stat_.S_IFBLK: 1 << 26,
    stat_.S_IFIFO: 1 << 25,
    stat_.S_IFSOCK: 1 << 24,
    stat_.S_IFCHR: 1 << 26 | 1 << 21,
}
_GO_SPECIAL = ((stat_.S_ISUID, 1 << 23), (stat_.S_ISGID, 1 << 22), (stat_.S_ISVTX, 1 << 20))


def go_mode(mode: int) -> int:
    """``st_mode`` as Go's os.FileMode."""
    found = mode & 0o777 | _GO_KINDS.get(stat_.S_IFMT(mode), 0)
    for bit, go_bit in _GO_SPECIAL:
        if mode & bit:
            found |= go_bit
    return found


@dataclass(frozen=True)
class PathStat:
    """What HEAD answers: ``link_target`` is where a link leads inside the container, "" for others."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str

    def document(self) -> dict[str, Any]:
        """The object of the X-Docker-Container-Path-Stat header."""
        return {
            "name": self.name,
            "size": self.size,
            "mode": go_mode(self.mode),
            "mtime": rfc3339(self.mtime_ns),
            "linkTarget": self.link_target,
        }


class Located:
    """A path found in a root: its parent directory's descriptor and its name there ("." for a root)."""

    def __init__(self, root: int, path: str) -> None:
        """OSError when it isn't there. A trailing slash or ``/.`` follows a link and asks for a directory."""
        if "\0" in path:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        clean = posixpath.normpath("/" + path.lstrip("/"))
        self.asked = posixpath.basename(clean)
        self.bare = path.endswith("/.") or path == "."
        self.is_root = clean == "/"
        self._root = root
        self.path = clean
        follow = self.is_root or path.endswith(("/", "/."))
        if follow:
            self.parent, self.name = paths.open_in_root(root, clean, os.O_RDONLY | os.O_DIRECTORY), "."
        else:
            above, name = posixpath.split(clean)
            self.parent, self.name = paths.open_in_root(root, above, os.O_RDONLY | os.O_DIRECTORY), name
        try:
            self.found = os.stat(self.name, dir_fd=self.parent, follow_symlinks=False)
        except OSError:
            os.close(self.parent)
            raise

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.parent)

    def stat(self) -> PathStat:
        """The answer to HEAD."""
        target = ""
        if stat_.S_ISLNK(self.found.st_mode):
            target = link_target(self._root, self.path)
        name = "/" if self.is_root else self.asked
        return PathStat(name, self.found.st_size, self.found.st_mode, self.found.st_mtime_ns, target)

    def pack(self) -> Generator[bytes, None, None]:
        """A tar whose members are named after the path that was asked for."""
        packer = pack.Packer(pack.Options())
        if self.is_root and not self.bare:
            # Clients put the new name in front of the slash.
            for name in sorted(os.listdir(self.parent)):
                raw = os.fsencode(name)
                yield from packer.single(self.parent, raw, b"/" + raw)
        elif self.name == ".":
            prefix = b"." if self.bare else os.fsencode(self.asked)
            yield from packer.tree(self.parent, prefix, top=True)
        else:
            raw = os.fsencode(self.name)
            yield from packer.single(self.parent, raw, os.fsencode(self.asked))
        yield packer.end()


def link_target(root: int, path: str) -> str:
    """Where the link at ``path`` leads, seen from inside; what it names need not exist.

    SystemFailure in Docker's words for a loop.
    """
    current = path
    for _ in range(_MOST_LINKS):
        above, name = posixpath.split(current)
        try:
            parent = paths.open_in_root(root, above, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return current
        try:
            above = _real_path(parent, root)
            target = os.readlink(name, dir_fd=parent)
        except OSError:
            return posixpath.join(above, name)
        finally:
            os.close(parent)
        current = posixpath.normpath(posixpath.join("/", above, target))
        if current.startswith("//"):
            current = current[1:]
    raise errors.SystemFailure(f"evalSymlinksInScope: too many links in {path}")


def _real_path(fd: int, root: int) -> str:
    """The path of a descriptor below ``root``, as the kernel tells it."""
    full = os.readlink(f"/proc/self/fd/{fd}")
    top = os.readlink(f"/proc/self/fd/{root}")
    inside = full[len(top) :] if top != "/" and full.startswith(top) else full
    return inside if inside.startswith("/") else "/" + inside


async def _with_root(containers: Containers, container: Container, work: Callable[[int], T]) -> T:
    """Run ``work(root descriptor)`` in a thread."""

    def run() -> T:
        with roots.open_root(containers, container) as view:
            return work(view.fileno())

    return await asyncio.to_thread(run)


def _missing(path: str, reference: str, problem: OSError) -> errors.SampanError:
    if problem.errno == errno.ELOOP:
        return errors.SystemFailure(f"evalSymlinksInScope: too many links in {path}")
    if problem.errno in (errno.ENOENT, errno.ENOTDIR):
        return errors.NotFound(f"Could not find the file {path} in container {reference}")
    return errors.SystemFailure(f"{path}: {problem.strerror}")


async def stat(containers: Containers, reference: str, path: str) -> PathStat:
    """What is at ``path``. NotFound when there is nothing."""
    container = containers.get(reference)

    def look(root: int) -> PathStat:
        try:
            located = Located(root, path)
        except OSError as problem:
            raise _missing(path, reference, problem) from None
        try:
            return located.stat()
        finally:
            located.close()

    return await _with_root(containers, container, look)


async def get(containers: Containers, reference: str, path: str) -> tuple[PathStat, AsyncIterator[bytes]]:
    """What is at ``path``, and it as a tar in pieces. NotFound when there is nothing."""
    container = containers.get(reference)

    def open_() -> tuple[roots.View, Located, PathStat]:
        view = roots.open_root(containers, container)
        try:
            located = Located(view.fileno(), path)
        except OSError as problem:
            view.close()
            raise _missing(path, reference, problem) from None
        try:
            return view, located, located.stat()
        except BaseException:
            located.close()
            view.close()
            raise

    view, located, found = await asyncio.to_thread(open_)
    containers.publish(container, "archive-path")

    async def pieces() -> AsyncIterator[bytes]:
        packed = located.pack()
        try:
            while (piece := await asyncio.to_thread(next, packed, None)) is not None:
                yield piece
        finally:
            packed.close()
            located.close()
            view.close()

    return found, pieces()


async def put(
    containers: Containers,
    reference: str,
    path: str,
    body: AsyncIterator[bytes],
    *,
    no_overwrite_dir_non_dir: bool = False,
    copy_owner: bool = False,
) -> None:
    """Unpack a tar (compressed or not) into the directory at ``path``.

    NotFound when there is none, InvalidParameter when it is a file or the root is read-only, Forbidden when
    the volume there is.
    """
    container = containers.get(reference)
    loop = asyncio.get_running_loop()

    def read(_size: int) -> bytes:
        return asyncio.run_coroutine_threadsafe(_next(body), loop).result()

    def write(root: int) -> None:
        target = _open_target(root, path, reference)
        try:
            _check_writable(container, _real_path(target, root))
            owner = _owner(root, container) if copy_owner else None
            options = extract.Options(owner=owner, protect_kind=no_overwrite_dir_non_dir, keep_root=True)
            _unpack(target, read, options)
        finally:
            os.close(target)

    await _with_root(containers, container, write)
    containers.publish(container, "extract-to-dir")


async def _next(body: AsyncIterator[bytes]) -> bytes:
    return await anext(body, b"")


def _open_target(root: int, path: str, reference: str) -> int:
    try:
        return paths.open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except NotADirectoryError:
        raise errors.InvalidParameter("extraction point is not a directory") from None
    except OSError as problem:
        raise _missing(path, reference, problem) from None


def _check_writable(container: Container, path: str) -> None:
    """The mount that holds ``path`` decides: a volume's own flag, else the root's."""
    holder = None
    for point in container.mounts:
        inside = path == point.destination or path.startswith(point.destination + "/")
        if (
            inside
            and point.type != "tmpfs"
            and (not holder or len(point.destination) > len(holder.destination))
        ):
            holder = point
    if holder is not None:
        if not holder.rw:
            raise errors.Forbidden("mounted volume is marked read-only")
    elif container.host.readonly_rootfs:
        raise errors.InvalidParameter("container rootfs is marked read-only")


def _unpack(target: int, read: Callable[[int], bytes], options: extract.Options) -> None:
    try:
        with extract.Extractor(target, options) as extractor:
            extractor.unpack(TarReader(compress.pieces(read)))
    except ArchiveError as problem:
        why = "" if problem.message == "unexpected EOF" else problem.message
        raise errors.SystemFailure("unexpected EOF", hint=why) from problem


def _owner(root: int, container: Container) -> tuple[int, int] | None:
    """The ids of the container's user, from its own passwd and group files."""
    if not container.config.user:
        return None
    try:
        ids = identity.resolve(container.config.user, root=root)
    except identity.IdentityError as problem:
        raise errors.InvalidParameter(str(problem)) from None
    return ids.uid, ids.gid
