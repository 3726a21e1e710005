"""What a container changed: its upper directory compared with the layers below."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sampan.storage.view import is_opaque, is_whiteout, lookup

MODIFIED, ADDED, DELETED = 0, 1, 2


class Change(NamedTuple):
    """One changed path, absolute inside the container; ``kind`` is 0 modified, 1 added, 2 deleted."""

    path: str
    kind: int


def changes(upper: Path, lowers: Sequence[Path]) -> list[Change]:
    """The changes in ``upper`` in the order and with the kinds that ``docker diff`` shows.

    A directory counts only when it is new or something in it was added or deleted, or its own mode or time
    changed; overlayfs copies every parent up.
    """
    found: list[Change] = []
    reported: set[bytes] = set()
    for path, info in _walk(os.fsencode(upper)):
        kind = _kind(path, info, os.fsencode(upper), lowers)
        if kind is None:
            continue
        if stat.S_ISDIR(info.st_mode):
            reported.add(path)
        parent = os.path.dirname(path)
        if kind != MODIFIED and parent and parent not in reported:
            found.append(Change(_shown(parent), MODIFIED))
            reported.add(parent)
        found.append(Change(_shown(path), kind))
    return found


def _kind(path: bytes, info: os.stat_result, upper: bytes, lowers: Sequence[Path]) -> int | None:
    below = lookup(lowers, path)
    if is_whiteout(info):
        return DELETED if below is not None else None
    if below is None:
        return ADDED
    same_kind = stat.S_ISDIR(info.st_mode) and stat.S_ISDIR(below[1].st_mode)
    if same_kind and not is_opaque(upper + b"/" + path):
        old = below[1]
        if (info.st_mode, info.st_mtime_ns, info.st_uid, info.st_gid) == (
            old.st_mode,
            old.st_mtime_ns,
            old.st_uid,
            old.st_gid,
        ):
            return None
    return MODIFIED


def _shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "replace")


def _walk(top: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every path below ``top`` in byte order, a directory before what is in it."""
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        full = top + b"/" + path if path else top
        try:
            info = os.lstat(full)
            names = sorted(os.listdir(full), reverse=True) if stat.S_ISDIR(info.st_mode) else []
        except FileNotFoundError:
            continue  # removed by the container meanwhile
        if path:
            yield path, info
        waiting += [path + b"/" + name if path else name for name in names]
