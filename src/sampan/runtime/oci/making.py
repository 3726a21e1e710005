"""The command's side of making a process: fork the stage, answer the first process, clean up what failed."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager

from sampan.errors import InvalidParameter, SystemFailure
from sampan.kernel import signals
from sampan.runtime import wire
from sampan.runtime.oci import console, stage, words
from sampan.runtime.oci.idmaps import write_maps

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterator
    from typing import Any

    Plan = dict[str, Any]


class Made:
    """A new process, prepared: ``pid`` and, with a terminal that isn't sent away, its ``master``."""

    __slots__ = ("channel", "master", "pid")

    def __init__(self, channel: _socket.socket) -> None:
        self.channel = channel
        self.pid = 0
        self.master = -1


def check_preserved(count: int) -> int:
    """The descriptors from 3 on that the process shall inherit must be open. InvalidParameter."""
    for fd in range(3, 3 + count):
        try:
            os.fstat(fd)
        except OSError:
            raise InvalidParameter(f"--preserve-fds={count}: file descriptor {fd} isn't open") from None
    return count


def listen_fds(plan: Plan, count: int) -> None:
    """Pass descriptors on: ``--preserve-fds`` and, before them, those of a socket unit. sd_listen_fds(3)."""
    activated = os.environ.get("LISTEN_FDS", "")
    extra = int(activated) if activated.isdecimal() else 0
    plan["preserve_fds"] = check_preserved(extra + count)
    if extra:
        plan["env"] = [*plan["env"], f"LISTEN_FDS={extra}", "LISTEN_PID=1"]
        if names := os.environ.get("LISTEN_FDNAMES"):
            plan["env"].append(f"LISTEN_FDNAMES={names}")


def fork(plan: Plan, tools: stage.Tools, first: stage.First) -> Made:
    """Fork the stage and see the first process to where it waits for :func:`proceed`.

    Raises StartFailure, SystemFailure; nothing is left of the process then.
    """
    ours, theirs = wire.pair()
    child = os.fork()
    if child == 0:
        ours.close()
        stage.run(plan, theirs, tools, first)
    theirs.close()
    made = Made(ours)
    try:
        _serve(made, plan, "prepared", "")
        _reap(child)
        _set_limits(made.pid, plan)
    except BaseException:
        kill(made.pid)
        _reap(child)
        raise
    return made


def proceed(made: Made, plan: Plan, until: str, console_socket: str) -> None:
    """Let the process go on ``until`` a message, or "" for the end of its channel (execve)."""
    wire.send(made.channel, ("go",))
    _serve(made, plan, until, console_socket)


def _serve(made: Made, plan: Plan, until: str, console_socket: str) -> None:
    while True:
        message, fds = wire.receive(made.channel)
        kind = message[0] if message else ""
        if kind == "pid":
            made.pid = message[1]
        elif kind == "map":
            write_maps(message[1], plan["maps"])
            wire.send(made.channel, ("go",))
        elif kind == "terminal":
            _take_terminal(made, fds[0], console_socket)
        elif kind == "failed":
            raise words.failure(*message[1:])
        elif kind == until == "prepared" and not made.pid:
            made.pid = _await_pid(made)
            return
        elif kind == until:
            return
        else:
            raise words.died(_status(made.pid), plan["kind"])


def _await_pid(made: Made) -> int:
    """The first process may be quicker than the stage that tells its pid."""
    message, _ = wire.receive(made.channel)
    if not message or message[0] != "pid":
        raise SystemFailure("the process that makes the container ended unexpectedly")
    return int(message[1])


def _take_terminal(made: Made, master: int, console_socket: str) -> None:
    if not console_socket:
        console.copy_size(master)  # before the program runs, which may ask for it at once
        made.master = master
        return
    try:
        console.send(console_socket, master)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise SystemFailure(f"--console-socket {console_socket}: {reason}") from error
    finally:
        os.close(master)


def _set_limits(pid: int, plan: Plan) -> None:
    """From outside: in a user namespace the process couldn't raise its own."""
    for number, soft, hard in plan["rlimits"]:
        try:
            resource.prlimit(pid, number, (soft, hard))
        except (OSError, ValueError) as error:
            raise SystemFailure(
                f"process.rlimits: error setting rlimit type {number} to {soft}:{hard}: {_reason(error)}",
                hint="Raising a hard limit takes CAP_SYS_RESOURCE.",
            ) from error


def _reason(error: Exception) -> str:
    """Python's own words for EINVAL and EPERM of setrlimit(2) are a ValueError's."""
    if isinstance(error, OSError):
        return os.strerror(error.errno or 0).lower()
    return "operation not permitted" if "not allowed" in str(error) else str(error)


@contextmanager
def completing(made: Made) -> Iterator[None]:
    """End the new process if what is left to do for it fails; let go of its channel when all is done."""
    try:
        yield
    except BaseException:
        kill(made.pid)
        raise
    made.channel.close()


def kill(pid: int) -> None:
    """End a process of ours that nobody else knows yet."""
    if pid > 0:
        try:
            os.kill(pid, signals.SIGKILL)
        except ProcessLookupError:
            return
        _reap(pid)


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        return


def _status(pid: int) -> int:
    if pid <= 0:
        return 0
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return 0


def write_pid_file(path: str, pid: int) -> None:
    """By temporary name and rename: whoever waits for the file reads a whole number."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, str(pid).encode())
    finally:
        os.close(fd)
    os.rename(temporary, path)
