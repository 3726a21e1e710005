"""The build context: an archive from the client, unpacked into a directory while it arrives.

Content digests are taken of the bytes as they pass, so that COPY's cache key costs no second reading. A small
context lies in memory, on a tmpfs that is mounted nowhere and gone when its descriptor is closed: a build that
the cache serves touches no disk.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import posixpath
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from sampan.build.contextmemo import ContextMemo, Known
from sampan.build.copytree import Copier
from sampan.build.diagnostics import nearest
from sampan.build.ignore import Ignore
from sampan.build.rootfs import RootFs
from sampan.build.trees import MAX_DEPTH, Root, scan, too_deep
from sampan.errors import InvalidParameter, SampanError, SystemFailure
from sampan.kernel import mounts, paths
from sampan.storage import compress, tar
from sampan.storage.compress import Read
from sampan.storage.extract import Extractor, Options
from sampan.storage.tar import ArchiveError, Entry, TarReader

_SMALL = 8 << 20
MAX_IN_MEMORY = 8 << 20
"""Bytes of the (uncompressed) archive of a context that is kept in memory."""
IGNORE_NAME = ".dockerignore"


class Context:
    """A context. ``path`` is where it lies when it isn't small, made when it is needed.

    A small one (`MAX_IN_MEMORY`) that ``memo`` knows is unpacked only when something is asked that isn't known.
    """

    def __init__(self, path: Path, memo: ContextMemo | None = None) -> None:
        self.path = path
        self.known = Known()
        self.digests: dict[str, str] = {}
        self.plain = True
        self.ignore: Ignore | None = None
        self._ignore_name = ""
        self._memo = memo
        self._archive: list[bytes] | None = None
        self._ignored_by = ""
        self._all_ignored = False
        self._sent_anyway: tuple[str, ...] = ()
        self._top = -1
        self._disk = -1
        self._in_memory = False
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the directory; files on disk are the builder's to remove."""
        for fd in {self._top, self._disk} - {-1}:
            os.close(fd)
        self._top = self._disk = -1
        self._archive = None

    def receive(self, read: Read) -> None:
        """Take the archive that ``read`` gives (plain or compressed); a large one is unpacked on the way.

        Owners become root, as Docker has it. Raises InvalidParameter for a broken archive.
        """
        pieces = compress.pieces(read)
        head: list[bytes] = []
        size, state = 0, hashlib.sha256()
        try:
            for piece in pieces:
                head.append(piece)
                state.update(piece)
                size += len(piece)
                if size > MAX_IN_MEMORY:
                    self._place_on_disk()
                    self._unpack(itertools.chain(head, pieces))
                    return
        except ArchiveError as error:
            raise _broken(error) from None
        self._archive = head
        if self._memo is not None:
            self.known = self._memo.of(state.hexdigest())
        if not self.known.files:
            self._unpack_kept()

    @property
    def fd(self) -> int:
        """The directory; what waits to be unpacked is. Raises InvalidParameter for a broken archive."""
        with self._lock:
            self._unpack_kept()
        return self._top

    def _unpack_kept(self) -> None:
        if self._archive is None:
            return
        archive, self._archive = self._archive, None
        # Not every kernel's tmpfs keeps extended attributes of users.
        if b"SCHILY.xattr" in b"".join(archive):
            self._place_on_disk()
        else:
            self.place_in_memory()
        self._unpack(iter(archive))
        self._take_out()

    def _unpack(self, pieces: Iterator[bytes]) -> None:
        reader = _HashingReader(pieces)
        options = Options(owner=(0, 0), keep_root=True, observe=reader.observe)
        try:
            with Extractor(self._top, options) as extractor:
                extractor.unpack(reader)
        except ArchiveError as error:
            raise _broken(error) from None
        self.digests = reader.digests
        self.plain = not reader.attributes

    def place_in_memory(self) -> None:
        """Make it an empty directory in memory."""
        top = mounts.detached("tmpfs", [("mode", "755")])
        try:
            self._top = os.open(f"/proc/self/fd/{top}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(top)
        self._in_memory = True

    def _place_on_disk(self) -> None:
        self.path.mkdir(mode=0o755, parents=True)
        self._top = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def root(self) -> Root:
        """The context as a place to copy from."""
        fd = self.fd
        return Root(fd, "context", self.digests, self.plain, "" if self._in_memory else str(self.path))

    def on_disk(self) -> int:
        """A descriptor of the context in a directory that others can mount; copied there when need be."""
        fd = self.fd
        if not self._in_memory:
            return fd
        with self._lock:
            if self._disk < 0:
                self.path.mkdir(mode=0o755, parents=True)
                copier = Copier(RootFs([], self.path, self.path), None)
                copier.copy(scan(self.root(), "."), "/")
                copier.finish()
                self._disk = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._disk

    def read(self, path: str, limit: int = _SMALL) -> bytes | None:
        """The content of the file ``path`` (links resolve inside the context), None when there is none."""
        return self.known.file(path, lambda: self._read(path, limit))

    def _read(self, path: str, limit: int) -> bytes | None:
        try:
            fd = paths.open_in_root(self.fd, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            with open(fd, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(fd)
        if len(data) > limit:
            raise InvalidParameter(f"{path} is larger than {limit >> 20} MiB")
        return data

    def _is_directory(self, path: str) -> bool:
        try:
            fd = paths.open_in_root(self.fd, path, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return False
        os.close(fd)
        return True

    def dockerfile(self, name: str) -> bytes:
        """The Dockerfile called ``name``; without a name ``Dockerfile``, then ``dockerfile``."""
        wanted = name or "Dockerfile"
        if posixpath.normpath(wanted.lstrip("/")).split("/")[0] == "..":
            raise SystemFailure(f"forbidden path outside the build context: {wanted} ()")
        data = self.read(wanted)
        if data is None and wanted == "Dockerfile":
            data = self.read("dockerfile")
        if data is None:
            if self._is_directory(wanted):
                raise SystemFailure(f"unexpected error reading Dockerfile: read {wanted}: is a directory")
            hint = "Is it in the context, and named by -f relative to the context's top?"
            raise SystemFailure(f"Cannot locate specified Dockerfile: {wanted}", hint=hint)
        return data

    def apply_ignore(self, dockerfile: str) -> None:
        """Read ``<Dockerfile>.dockerignore`` or ``.dockerignore``, and take out what the client left in.

        The client knows the second and leaves out what it says, but sends the Dockerfile and the ignore files
        in any case. Of the first many clients know nothing: it is applied to everything here.
        """
        own = f"{dockerfile}{IGNORE_NAME}"
        for name in (own, IGNORE_NAME):
            data = self.read(name)
            if data is not None:
                self.ignore = Ignore.parse(data, name)
                self._ignore_name = name
                self._ignored_by = f"{name} {hashlib.sha256(data).hexdigest()}"
                break
        if self.ignore is None:
            return
        self._all_ignored = name == own
        self._sent_anyway = (dockerfile or "Dockerfile", own, IGNORE_NAME)
        if self._archive is None:
            self._take_out()

    @property
    def taken_out(self) -> str:
        """What decided which of the client's files aren't there, for those who remember a context."""
        return f"{self._ignored_by} {self._sent_anyway}"

    def _take_out(self) -> None:
        if self.ignore is None:
            return
        for name in self._sent_anyway:
            if self.ignore.excludes(posixpath.normpath(name)):
                self._remove(name)
        if self._all_ignored:
            _filter(self._top, "", self.ignore)

    def _remove(self, name: str) -> None:
        directory, _, base = posixpath.normpath(name).rpartition("/")
        try:
            fd = paths.open_in_root(self._top, directory or ".", os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return
        try:
            os.unlink(base, dir_fd=fd)
        except OSError:
            return
        finally:
            os.close(fd)

    def replace(self, directory: Path) -> None:
        """Take another directory (a checkout) in place of the empty one."""
        self.close()
        self.path, self._in_memory = directory, False
        self._top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.plain = False

    def write_dockerfile(self, data: bytes, name: str = "Dockerfile") -> None:
        """Put a lone Dockerfile (``docker build - < Dockerfile``, a URL) into an empty context."""
        self.place_in_memory()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        with os.fdopen(fd, "wb") as file:
            file.write(data)

    def explain_missing(self, path: str) -> str:
        """Why ``path`` may be missing: the ignore file's line that leaves it out, a link to what isn't in the
        context, or the nearest name.
        """
        wanted = posixpath.normpath(path.lstrip("/"))
        pattern = self.ignore.reason(wanted) if self.ignore else None
        if pattern is not None and not pattern.exclusion:
            return f"{self._ignore_name}:{pattern.line} leaves it out: {pattern.text}"
        close = self._nearest(wanted)
        if close == wanted:
            return f"{wanted} is a symbolic link to what the context has not."
        return f"did you mean {close}?" if close else ""

    def _nearest(self, path: str) -> str:
        directory, _, base = path.rpartition("/")
        try:
            fd = paths.open_in_root(self.fd, directory or ".", os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return ""
        try:
            close = nearest(base, os.listdir(fd)[:5000])
        finally:
            os.close(fd)
        return f"{directory}/{close}" if close and directory else close or ""


def _filter(fd: int, prefix: str, ignore: Ignore) -> bool:
    """Remove what ``ignore`` leaves out of the directory ``fd``; whether anything is left in it."""
    if prefix.count("/") > MAX_DEPTH:
        raise too_deep(prefix)
    left = False
    for name in os.listdir(fd):
        path = prefix + name
        excluded = ignore.excludes(path)
        try:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        except OSError:
            if excluded:
                os.unlink(name, dir_fd=fd)
            left = left or not excluded
            continue
        try:
            kept = _filter(inner, f"{path}/", ignore)
        finally:
            os.close(inner)
        if excluded and not kept:
            os.rmdir(name, dir_fd=fd)
        else:
            left = True
    return left


def _broken(error: ArchiveError) -> InvalidParameter:
    return InvalidParameter(f"Error processing tar file(exit status 1): {error}")


class _HashingReader(TarReader):
    """Keeps the SHA-256 of each regular member's content, by its path.

    A path is only good for looking up later if no symbolic link is part of it: once the archive holds a
    link that another member goes through, nothing that was noted is trusted, and files are read again.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        super().__init__(pieces)
        self.digests: dict[str, str] = {}
        self.attributes = False
        self._links: set[bytes] = set()
        self._blind = False
        self._state = hashlib.sha256()

    def payload(self) -> Iterator[memoryview]:
        """As TarReader's, each piece hashed on its way."""
        self._state = hashlib.sha256()
        for view in super().payload():
            self._state.update(view)
            yield view

    def observe(self, path: bytes, entry: Entry) -> None:
        """Called by the extractor when the member has been made."""
        if entry.xattrs:
            self.attributes = True
        name = os.fsdecode(path)
        self.digests.pop(name, None)
        if self._links and not self._blind and self._through_link(path):
            self._blind = True
            self.digests.clear()
        if entry.type == tar.SYMLINK:
            self._links.add(path)
        elif entry.type == tar.REGULAR and entry.sparse is None and not self._blind:
            self.digests[name] = self._state.hexdigest()

    def _through_link(self, path: bytes) -> bool:
        at = path.find(b"/")
        while at >= 0:
            if path[:at] in self._links:
                return True
            at = path.find(b"/", at + 1)
        return False


def is_archive(read: Read) -> bool:
    """Whether the file that ``read`` gives from its beginning is a tar, plain or compressed.

    A compressed file that holds no tar is none: ADD copies it as it is.
    """
    try:
        return next(iter(TarReader(compress.pieces(read))), None) is not None
    except SampanError:
        return False
