"""Extended attributes of descriptors and of names below one, symbolic links not followed (xattr(7)).

There is no *at() form before Linux 6.13; /proc/self/fd/N/name is the same for a name without slashes.
"""

from __future__ import annotations

import errno
import os

_ABSENT = (errno.ENODATA, errno.ENOTSUP)


def at(dirfd: int, name: bytes) -> bytes:
    """A path for ``name`` (one component, or b"" for the directory itself) below ``dirfd``."""
    return b"/proc/self/fd/%d/%s" % (dirfd, name) if name else b"/proc/self/fd/%d/." % dirfd


def read_all(path: int | bytes) -> dict[str, bytes]:
    """Every attribute of a descriptor, or of a path whose last part isn't followed; {} where unsupported."""
    follow = isinstance(path, int)
    try:
        names = os.listxattr(path, follow_symlinks=follow)
    except OSError as error:
        if error.errno in _ABSENT:
            return {}
        raise
    found = {}
    for name in names:
        try:
            found[name] = os.getxattr(path, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
    return found


def read(path: int | bytes, name: str) -> bytes | None:
    """One attribute, None when it is absent."""
    try:
        return os.getxattr(path, name, follow_symlinks=isinstance(path, int))
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise


def write(path: int | bytes, name: str, value: bytes) -> bool:
    """Set one attribute; False where the file system or the kind of file can't have it."""
    try:
        os.setxattr(path, name, value, follow_symlinks=isinstance(path, int))
    except OSError as error:
        # EPERM: user.* on anything but files and directories.
        if error.errno == errno.ENOTSUP or (error.errno == errno.EPERM and name.startswith("user.")):
            return False
        raise
    return True
