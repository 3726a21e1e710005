"""The mounting side of the ``local`` volume driver: options as mount(8) words them, put on a directory."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from sampan import errors
from sampan.engine.quotas import parse_size
from sampan.kernel import mountinfo, mounts

_NETWORKED = ("nfs", "nfs4", "cifs", "smb3")
_PASSWORD = re.compile(r"\bpassword=[^,]*")
_SHARE = re.compile(r"//([^/]+)(/.*)?")

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
    if kind in _NETWORKED:
        device, data = _resolve(target, device, data, kind)
    if kind == "tmpfs" and options.get("size"):
        data = f"{data},size={parse_size(options['size'])}".removeprefix(",")
    if not device:
        raise errors.SystemFailure(f"{_failed(target)}missing device in volume options")
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
        words = [f"mount {device}:{target}"] + [f"flags: {flags:#x}"] * bool(flags)
        if data:
            words.append(f"data: {_PASSWORD.sub('password=********', data)}")
        reason = os.strerror(problem.errno or 0).lower()
        raise errors.SystemFailure(
            f"{_failed(target)}failed to mount local volume: {', '.join(words)}: {reason}",
            hint=f"This kernel doesn't know the file system {kind}." if problem.errno == errno.ENODEV else "",
        ) from problem


def _failed(target: Path) -> str:
    return f"error while mounting volume '{target}': "


def _resolve(target: Path, device: str, data: str, kind: str) -> tuple[str, str]:
    """The kernel wants numbers where people write host names: behind ``addr=``, and in ``//host/share``."""
    words = data.split(",")
    for index, word in enumerate(words):
        if word.startswith("addr="):
            words[index] = f"addr={_address(target, word.removeprefix('addr='))}"
            return device, ",".join(words)
    share = _SHARE.fullmatch(device) if kind in ("cifs", "smb3") else None
    if share:
        device = f"//{_address(target, share[1])}{share[2] or ''}"
    return device, data


def _address(target: Path, host: str) -> str:
    """The first IPv4 address of ``host``, or else its first one."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        raise errors.SystemFailure(
            f"{_failed(target)}error resolving passed in network volume address: lookup {host}: no such host"
        ) from problem
    addresses = [str(address[0]) for family, _, _, _, address in found if family == socket.AF_INET]
    return addresses[0] if addresses else str(found[0][4][0])


def unmount(target: Path) -> None:
    """Unmount what is on ``target``; nothing there is no error."""
    while mountinfo.is_mount_point(target):
        mounts.umount(str(target), mounts.MNT_DETACH)
