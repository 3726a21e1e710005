"""The mounting side of the ``local`` volume driver: options as mount(8) words them, put on a directory."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from sampan import errors
from sampan.kernel import mounts

_FLAGS: dict[str, tuple[int, bool]] = {
    "ro": (mounts.MS_RDONLY, True),
    "rw": (mounts.MS_RDONLY, False),
    "nosuid": (mounts.MS_NOSUID, True),
    "suid": (mounts.MS_NOSUID, False),
    "nodev": (mounts.MS_NODEV, True),
    "dev": (mounts.MS_NODEV, False),
    "noexec": (mounts.MS_NOEXEC, True),
    "exec": (mounts.MS_NOEXEC, False),
    "sync": (mounts.MS_SYNCHRONOUS, True),
    "async": (mounts.MS_SYNCHRONOUS, False),
    "noatime": (mounts.MS_NOATIME, True),
    "atime": (mounts.MS_NOATIME, False),
    "nodiratime": (mounts.MS_NODIRATIME, True),
    "diratime": (mounts.MS_NODIRATIME, False),
    "relatime": (mounts.MS_RELATIME, True),
    "norelatime": (mounts.MS_RELATIME, False),
    "strictatime": (mounts.MS_STRICTATIME, True),
    "bind": (mounts.MS_BIND, True),
    "rbind": (mounts.MS_BIND | mounts.MS_REC, True),
    "shared": (mounts.MS_SHARED, True),
    "rshared": (mounts.MS_SHARED | mounts.MS_REC, True),
    "slave": (mounts.MS_SLAVE, True),
    "rslave": (mounts.MS_SLAVE | mounts.MS_REC, True),
    "private": (mounts.MS_PRIVATE, True),
    "rprivate": (mounts.MS_PRIVATE | mounts.MS_REC, True),
}


def parse_options(text: str) -> tuple[int, str]:
    """Split ``o`` into the flags of mount(2) and the file system's own data."""
    flags, data = 0, []
    for word in text.split(","):
        known = _FLAGS.get(word)
        if known is None:
            if word and word not in ("defaults", "auto", "noauto", "user", "nouser", "_netdev"):
                data.append(word)
            continue
        flag, on = known
        flags = flags | flag if on else flags & ~flag
    return flags, ",".join(data)


def mount(target: Path, options: Mapping[str, str]) -> None:
    """Mount ``device`` on ``target`` as ``type`` with ``o``. SystemFailure in Docker's words."""
    flags, data = parse_options(options.get("o", ""))
    device, kind = options["device"], options.get("type", "")
    if kind in ("nfs", "nfs4", "cifs"):
        data = _resolve_address(data)
    propagation = flags & mounts.PROPAGATION
    flags &= ~mounts.PROPAGATION
    try:
        mounts.mount(device, str(target), kind or None, flags, data)
        if flags & mounts.MS_BIND and flags & mounts.MS_RDONLY:
            # A bind takes over its source's flags; read-only needs a second call.
            mounts.mount(None, str(target), None, flags | mounts.MS_REMOUNT, None)
        if propagation:
            mounts.mount(None, str(target), None, propagation, None)
    except OSError as problem:
        reason = os.strerror(problem.errno or 0).lower()
        raise errors.SystemFailure(
            f"error while mounting volume '{target}': failed to mount local volume: "
            f"mount {device}:{target}, flags: {flags:#x}, data: {data}: {reason}"
        ) from problem


def _resolve_address(data: str) -> str:
    """The kernel wants a number behind ``addr=``; people write host names."""
    words = []
    for word in data.split(","):
        host = word.removeprefix("addr=")
        if host != word:
            try:
                word = f"addr={socket.getaddrinfo(host, None)[0][4][0]}"
            except OSError as problem:
                raise errors.SystemFailure(
                    f"error resolving passed in network volume address: {host}"
                ) from problem
        words.append(word)
    return ",".join(words)


def unmount(target: Path) -> None:
    """Unmount what is on ``target``; nothing there is no error."""
    while is_mounted(target):
        mounts.umount(str(target), mounts.MNT_DETACH)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted on ``path``: the kernel's list says so, binds included."""
    wanted = os.fsencode(path).replace(b"\\", b"\\134").replace(b" ", b"\\040").replace(b"\t", b"\\011")
    with open("/proc/self/mountinfo", "rb") as table:
        return any(line.split(b" ", 5)[4] == wanted for line in table)
