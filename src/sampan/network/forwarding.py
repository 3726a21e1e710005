"""IP forwarding of the host: turned on when a container's packets need it, and back when none does."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

_IPV4 = "/proc/sys/net/ipv4/ip_forward"
_IPV6 = "/proc/sys/net/ipv6/conf/all/forwarding"
_ACCEPT_RA = "/proc/sys/net/ipv6/conf/{}/accept_ra"
_ROUTES6 = "/proc/thread-self/net/ipv6_route"
_LEARNED_DEFAULT = 0x10000 | 0x40000  # RTF_DEFAULT and RTF_ADDRCONF of <linux/ipv6_route.h>


class Forwarding:
    """What we changed is written to ``note`` first, so that a later engine can undo it after a crash."""

    def __init__(self, note: Path) -> None:
        self._note = note
        self._changed: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            self._changed = json.loads(note.read_text())

    def require(self, version: int) -> None:
        """See to it that packets of this IP version are forwarded. Raises OSError."""
        path = _IPV4 if version == 4 else _IPV6
        if _read(path) != "0":
            return
        if version == 6:
            # A forwarding host ignores router advertisements unless told otherwise: it would lose its way. Where
            # it has learned none so far nobody is to teach it one: on bridges those could be containers.
            for name in _learned_from():
                if _read(_ACCEPT_RA.format(name)) == "1":
                    self._set(_ACCEPT_RA.format(name), "2")
        self._set(path, "1")

    def _set(self, path: str, value: str) -> None:
        self._changed.setdefault(path, _read(path))
        self._note.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._note.with_suffix(".new")
        temporary.write_text(json.dumps(self._changed))
        temporary.rename(self._note)
        _write(path, value)

    def restore(self) -> None:
        """Put back what we changed."""
        for path, value in reversed(self._changed.items()):
            with contextlib.suppress(OSError):
                _write(path, value)
        self._changed.clear()
        self._note.unlink(missing_ok=True)


def _learned_from() -> set[str]:
    """The interfaces by which the host has learned a default route from a router's advertisements."""
    found = set()
    with contextlib.suppress(OSError), open(_ROUTES6) as routes:
        for line in routes:
            words = line.split()
            if int(words[8], 16) & _LEARNED_DEFAULT == _LEARNED_DEFAULT:
                found.add(words[9])
    return found


def _read(path: str) -> str:
    """A setting; "" where there is none. By system calls: a start waits for it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 64).decode().strip()
    finally:
        os.close(fd)


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
