"""Layers: directories that containers stack, each made once and never changed.

A layer's life: ``unpack()`` makes it nameless below ``layers/tmp/`` while its archive streams by, which
gives its diffID; ``place()`` joins it to a parent, which gives its chainID, and renames it to that.
``apply()`` does both. A build step's upper directory comes in by ``adopt()``, a running container's by
``capture()``. ``tar()`` gives the archive again, the very bytes. What a crash leaves lies in ``layers/tmp/``
and is removed at the next start.

    layers/<chain>/diff/       the files, as overlayfs takes them
                   layer.json  diffID, parent, sizes
                   tar.zst     what the archive had besides (record.py)
                   extra/      files that later members of the same archive replaced
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from sampan import errors
from sampan.kernel import paths, xattr
from sampan.storage import compress, extract, pack, view
from sampan.storage import digest as digests
from sampan.storage.blobs import BlobStore, replace_file
from sampan.storage.digest import Digest
from sampan.storage.pipeline import BackgroundHash, Piece, ReadAhead
from sampan.storage.record import Moved, RecordWriter, replay
from sampan.storage.removal import remove_tree
from sampan.storage.tar import TarReader


class Layer(msgspec.Struct, frozen=True):
    """``size``: bytes of file content; ``tar_size``: of the archive; ``created``: seconds since 1970."""

    chain_id: Digest
    diff_id: Digest
    parent: Digest | None
    size: int
    tar_size: int
    created: float
    moved: Moved = []


Layers = list[Layer]
Paths = list[Path]


class Unpacked(msgspec.Struct):
    """A layer without a place yet: ``place()`` or ``discard()`` it."""

    directory: str
    diff_id: Digest
    size: int
    tar_size: int
    implied: list[bytes]
    moved: Moved


def chain_id(parent: Digest | None, diff_id: Digest) -> Digest:
    """The name of ``diff_id`` on top of ``parent`` (config.md, "Layer ChainID")."""
    if parent is None:
        return diff_id
    return "sha256:" + hashlib.sha256(f"{parent} {diff_id}".encode()).hexdigest()


def chain_ids(diff_ids: Iterable[Digest]) -> list[Digest]:
    """ChainIDs of an image's layers, bottom first."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(chain_id(chain[-1] if chain else None, diff_id))
    return chain


class LayerStore:
    """The layers of one data root. Every method may be called from any thread."""

    def __init__(self, root: Path, blobs: BlobStore) -> None:
        self.root = root / "layers"
        self.blobs = blobs
        self._tmp = self.root / "tmp"
        self._lock = threading.Lock()
        self._placing: dict[Digest, threading.Lock] = {}
        self._layers: dict[Digest, Layer] = {}
        self._fresh: dict[Digest, float] = {}
        self.root.mkdir(parents=True, exist_ok=True)
        _remove(self._tmp)
        self._tmp.mkdir(exist_ok=True)
        self._load()

    def _load(self) -> None:
        for entry in os.scandir(self.root):
            record = Path(entry.path) / "layer.json"
            if entry.name != "tmp" and record.exists():
                layer = msgspec.json.decode(record.read_bytes(), type=Layer)
                self._layers[layer.chain_id] = layer

    # -- looking ----------------------------------------------------------------------------------------

    def directory(self, chain: Digest) -> Path:
        """Where the layer lies or would lie."""
        return self.root / digests.encoded(chain)

    def has(self, chain: Digest) -> bool:
        """Whether the layer is here."""
        return chain in self._layers

    def get(self, chain: Digest) -> Layer:
        """The layer (NotFound)."""
        layer = self._layers.get(chain)
        if layer is None:
            raise errors.NotFound(f"layer {chain} does not exist", hint="Pull or load its image again.")
        return layer

    def list(self) -> Layers:
        """All layers, in no order."""
        return list(self._layers.values())

    def by_diff_id(self, diff_id: Digest) -> Layer | None:
        """Some layer with this content, whatever lies below it."""
        return next((layer for layer in self.list() if layer.diff_id == diff_id), None)

    def chain(self, chain: Digest) -> Layers:
        """The layer and all below it, topmost first (NotFound)."""
        found = []
        here: Digest | None = chain
        while here is not None:
            found.append(self.get(here))
            here = found[-1].parent
        return found

    def lowers(self, chain: Digest | None) -> Paths:
        """The directories to stack for ``chain``, topmost first; [] for None (NotFound)."""
        if chain is None:
            return []
        return [self.directory(layer.chain_id) / "diff" for layer in self.chain(chain)]

    def placed_since(self, moment: float) -> set[Digest]:
        """Layers placed or found present by this process at or after ``moment`` (time.monotonic())."""
        with self._lock:
            return {chain for chain, at in self._fresh.items() if at >= moment}

    # -- making -----------------------------------------------------------------------------------------

    def apply(self, parent: Digest | None, stream: BinaryIO, *, diff_id: Digest | None = None) -> Layer:
        """The layer of an archive, compressed or not, on top of ``parent``.

        With ``diff_id`` the content is verified (InvalidParameter), and a layer that is here already is
        given back without reading the stream.
        """
        if diff_id is not None and (present := self.present(chain_id(parent, diff_id))):
            return present
        unpacked = self.unpack(iter(lambda: stream.read(compress.PIECE), b""), expected=diff_id)
        return self.place(parent, unpacked)

    def present(self, chain: Digest) -> Layer | None:
        """The layer if it is here; it then counts as found by an operation (``placed_since``)."""
        with self._lock:
            layer = self._layers.get(chain)
            if layer is not None:
                self._fresh[chain] = time.monotonic()
            return layer

    def unpack(
        self, pieces: Iterable[Piece], *, expected: Digest | None = None, limit: int | None = None
    ) -> Unpacked:
        """Unpack an archive, compressed or not, without a parent. ``limit`` bounds its uncompressed bytes.

        Raises InvalidParameter for other content than ``expected``, ArchiveError for a damaged archive,
        SystemFailure when the disk is full; nothing is left then.
        """
        source = iter(pieces)
        head = b""
        for piece in source:
            head += piece
            if len(head) >= 6:
                break
        kind = compress.detect(head)
        read = compress.prefixed(head, lambda _: bytes(next(source, b"")))
        with self._scratch() as directory, contextlib.ExitStack() as stack:
            archive: Iterable[Piece]
            if kind:
                ahead = ReadAhead(compress.decompressed(kind, read))
                stack.callback(ahead.close)
                archive = ahead
            else:
                archive = iter(lambda: read(compress.PIECE), b"")
            return self._unpack_into(directory, archive, expected, limit)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A directory below tmp/ that goes away when anything fails."""
        directory = Path(tempfile.mkdtemp(dir=self._tmp))
        try:
            yield directory
        except BaseException:
            _remove(directory)
            raise

    def _unpack_into(
        self, directory: Path, archive: Iterable[Piece], expected: Digest | None, limit: int | None
    ) -> Unpacked:
        (directory / "diff").mkdir(mode=0o755)
        recorder = RecordWriter(directory / "tar.zst")
        hashed = BackgroundHash()
        rootfd = os.open(directory / "diff", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            reader = TarReader(hashed.through(_bounded(archive, limit)), recorder)
            options = extract.Options(whiteouts=True)
            with extract.Extractor(rootfd, options, recorder, directory / "extra") as extractor:
                result = extractor.unpack(reader)
            reader.finish()
            recorder.close()
        finally:
            found = hashed.digest()
            recorder.abandon()
            os.close(rootfd)
        if expected is not None and found != expected:
            raise errors.InvalidParameter(f"layer content mismatch: expected {expected}, got {found}")
        return Unpacked(str(directory), found, result.size, hashed.size, result.implied, result.moved)

    def discard(self, unpacked: Unpacked) -> None:
        """Remove an unpacked layer that isn't wanted."""
        _remove(Path(unpacked.directory))

    def place(self, parent: Digest | None, unpacked: Unpacked) -> Layer:
        """Join an unpacked layer to ``parent``. When the same layer is here already, that one is given."""
        try:
            if parent is not None:
                _repair_implied(Path(unpacked.directory) / "diff", unpacked.implied, self.lowers(parent))
            layer = Layer(
                chain_id(parent, unpacked.diff_id),
                unpacked.diff_id,
                parent,
                unpacked.size,
                unpacked.tar_size,
                time.time(),
                unpacked.moved,
            )
            return self._publish(Path(unpacked.directory), layer)
        except BaseException:
            self.discard(unpacked)
            raise

    def place_again(self, parent: Digest | None, diff_id: Digest) -> Layer:
        """Content that is here on top of another parent, once more on top of ``parent`` (NotFound)."""
        known = self.by_diff_id(diff_id)
        if known is None:
            raise errors.NotFound(f"layer content {diff_id} does not exist")
        return self.place(parent, self.unpack(self.tar(known.chain_id), expected=diff_id))

    def _publish(self, directory: Path, layer: Layer) -> Layer:
        """Rename a finished layer to its place; the loser of a race gives way."""
        with self._lock:
            gate = self._placing.setdefault(layer.chain_id, threading.Lock())
        with gate:
            if present := self.present(layer.chain_id):
                _remove(directory)
                return present
            replace_file(directory / "layer.json", msgspec.json.encode(layer), durable=False)
            os.chmod(directory, 0o755)
            final = self.directory(layer.chain_id)
            _remove(final)  # one that a crash left without its record
            os.rename(directory, final)
            with self._lock:
                self._layers[layer.chain_id] = layer
                self._fresh[layer.chain_id] = time.monotonic()
        return layer

    def adopt(self, parent: Digest | None, diff: Path) -> Layer:
        """Take an overlay's upper directory over as a layer: it is renamed, not copied.

        Nothing may write to it any more. Times in its archive are whole seconds, names sorted, so that the
        same files give the same layer.
        """
        with self._scratch() as directory:
            unpacked = self._describe(directory, diff, parent)
            os.rename(diff, directory / "diff")
            return self.place(parent, unpacked)

    def _describe(self, directory: Path, diff: Path, parent: Digest | None) -> Unpacked:
        """Write the record of a directory that has no archive yet."""
        recorder = RecordWriter(directory / "tar.zst")
        packer = pack.Packer(pack.Options(whiteouts=True), recorder)
        hashed = BackgroundHash()
        rootfd = os.open(diff, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for piece in packer.tree(rootfd, top=self._root_differs(diff, parent)):
                hashed.update(piece)
            hashed.update(packer.end())
            recorder.close()
            for path in packer.left_out:
                above, _, name = path.rpartition(b"/")
                fd = paths.open_in_root(rootfd, above, os.O_PATH | os.O_DIRECTORY)
                os.unlink(name, dir_fd=fd)
                os.close(fd)
        finally:
            found = hashed.digest()
            recorder.abandon()
            os.close(rootfd)
        return Unpacked(str(directory), found, packer.size, hashed.size, [], [])

    def _root_differs(self, diff: Path, parent: Digest | None) -> bool:
        """Whether the directory itself belongs into the archive: its owner or mode were changed."""
        here = os.lstat(diff)
        if parent is None:
            return True
        below = os.lstat(self.lowers(parent)[0])
        return (here.st_mode, here.st_uid, here.st_gid) != (below.st_mode, below.st_uid, below.st_gid)

    def capture(self, parent: Digest | None, upper: Path) -> Layer:
        """A layer with what is in an upper directory now; that stays in use."""
        return self.place(parent, self.unpack(self._captured(parent, upper)))

    def _captured(self, parent: Digest | None, upper: Path) -> Iterator[bytes]:
        packer = pack.Packer(pack.Options(whiteouts=True))
        rootfd = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield from packer.tree(rootfd, top=self._root_differs(upper, parent))
            yield packer.end()
        finally:
            os.close(rootfd)

    def make_upper(self, chain: Digest | None, directory: Path) -> tuple[Path, Path]:
        """Make ``upper`` and ``work`` below ``directory`` for an overlay over ``chain``.

        The merged root shows the upper directory's owner and mode: they are copied from below.
        """
        upper, work = directory / "upper", directory / "work"
        upper.mkdir(parents=True)
        work.mkdir()
        os.chmod(upper, 0o755)
        self.match_root(upper, chain)
        return upper, work

    def match_root(self, upper: Path, chain: Digest | None) -> None:
        """Give an upper directory the owner, mode, attributes and time of the root of ``chain``."""
        if chain is not None:
            _copy_description(os.fsencode(self.lowers(chain)[0]), os.fsencode(upper))

    # -- giving out and away ----------------------------------------------------------------------------

    def tar(self, chain: Digest, *, verify: bool = True) -> Iterator[bytes]:
        """The layer's archive, byte for byte. SystemFailure when the files aren't what they were."""
        layer = self.get(chain)
        directory = self.directory(chain)
        source = replay(directory / "tar.zst", directory / "diff", directory / "extra", layer.moved)
        if not verify:
            yield from source
            return
        hashed = BackgroundHash()
        try:
            for piece in source:
                hashed.update(piece)
                yield piece
        finally:
            found = hashed.digest()
        if found != layer.diff_id:
            raise errors.SystemFailure(
                f"layer {chain} was changed on disk: its content is {found}, not {layer.diff_id}",
                hint="Remove the image and pull or load it again.",
            )

    def delete(self, chain: Digest) -> None:
        """Remove a layer; a missing one is no error. The caller knows that nothing uses it."""
        with self._lock:
            self._layers.pop(chain, None)
            self._fresh.pop(chain, None)
        grave = tempfile.mkdtemp(dir=self._tmp)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.directory(chain), Path(grave) / "dead")
        _remove(Path(grave))


def _bounded(pieces: Iterable[Piece], limit: int | None) -> Iterator[Piece]:
    total = 0
    for piece in pieces:
        total += len(piece)
        if limit is not None and total > limit:
            raise errors.InvalidParameter(f"layer is larger than {limit} bytes")
        yield piece


def _repair_implied(diff: Path, implied: list[bytes], lowers: list[Path]) -> None:
    """Give directories that the archive didn't list the look they have in the layers below.

    Otherwise an archive that holds only tmp/x would make /tmp unwritable for users, as it does in Docker.
    """
    for path in implied:
        below = view.lookup(lowers, path)
        target = os.path.join(os.fsencode(diff), path) if path else os.fsencode(diff)
        if below is not None and stat.S_ISDIR(below[1].st_mode) and os.path.isdir(target):
            _copy_description(below[0], target)


def _copy_description(source: bytes, target: bytes) -> None:
    """Owner, mode, attributes and time of one directory for another."""
    found = os.lstat(source)
    os.chown(target, found.st_uid, found.st_gid)
    os.chmod(target, stat.S_IMODE(found.st_mode))
    for name, value in xattr.read_all(source).items():
        if not name.startswith(extract.OVERLAY_XATTRS):
            xattr.write(target, name, value)
    os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))


def _remove(directory: Path) -> None:
    """Delete a tree of any depth; what resists stays for the next start."""
    with contextlib.suppress(OSError):
        remove_tree(str(directory))
