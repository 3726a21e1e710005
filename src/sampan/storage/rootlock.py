"""One owner at a time: the lock on a data root."""

from __future__ import annotations

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
