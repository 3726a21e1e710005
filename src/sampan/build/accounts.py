"""``--chown=user[:group]``: names looked up in the image's own passwd(5) and group(5)."""

from __future__ import annotations

import os

from sampan.errors import InvalidParameter
from sampan.kernel import paths

_LIMIT = 4 << 20
_MAX_ID = 0xFFFFFFFE


def owner_of(rootfd: int | None, text: str) -> tuple[int, int]:
    """The uid and gid that ``text`` means in the root file system ``rootfd`` (None: an empty one).

    Raises InvalidParameter with dockerd's words for an unknown name.
    """
    user, colon, group = text.partition(":")
    if not user or ":" in group or (colon and not group):
        raise _failed(f"invalid chown string format: {text}")
    return _lookup(rootfd, user, "user", "uid", "/etc/passwd"), _lookup(
        rootfd, group or user, "group", "gid", "/etc/group"
    )


def _lookup(rootfd: int | None, name: str, kind: str, number: str, path: str) -> int:
    if name.isascii() and name.isdigit():
        value = int(name[:11])
        if value > _MAX_ID:
            raise _failed(f"can't find {number} for {kind} {name}: value out of range")
        return value
    for line in _read(rootfd, path).split("\n"):
        fields = line.split(":")
        if len(fields) > 2 and fields[0] == name and fields[2].isascii() and fields[2].isdigit():
            return int(fields[2])
    raise _failed(f"can't find {number} for {kind} {name}: no such {kind}: {name}", path)


def _failed(reason: str, path: str = "") -> InvalidParameter:
    hint = f"Names are looked up in the image's own {path}; a number needs no entry there." if path else ""
    return InvalidParameter(f"unable to convert uid/gid chown string to host mapping: {reason}", hint=hint)


def _read(rootfd: int | None, path: str) -> str:
    if rootfd is None:
        return ""
    try:
        fd = paths.open_in_root(rootfd, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        return file.read(_LIMIT).decode("utf-8", "surrogateescape")
