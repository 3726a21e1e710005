"""Hooks: programs of the host's that run at points of a container's life and get its state on stdin.

Those of OCI bundles (config.md, POSIX-platform Hooks) and of CDI devices.
"""

from __future__ import annotations

import os
import select

from sampan.errors import SystemFailure
from sampan.kernel import signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_OUTPUT = 4096


class HookFailed(SystemFailure):
    """A hook could not be run, ended with an error or took too long."""


class Hook:
    """A program to run at a point of the life cycle; ``timeout`` in seconds."""

    __slots__ = ("args", "env", "path", "timeout")

    def __init__(self, path: str, args: list[str], env: list[str], timeout: int | None) -> None:
        self.path = path
        self.args = args
        self.env = env
        self.timeout = timeout


def run_all(kind: str, hooks: Sequence[Hook], state: str) -> None:
    """Run ``hooks`` one after the other, with ``state``, a JSON text, on their stdin. Raises HookFailed."""
    text = state.encode()
    for index, hook in enumerate(hooks):
        problem = _run(hook, text)
        if problem:
            raise HookFailed(f"error running {kind} hook #{index} ({hook.path}): {problem}")


def _run(hook: Hook, state: bytes) -> str:
    """What did not go well, "" if all did."""
    given = _memory(state)
    output = _memory(b"")
    try:
        child = os.posix_spawn(
            hook.path,
            hook.args or [hook.path],
            dict(entry.partition("=")[::2] for entry in hook.env),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, given, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
            setsigdef=[signals.SIGPIPE],
        )
        status = _wait(child, hook.timeout)
        if status is None:
            return f"it took longer than {hook.timeout} s"
        if status == 0:
            return ""
        said = os.pread(output, _MOST_OUTPUT, 0).decode("utf-8", "replace").strip()
        return f"exit status {status}" + (f", output: {said}" if said else "")
    except OSError as error:
        return os.strerror(error.errno or 0).lower()
    finally:
        os.close(given)
        os.close(output)


def _memory(content: bytes) -> int:
    fd = os.memfd_create("hook", os.MFD_CLOEXEC)
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _wait(child: int, timeout: int | None) -> int | None:
    """Exit code (negative: the signal); None after ``timeout`` seconds, the program is killed then."""
    late = False
    if timeout is not None:
        pidfd = os.pidfd_open(child)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            signals.pidfd_send_signal(pidfd, signals.SIGKILL)
            late = True
        os.close(pidfd)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if late else status
