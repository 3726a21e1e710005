"""One owner at a time: the lock on a data root, and the pid file."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from sampan import errors


class RootLock:
    """An exclusive lock on a data root, held until ``close`` (or until the process ends, however)."""

    def __init__(self, root: Path) -> None:
        """Take the lock. SystemFailure naming the owner's pid when another daemon has it."""
        self.path = root / "lock"
        try:
            root.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise errors.SystemFailure(f"can't use the data root {root}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise errors.SystemFailure(
                f"the data root {root} is in use by another daemon (pid {owner})",
                hint="Stop that daemon, or give this one a --data-root of its own.",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, b"%d\n" % os.getpid(), 0)

    def close(self) -> None:
        """Let the lock go. The file stays: removing it would race with the next owner."""
        os.close(self._fd)


def write_pidfile(path: Path) -> None:
    """Write our pid. SystemFailure when the file names a daemon that is still running."""
    with contextlib.suppress(OSError, ValueError):
        other = int(path.read_text())
        if other != os.getpid() and _is_daemon(other):
            raise errors.SystemFailure(
                f"process with PID {other} is still running",
                hint=f"It is named in {path}; stop it or give this one a --pidfile of its own.",
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{os.getpid()}\n")
    except OSError as error:
        raise errors.SystemFailure(f"can't write the pid file {path}: {error.strerror}") from error


def _is_daemon(pid: int) -> bool:
    """Whether that process exists and is a sampand: pids are used again after a restart of the machine."""
    try:
        return b"sampan" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def remove_pidfile(path: Path) -> None:
    """Remove our pid file, if it still is ours."""
    with contextlib.suppress(OSError, ValueError):
        if int(path.read_text()) == os.getpid():
            path.unlink()
