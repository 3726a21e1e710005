"""The thin layer between an image and a container's own: what the engine mounts on must exist somewhere.

``/etc/hosts``, ``/dev``, ``/proc`` and the like are mount points. Were they made in the container's upper
directory, ``docker diff`` and ``commit`` would show them. They lie in a layer of their own instead, made
once for each stack of image layers, with the image's attributes for directories that the image has.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

_DIRECTORIES = ("dev", "dev/pts", "dev/shm", "proc", "sys", "etc")
_FILES = (".dockerenv", "dev/console", "etc/resolv.conf", "etc/hosts", "etc/hostname")
_LINKS = (("etc/mtab", "/proc/mounts"),)


def key(lowers: Sequence[Path]) -> str:
    """The name of the layer that belongs to this stack of layers."""
    return hashlib.sha256("\0".join(map(str, lowers)).encode()).hexdigest()[:32]


def ensure(root: Path, lowers: Sequence[Path]) -> Path:
    """The layer for an image with ``lowers`` (topmost first), made in ``root`` when it isn't there yet."""
    final = root / key(lowers)
    if final.is_dir():
        return final
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = root / f".{final.name}.{os.getpid()}.{os.urandom(4).hex()}"
    build(draft, lowers)
    try:
        draft.rename(final)
    except OSError:
        # Another thread was faster: both made the same.
        shutil.rmtree(draft, ignore_errors=True)
    return final


def build(target: Path, lowers: Sequence[Path]) -> None:
    """Make the layer in the new directory ``target``."""
    target.mkdir(mode=0o755)
    copy_attributes(lowers, "", target)
    for name in _DIRECTORIES:
        (target / name).mkdir(mode=0o755)
    for name in _FILES:
        (target / name).touch(mode=0o755 if name == ".dockerenv" else 0o644)
    for name, destination in _LINKS:
        (target / name).symlink_to(destination)
    for name in reversed(_DIRECTORIES):
        copy_attributes(lowers, name, target / name)


def copy_attributes(lowers: Sequence[Path], name: str, target: Path) -> None:
    """Give ``target`` the owner, mode, times and xattrs that directory ``name`` has in the merged image."""
    for lower in lowers:
        source = lower / name
        try:
            found = os.lstat(source)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(found.st_mode):
            return
        os.chown(target, found.st_uid, found.st_gid)
        os.chmod(target, stat.S_IMODE(found.st_mode))
        for attribute in os.listxattr(source):
            if not attribute.startswith("trusted.overlay."):
                os.setxattr(target, attribute, os.getxattr(source, attribute))
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
        return


def sweep(root: Path, used: set[str]) -> None:
    """Delete the layers that no container needs (``used`` holds their names)."""
    if not root.is_dir():
        return
    for entry in root.iterdir():
        if entry.name not in used:
            shutil.rmtree(entry, ignore_errors=True)
