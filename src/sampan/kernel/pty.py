"""Pseudo-terminals of a container's own devpts instance: ptmx(4), pts(4), ioctl_tty(2)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from sampan.kernel import paths

_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_TIOCSPTLCK = 0x40045431
_TIOCGPTN = 0x80045430
_TIOCGPTPEER = 0x5441
_PTMX = (5, 2)


def open_pair(rootfd: int) -> tuple[int, int, int]:
    """A new terminal of the devpts below ``rootfd``: (master, slave, number in /dev/pts).

    The node is checked to be the real ptmx, since an image or a container may have put anything there.
    """
    master = paths.open_in_root(rootfd, "dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    try:
        device = os.fstat(master).st_rdev
        if (os.major(device), os.minor(device)) != _PTMX:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY), "/dev/pts/ptmx")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, struct.pack("i", 0)))[0]
    except OSError:
        os.close(master)
        raise
    return master, slave, number


def set_size(fd: int, rows: int, columns: int) -> None:
    """Window size in characters; the foreground processes get SIGWINCH. ioctl_tty(2)."""
    fcntl.ioctl(fd, _TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def make_controlling(slave: int) -> None:
    """Make ``slave`` the controlling terminal of this session, which must have none. ioctl_tty(2)."""
    fcntl.ioctl(slave, _TIOCSCTTY, 0)
