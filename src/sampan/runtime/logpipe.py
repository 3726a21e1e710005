"""Log drivers that send lines elsewhere (syslog, journald), as the monitor sees them: a pipe to a helper.

The monitor can't import and must never wait for a network: what a container prints goes through a pipe to a
process of its own (:mod:`sampan.runtime.logship`), and into a bounded json-file beside it, from which
``docker logs`` reads. In mode ``blocking`` a full pipe holds the container, but not longer than
:data:`PATIENCE`; then, and at once in mode ``non-blocking``, lines are lost for the receiver, never for the
file. A helper that dies is started again. Import-light.
"""

from __future__ import annotations

import fcntl
import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.logwriter import Log

PATIENCE = 5.0  # seconds that a receiver may hold the container
_RESTART = 1.0  # seconds between two starts of the helper
_LARGEST = 1 << 20


def frame(stream: int, now: int, data: bytes) -> bytes:
    """What goes through the pipe: stream (1 byte), time in ns (8), length (4), data; big-endian."""
    return bytes((stream,)) + now.to_bytes(8, "big") + len(data).to_bytes(4, "big") + data


class PipedLog:
    """A log that a helper ships, with a file beside it for reading."""

    def __init__(self, options: dict[str, Any], file: Log) -> None:
        """``options``: ``command`` (the helper's arguments), ``blocking``, ``buffer`` in bytes."""
        self._file = file
        self._command: list[str] = options["command"]
        self._patience = PATIENCE if options["blocking"] else 0.0
        self._buffer = min(options["buffer"], _LARGEST)
        self._pipe = -1
        self._started = 0.0
        self._rest = b""  # of a frame that is half in the pipe
        self._start()

    def write(self, stream: int, data: bytes, now: int) -> None:
        """Keep ``data`` in the file and send it on."""
        self._file.write(stream, data, now)
        if self._pipe < 0 and time.monotonic() - self._started > _RESTART:
            self._start()
        for begin in range(0, len(data), 1 << 16):
            self._send(frame(stream, now, data[begin : begin + (1 << 16)]))

    def pending(self) -> bool:
        """Whether the file has an unfinished line."""
        return self._file.pending()

    def flush(self, now: int) -> None:
        """Write the file's unfinished lines; the receiver gets whole ones."""
        self._file.flush(now)

    def close(self, now: int) -> None:
        """End: the helper sends what it has and goes."""
        self._file.close(now)
        self._close_pipe()

    def _start(self) -> None:
        self._started = time.monotonic()
        reader, self._pipe = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._pipe, False)
        _enlarge(self._pipe, self._buffer)
        actions = [(os.POSIX_SPAWN_DUP2, reader, 0)]
        try:
            os.posix_spawn(self._command[0], self._command, {"PATH": "/usr/bin:/bin"}, file_actions=actions)
        except OSError:
            self._close_pipe()
        finally:
            os.close(reader)

    def _close_pipe(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
        self._pipe, self._rest = -1, b""

    def _send(self, data: bytes) -> None:
        """Put a frame into the pipe whole, or not at all; what is left of one goes before the next."""
        if self._rest and not self._push(self._rest, 0.0):
            return
        self._push(data, self._patience)

    def _push(self, data: bytes, patience: float) -> bool:
        """Whether all of ``data`` is in the pipe; its rest is kept once a part of it is."""
        whole, left = len(data), data
        while left and self._pipe >= 0:
            try:
                left = left[os.write(self._pipe, left) :]
            except BlockingIOError:
                poller = select.poll()
                poller.register(self._pipe, select.POLLOUT)
                if not poller.poll(patience * 1000):
                    # Nobody takes it: the container isn't held again before the pipe moves.
                    self._patience = 0.0
                    break
            except OSError:
                self._close_pipe()
                return False
        started = len(left) < whole or data is self._rest
        self._rest = left if started else b""
        return not left


def _enlarge(pipe: int, size: int) -> None:
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
    except OSError:
        return  # the machine's limit: the default size is enough to work
