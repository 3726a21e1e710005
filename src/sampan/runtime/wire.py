"""Messages between engine, zygote, monitor and a container's first process before it executes.

A message is a marshalled tuple in one packet of a unix SOCK_SEQPACKET socket, with descriptors beside it
(SCM_RIGHTS, unix(7)). Both ends run the same code of the same Python, so that marshal's format is safe.
Anything long (a launch plan) travels in a memfd. Import-light: the zygote loads this.
"""

from __future__ import annotations

import _socket
import marshal
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Message = tuple[Any, ...]

_PACKET = 64 * 1024
_MOST_FDS = 253  # SCM_MAX_FD
_ANCILLARY = _socket.CMSG_SPACE(_MOST_FDS * 4)


def pair() -> tuple[_socket.socket, _socket.socket]:
    """Two connected packet sockets, close-on-exec."""
    left, right = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    return left, right


def send(sock: _socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send ``message``; the descriptors stay open on this side. Raises OSError when the peer is gone."""
    ancillary = []
    if fds:
        raw = struct.pack(f"{len(fds)}i", *fds)
        ancillary.append((_socket.SOL_SOCKET, _socket.SCM_RIGHTS, raw))
    sock.sendmsg([marshal.dumps(message)], ancillary, _socket.MSG_NOSIGNAL)


def packed(message: Message) -> bytes:
    """``message`` as it is sent, for a sender that is no Python."""
    return marshal.dumps(message)


def send_or_not(sock: _socket.socket, message: Message) -> None:
    """Send ``message``, if there is still somebody who listens."""
    try:
        send(sock, message)
    except OSError:
        return


def receive(sock: _socket.socket) -> tuple[Message, list[int]]:
    """The next message with its descriptors (close-on-exec); ``((), [])`` at the end of the connection."""
    try:
        data, ancillary, _flags, _address = sock.recvmsg(_PACKET, _ANCILLARY, _socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # The peer has ended without reading all of ours. The kernel says so once, before what the peer had
        # sent: an exit code, a reason. That comes next.
        data, ancillary, _flags, _address = sock.recvmsg(_PACKET, _ANCILLARY, _socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, raw in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds += struct.unpack(f"{len(raw) // 4}i", raw[: len(raw) // 4 * 4])
    message: Message = marshal.loads(data) if data else ()
    return message, fds


def pack_plan(plan: dict[str, Any]) -> int:
    """A memfd that holds the marshalled ``plan``."""
    fd = os.memfd_create("plan", os.MFD_CLOEXEC)
    try:
        view = memoryview(marshal.dumps(plan))
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def unpack_plan(fd: int) -> dict[str, Any]:
    """The plan in memfd ``fd``, which is closed."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    os.close(fd)
    plan: dict[str, Any] = marshal.loads(data)
    return plan
