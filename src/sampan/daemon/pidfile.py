"""The daemon's pid file."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sampan import errors


def write(path: Path) -> None:
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


def remove(path: Path) -> None:
    """Remove our pid file, if it still is ours."""
    with contextlib.suppress(OSError, ValueError):
        if int(path.read_text()) == os.getpid():
            path.unlink()
