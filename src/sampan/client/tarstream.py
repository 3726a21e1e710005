"""Writing tar archives as a stream, without :mod:`tarfile` (30 ms to import): POSIX.1-2001 (pax).

What ustar's fields can't hold (long or non-ASCII names, files over 8 GiB, capabilities) goes into a pax
header. Times are whole seconds, as Docker's own client writes them into a build context.
"""

from __future__ import annotations

import os
import stat

from sampan.client.errors import ClientError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
PIECE = 1 << 18
CAPABILITY = "security.capability"


def header(
    name: str,
    kind: bytes,
    *,
    mode: int,
    size: int = 0,
    mtime: int = 0,
    uid: int = 0,
    gid: int = 0,
    link: str = "",
    device: tuple[int, int] = (0, 0),
    extra: dict[str, bytes] | None = None,
) -> bytes:
    """One entry's header blocks, with a pax header before it where one is needed."""
    records = dict(extra or {})
    raw, raw_link = _encoded(name), _encoded(link)
    if len(raw) > 100 or not raw.isascii():
        records["path"] = raw
    if len(raw_link) > 100 or not raw_link.isascii():
        records["linkpath"] = raw_link
    for key, value, limit in (("size", size, 8**11), ("uid", uid, 8**7), ("gid", gid, 8**7)):
        if value >= limit:
            records[key] = b"%d" % value
    before = _pax(records) if records else b""
    return before + _ustar(
        raw, kind, mode, min(size, 8**11 - 1), mtime, min(uid, 8**7 - 1), min(gid, 8**7 - 1), raw_link, device
    )


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _ustar(
    name: bytes,
    kind: bytes,
    mode: int,
    size: int,
    mtime: int,
    uid: int,
    gid: int,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    block = b"".join(
        (
            name[:100].ljust(100, b"\0"),
            b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, max(0, min(mtime, 8**11 - 1))),
            b" " * 8,
            kind,
            link[:100].ljust(100, b"\0"),
            b"ustar\x0000",
            b"\0" * 64,
            b"%07o\0%07o\0" % device,
            b"\0" * 167,
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _pax(records: dict[str, bytes]) -> bytes:
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    return _ustar(b"PaxHeaders.0/x", b"x", 0o644, len(body), 0, 0, 0, b"", (0, 0)) + padded(body)


def _record(key: str, value: bytes) -> bytes:
    """``length key=value`` where the length counts itself."""
    rest = b" %b=%b\n" % (key.encode(), value)
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d%b" % (length, rest)


def padded(data: bytes) -> bytes:
    """Filled up to whole blocks."""
    return data + b"\0" * (-len(data) % BLOCK)


END = b"\0" * (2 * BLOCK)


class Tree:
    """Packs paths of this machine; remembers inodes, so that hard links stay such."""

    def __init__(self, *, owners: bool) -> None:
        self._owners = owners
        self._inodes: dict[tuple[int, int], str] = {}

    def entry(self, path: str, name: str, *, follow: bool = False) -> Iterator[bytes]:
        """One path as the entry ``name`` (a folder without what is in it). Sockets are skipped.

        Raises ClientError when the file can't be read or shrinks meanwhile.
        """
        try:
            info = os.stat(path) if follow else os.lstat(path)
            kind = stat.S_IFMT(info.st_mode)
            if kind == stat.S_IFREG:
                yield from self._file(path, name, info)
            elif kind != stat.S_IFSOCK:
                yield self._special(path, name, info, kind)
        except OSError as error:
            raise ClientError(f"{path}: {(error.strerror or '').lower()}") from None

    def _special(self, path: str, name: str, info: os.stat_result, kind: int) -> bytes:
        if kind == stat.S_IFDIR:
            return self._head(name.rstrip("/") + "/", b"5", info)
        if kind == stat.S_IFLNK:
            return self._head(name, b"2", info, link=os.readlink(path))
        if kind == stat.S_IFIFO:
            return self._head(name, b"6", info)
        device = (os.major(info.st_rdev), os.minor(info.st_rdev))
        return self._head(name, b"3" if kind == stat.S_IFCHR else b"4", info, device=device)

    def _head(
        self,
        name: str,
        kind: bytes,
        info: os.stat_result,
        *,
        size: int = 0,
        link: str = "",
        device: tuple[int, int] = (0, 0),
        extra: dict[str, bytes] | None = None,
    ) -> bytes:
        return header(
            name,
            kind,
            mode=stat.S_IMODE(info.st_mode),
            size=size,
            mtime=int(info.st_mtime),
            uid=info.st_uid if self._owners else 0,
            gid=info.st_gid if self._owners else 0,
            link=link,
            device=device,
            extra=extra,
        )

    def _file(self, path: str, name: str, info: os.stat_result) -> Iterator[bytes]:
        key = (info.st_dev, info.st_ino)
        if info.st_nlink > 1:
            if key in self._inodes:
                yield self._head(name, b"1", info, link=self._inodes[key])
                return
            self._inodes[key] = name
        extra = {}
        try:  # noqa: SIM105 - contextlib costs start-up time
            extra[f"SCHILY.xattr.{CAPABILITY}"] = os.getxattr(path, CAPABILITY)
        except OSError:
            pass
        with open(path, "rb", buffering=0) as file:
            yield self._head(name, b"0", info, size=info.st_size, extra=extra)
            left = info.st_size
            while left:
                piece = file.read(min(PIECE, left))
                if not piece:
                    raise ClientError(f"{path}: the file became shorter while it was read")
                left -= len(piece)
                yield piece
        if info.st_size % BLOCK:
            yield b"\0" * (-info.st_size % BLOCK)


def joined(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces that are worth a system call."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= PIECE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
