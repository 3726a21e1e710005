"""Namespaces: clone flags, unshare(2), setns(2), and the files of ``/proc/<pid>/ns``."""

from __future__ import annotations

import ctypes

from sampan.kernel import libc

CLONE_FILES = 0x00000400  # of clone(2): the table of descriptors
CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_unshare = libc.function("unshare", ctypes.c_int)
_setns = libc.function("setns", ctypes.c_int, ctypes.c_int)
_sethostname = libc.function("sethostname", ctypes.c_char_p, ctypes.c_size_t)
_setdomainname = libc.function("setdomainname", ctypes.c_char_p, ctypes.c_size_t)


def unshare(flags: int) -> None:
    """Leave the namespaces of ``flags`` for new ones; NEWPID takes effect in the next child. unshare(2)."""
    libc.check(_unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """Enter the namespace of ``fd``, or with a pidfd all namespaces of ``flags`` at once. setns(2)."""
    libc.check(_setns(fd, flags), "setns")


def set_hostname(name: str) -> None:
    """Host name of the UTS namespace, at most 64 bytes. sethostname(2)."""
    raw = name.encode()
    libc.check(_sethostname(raw, len(raw)), "sethostname")


def set_domainname(name: str) -> None:
    """NIS domain name of the UTS namespace, at most 64 bytes. setdomainname(2)."""
    raw = name.encode()
    libc.check(_setdomainname(raw, len(raw)), "setdomainname")
