"""A container's standard streams on their way to and from attach clients, inside the monitor.

Output goes to each client in Docker's wire format: raw with a tty, otherwise frames with an 8-byte header
(stream, three zeros, length as big-endian 32 bits). A client that reads slowly gets a backlog, in memory
first, then in an unlinked file; nobody waits for it until the backlog reaches LIMIT.
"""

from __future__ import annotations

import _socket
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 64 * 1024
LIMIT = 1 << 30  # bytes of backlog after which the container is made to wait for this client
_IN_MEMORY = 512 * 1024


class Backlog:
    """Bytes that a client hasn't taken yet, first in, first out: in memory, then in an unlinked file."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._memory = bytearray()
        self._file = -1
        self._read_at = self._write_at = 0
        self._late = bytearray()  # what the file had no room for

    def __len__(self) -> int:
        return len(self._memory) + self._write_at - self._read_at + len(self._late)

    def append(self, data: bytes) -> None:
        """Add ``data``. Raises OSError when there is no space for the file: then it is kept in memory."""
        if len(self) == len(self._memory) <= _IN_MEMORY - len(data):
            self._memory += data
            return
        view = memoryview(data)
        try:
            if self._file < 0:
                self._file = os.open(self._directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            while view and not self._late:
                written = os.pwrite(self._file, view, self._write_at)
                self._write_at += written
                view = view[written:]
        finally:
            self._late += view

    def head(self) -> bytearray:
        """The next bytes to send; at most what :meth:`consume` may take."""
        if self._memory:
            return self._memory
        if self._write_at > self._read_at:
            self._memory += os.pread(self._file, _IN_MEMORY, self._read_at)
            self._read_at += len(self._memory)
            if self._read_at == self._write_at:
                self._read_at = self._write_at = 0
                os.ftruncate(self._file, 0)
        elif self._late:
            self._memory, self._late = self._late, self._memory
        return self._memory

    def consume(self, count: int) -> None:
        """Drop the first ``count`` bytes of :meth:`head`."""
        del self._memory[:count]

    def close(self) -> None:
        """Forget everything."""
        self._memory = bytearray()
        self._late = bytearray()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._read_at = self._write_at = 0


class Client:
    """One attached client: a connected stream socket and the streams it wants."""

    def __init__(self, fd: int, wants: tuple[bool, bool, bool], raw: bool, directory: str) -> None:
        self.socket = _socket.socket(fileno=fd)
        self.socket.setblocking(False)
        self.fd = fd
        self.wants_input = wants[0]
        self._wants = {1: wants[1], 2: wants[2]}
        self._raw = raw
        self.backlog = Backlog(directory)
        self.gone = False

    def feed(self, stream: int, data: bytes) -> None:
        """Send output of ``stream``, or keep it until the client takes it. OSError: no space for that."""
        if self.gone or not self._wants[1 if self._raw else stream]:
            return
        if not self._raw:
            data = struct.pack(">BxxxI", stream, len(data)) + data
        if not self.backlog:
            data = data[self._send(data) :]
        if data and not self.gone:
            self.backlog.append(data)

    def flush(self) -> None:
        """Send what the client takes of the backlog now."""
        while not self.gone and (head := self.backlog.head()):
            sent = self._send(head)
            if not sent:
                return
            self.backlog.consume(sent)

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self.socket.send(data, _socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError:
            self.drop_output()
            return 0

    def drop_output(self) -> None:
        """The client doesn't read any more."""
        self.gone = True
        self.backlog.close()

    def receive(self) -> bytes | None:
        """Input from the client: b"" at its end, None when there is none now."""
        try:
            return self.socket.recv(CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def close(self) -> None:
        """End the connection. Unread input is drained first: left behind, it would be the peer's error."""
        try:
            self.socket.shutdown(_socket.SHUT_RDWR)
            while self.socket.recv(CHUNK):
                pass
        except OSError:
            pass
        self.socket.close()
        self.backlog.close()


class Input:
    """The container's stdin: a non-blocking pipe end or pty master, with what it has not taken yet."""

    def __init__(self, fd: int, end: Callable[[], None]) -> None:
        self.fd = fd
        self._end = end
        self._rest = b""
        self._closing = False

    @property
    def full(self) -> bool:
        """Whether the container has to read before more can be written."""
        return bool(self._rest)

    def write(self, data: bytes) -> None:
        """Hand ``data`` on; what doesn't fit waits for :meth:`flush`. Dropped when nobody reads any more."""
        if self.fd >= 0:
            self._rest += data
            self.flush()

    def flush(self) -> None:
        """Write what the container takes now."""
        while self._rest and self.fd >= 0:
            try:
                self._rest = self._rest[os.write(self.fd, self._rest) :]
            except BlockingIOError:
                return
            except OSError:
                self._rest = b""
                self._closing = True
        if self._closing:
            self._shut()

    def close(self) -> None:
        """End of file for the container, after what waits."""
        self._closing = True
        if not self._rest:
            self._shut()

    def _shut(self) -> None:
        if self.fd >= 0:
            self.fd = -1
            self._end()
