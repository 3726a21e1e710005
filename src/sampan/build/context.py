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
import threading
from collections.abc import Iterator
from pathlib import Path

from sampan.build.copytree import Copier
from sampan.build.diagnostics import nearest
from sampan.build.ignore import Ignore
from sampan.build.rootfs import RootFs
from sampan.build.trees import Root, scan
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
    """An unpacked context. ``path`` is where it lies when it isn't small, made when it is needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1
        self.digests: dict[str, str] = {}
        self.plain = True
        self.size = 0
        self.ignore: Ignore | None = None
        self._in_memory = False
        self._disk = -1
        self._copying = threading.Lock()

    def close(self) -> None:
        """Close the directory; files on disk are the builder's to remove."""
        for fd in {self.fd, self._disk} - {-1}:
            os.close(fd)
        self.fd = self._disk = -1

    def receive(self, read: Read) -> None:
        """Unpack the archive that ``read`` gives (plain or compressed).

        Owners become root, as Docker has it. Raises InvalidParameter for a broken archive.
        """
        counted = _Counter(read)
        try:
            reader = _HashingReader(self._placed(compress.pieces(counted.read)))
            options = Options(owner=(0, 0), keep_root=True, observe=reader.observe)
            with Extractor(self.fd, options) as extractor:
                extractor.unpack(reader)
        except ArchiveError as error:
            reason = str(error)
            raise InvalidParameter(f"Error processing tar file(exit status 1): {reason}") from None
        self.size = counted.size
        self.digests = reader.digests
        self.plain = not reader.attributes

    def _placed(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces, once the first of them have decided where the context will lie."""
        head: list[bytes] = []
        size = 0
        for piece in pieces:
            head.append(piece)
            size += len(piece)
            if size > MAX_IN_MEMORY:
                break
        # Not every kernel's tmpfs keeps extended attributes of users.
        if size > MAX_IN_MEMORY or b"SCHILY.xattr" in b"".join(head):
            self._place_on_disk()
        else:
            self.place_in_memory()
        return itertools.chain(head, pieces)

    def place_in_memory(self) -> None:
        """Make it an empty directory in memory."""
        top = mounts.detached("tmpfs", [("mode", "755")])
        try:
            self.fd = os.open(f"/proc/self/fd/{top}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(top)
        self._in_memory = True

    def _place_on_disk(self) -> None:
        self.path.mkdir(mode=0o755, parents=True)
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def root(self) -> Root:
        """The context as a place to copy from."""
        return Root(self.fd, "context", self.digests, self.plain, "" if self._in_memory else str(self.path))

    def on_disk(self) -> int:
        """A descriptor of the context in a directory that others can mount; copied there when need be."""
        if not self._in_memory:
            return self.fd
        with self._copying:
            if self._disk < 0:
                self.path.mkdir(mode=0o755, parents=True)
                copier = Copier(RootFs([], self.path, self.path), None)
                copier.copy(scan(self.root(), "."), "/")
                copier.finish()
                self._disk = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return self._disk

    def read(self, path: str, limit: int = _SMALL) -> bytes | None:
        """The content of the file ``path`` (links resolve inside the context), None when there is none."""
        try:
            fd = paths.open_in_root(self.fd, path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        with os.fdopen(fd, "rb") as file:
            try:
                data = file.read(limit + 1)
            except IsADirectoryError:
                return None
        if len(data) > limit:
            raise InvalidParameter(f"{path} is larger than {limit >> 20} MiB")
        return data

    def dockerfile(self, name: str) -> bytes:
        """The Dockerfile called ``name``; without a name ``Dockerfile``, then ``dockerfile``."""
        wanted = name or "Dockerfile"
        data = self.read(wanted)
        if data is None and wanted == "Dockerfile":
            data = self.read("dockerfile")
        if data is None:
            hint = "Is it in the context, and named by -f relative to the context's top?"
            raise SystemFailure(f"Cannot locate specified Dockerfile: {wanted}", hint=hint)
        return data

    def apply_ignore(self, dockerfile: str) -> None:
        """Read ``<Dockerfile>.dockerignore`` or ``.dockerignore``; take these two files out if they match.

        The rest was left out by the client, who has the files; it sends these two in any case.
        """
        for name in (f"{dockerfile}{IGNORE_NAME}", IGNORE_NAME):
            data = self.read(name)
            if data is not None:
                self.ignore = Ignore.parse(data, name)
                break
        if self.ignore is None:
            return
        for name in (dockerfile or "Dockerfile", IGNORE_NAME):
            if self.ignore.excludes(posixpath.normpath(name)):
                self._remove(name)

    def _remove(self, name: str) -> None:
        directory, _, base = posixpath.normpath(name).rpartition("/")
        try:
            fd = paths.open_in_root(self.fd, directory or ".", os.O_PATH | os.O_DIRECTORY)
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
        self.fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.plain = False

    def write_dockerfile(self, data: bytes, name: str = "Dockerfile") -> None:
        """Put a lone Dockerfile (``docker build - < Dockerfile``, a URL) into an empty context."""
        self.place_in_memory()
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self.fd)
        with os.fdopen(fd, "wb") as file:
            file.write(data)

    def explain_missing(self, path: str) -> str:
        """Why ``path`` may be missing: the ignore file's line that leaves it out, or the nearest name."""
        wanted = posixpath.normpath(path.lstrip("/"))
        pattern = self.ignore.reason(wanted) if self.ignore else None
        if pattern is not None and not pattern.exclusion:
            return f"{IGNORE_NAME}:{pattern.line} leaves it out: {pattern.text}"
        close = self._nearest(wanted)
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


class _Counter:
    """Counts what passes."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self.size = 0

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self.size += len(data)
        return data


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
