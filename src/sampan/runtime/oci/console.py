"""Terminals: the master goes to whoever listens on ``--console-socket``, or is served by the command itself."""

from __future__ import annotations

import _socket
import fcntl
import os
import struct

from sampan.errors import InvalidParameter
from sampan.kernel import pty

_TIOCGWINSZ = 0x5413


def check(terminal: bool, detached: bool, path: str) -> None:
    """Which of terminal, detachment and console socket go together. InvalidParameter in runc's words."""
    if path and not terminal:
        raise InvalidParameter("cannot use console socket if runc will not detach or allocate tty")
    if path and not detached:
        raise InvalidParameter("cannot use console socket if runc will not detach or allocate tty")
    if terminal and detached and not path:
        raise InvalidParameter("cannot allocate tty if runc will detach without setting console socket")


def send(path: str, master: int) -> None:
    """Send the master to the unix socket at ``path``, with its name as the message. unix(7), SCM_RIGHTS."""
    sock = connect(path, _socket.SOCK_STREAM)
    try:
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("i", master))
        sock.sendmsg([b"/dev/ptmx"], [rights])
    finally:
        sock.close()


def copy_size(master: int) -> None:
    """Give a terminal the size of ours, if standard input is one. ioctl_tty(2)."""
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(0, _TIOCGWINSZ, bytes(8)))
        pty.set_size(master, rows, columns)
    except OSError:
        return


def connect(path: str, kind: int) -> _socket.socket:
    """Connect to a unix socket, however long its path: sun_path has room for 107 bytes only."""
    holder = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = _socket.socket(_socket.AF_UNIX, kind | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{holder}/{os.path.basename(path)}")
    except OSError:
        sock.close()
        raise
    finally:
        os.close(holder)
    return sock


def listen(path: str) -> _socket.socket:
    """A packet socket at ``path`` that one may connect to."""
    holder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{holder}/{os.path.basename(path)}")
        sock.listen(1)
    except OSError:
        sock.close()
        raise
    finally:
        os.close(holder)
    return sock
