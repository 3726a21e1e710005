"""Unpacking a container's archive into this machine's file system: ``cp`` out of a container.

Nothing in the archive may land outside the destination: every parent is checked to be a real folder (not a
link that the archive itself brought), and a link that leads out of it is refused.
"""

from __future__ import annotations

import os

from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    from collections.abc import Iterator


class Pipe:
    """Pieces of bytes as a readable file, for :mod:`tarfile`."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes, fewer at the end."""
        parts = [self._held]
        have = len(self._held)
        while have < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self._held = data[size:]
        return data[:size]


def unpack(pieces: Iterator[bytes], folder: str, rename: tuple[str, str], *, owners: bool) -> None:
    """Write the entries below ``folder``; the first name's leading part is renamed (old, new).

    ``owners`` keeps uid and gid, which needs root. Raises CLIError.
    """
    import tarfile

    later: list[tuple[str, tarfile.TarInfo]] = []
    try:
        with tarfile.open(fileobj=Pipe(pieces), mode="r|") as archive:  # type: ignore[call-overload]
            for entry in archive:
                path = _place(folder, entry.name, rename)
                _write(archive, entry, path, folder, rename)
                if not entry.issym() and not entry.islnk():
                    later.append((path, entry))
                if owners and not entry.islnk():
                    os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    except tarfile.TarError as error:
        raise CLIError(f"the engine's archive is broken: {error}") from None
    for path, entry in reversed(later):  # folders last: filling them changed their times
        os.chmod(path, entry.mode & 0o7777)
        os.utime(path, (entry.mtime, entry.mtime))


def _place(folder: str, name: str, rename: tuple[str, str]) -> str:
    old, new = rename
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if parts and parts[0] == old:
        parts[0] = new
    parts = [part for part in parts if part]
    if ".." in parts:
        raise CLIError(f'invalid path in archive: "{name}"')
    at = folder
    for part in parts[:-1]:
        at = os.path.join(at, part)
        if os.path.islink(at):
            raise CLIError(f'"{name}" would be written through the link {at}')
    return os.path.join(folder, *parts)


def _write(
    archive: tarfile.TarFile, entry: tarfile.TarInfo, path: str, folder: str, rename: tuple[str, str]
) -> None:
    if entry.isdir():
        if os.path.islink(path) or (os.path.lexists(path) and not os.path.isdir(path)):
            raise CLIError(f'cannot overwrite non-directory "{path}" with a directory')
        os.makedirs(path, exist_ok=True)
        return
    if os.path.isdir(path) and not os.path.islink(path):
        raise CLIError(f'cannot overwrite directory "{path}" with a file')
    if os.path.lexists(path):
        os.unlink(path)
    if entry.isreg():
        _copy(archive, entry, path)
    elif entry.islnk():
        os.link(_place(folder, entry.linkname, rename), path, follow_symlinks=False)
    elif entry.issym():
        target = os.path.normpath(os.path.join(os.path.dirname(path), entry.linkname))
        inside = target == folder or target.startswith(folder.rstrip("/") + "/")
        if not inside and not entry.linkname.startswith("/"):
            raise CLIError(f'invalid symlink "{path}" -> "{entry.linkname}"')
        os.symlink(entry.linkname, path)
    elif entry.isfifo():
        os.mkfifo(path)
    else:
        import stat

        kind = stat.S_IFCHR if entry.ischr() else stat.S_IFBLK
        os.mknod(path, kind | (entry.mode & 0o7777), os.makedev(entry.devmajor, entry.devminor))


def _copy(archive: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> None:
    source = archive.extractfile(entry)
    assert source is not None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        while piece := source.read(1 << 18):
            file.write(piece)
