"""Execs whose monitor is their container's: a process more below it, which takes the short way to its program.

The process is spawned (no copy of the monitor is made for it, except to be born in a v2 group) as the program that
the engine has sent, see :mod:`sampan.runtime.directly`. That executes, or ends with ``("failed", DIRECTLY, …)`` and
was as if it had never been: its clients' sockets are left as they are, for the engine to have it done otherwise.
Import-light.
"""

from __future__ import annotations

import _socket
import fcntl
import os

from sampan.kernel import namespaces, process
from sampan.runtime import steps, wire
from sampan.runtime.run import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.runtime.hub import Wants
    from sampan.runtime.loop import Loop

    Plan = dict[str, Any]

DIRECTLY = "directly"
"""The step of a failure that sends an exec the long way."""
CHANNEL, TARGET = 3, 4
"""The program's descriptors behind 0, 1 and 2: what it tells the monitor through, its container's pidfd."""
_ARGUMENTS = ("sampan-exec",)
PLAN_KEYS = ("kind", "id", "tty", "stdin", "stdin_once", "log", "bound")
"""What a monitor is told of an exec's plan."""


class Exec(Run):
    """One exec. Its clients and its output wait until the program is executed."""

    def __init__(
        self,
        loop: Loop,
        plan: Plan,
        pid: int,
        channel: _socket.socket,
        control: _socket.socket,
        ends: list[int],
        clients: list[tuple[int, Wants]],
        over: Callable[[int], None],
    ) -> None:
        """``ends``: stdin's write end, if there is a stdin, then the read ends; ``over`` is told the pid."""
        super().__init__(loop, plan, pid, os.pidfd_open(pid), channel, control)
        self._ends = ends
        self._clients = clients
        self._tell_over = over
        self._going = True
        self.tell(("created", pid), (self._pidfd,))

    def _on_started(self) -> None:
        ends, clients = self._ends, self._clients
        self._ends, self._clients = [], []
        if self._plan["stdin"]:
            self._hub.open_input(ends.pop(0))
        for stream, fd in enumerate(ends, 1):
            self._hub.add_output(fd, stream)
        for fd, wanted in clients:
            self._hub.add_client(fd, wanted)

    def _unstarted(self) -> wire.Message:
        # Killed on the way, at birth even (see monitor.py): who goes the long way finds out whether it lasts.
        return ("failed", DIRECTLY, 0, "", "")

    def _over(self) -> None:
        if self._pidfd < 0:
            return
        for fd in (self._pidfd, *self._ends, *[fd for fd, _ in self._clients]):
            os.close(fd)
        self._pidfd = -1
        for peer in list(self._peers.values()):
            self._drop_peer(peer)
        self._hub.part()
        self._tell_over(self._pid)


def begin(
    loop: Loop, message: wire.Message, fds: list[int], target: int, over: Callable[[int], None]
) -> tuple[int, Exec] | None:
    """Start the exec of ``("exec", plan, wants, own pid namespace, v2 group or "")``: its pid and itself.

    ``fds`` are the control socket, the program, the clients' sockets; what the exec keeps is taken out of them.
    None when it can't be started like this: the engine has been told. ``target`` is the container's pidfd.
    """
    _, plan, wants, apart, group = message
    control = _socket.socket(fileno=fds.pop(0))
    ours, theirs = wire.pair()
    opened = [theirs.detach()]
    try:
        stdio, ends = _pipes(plan, opened)
        pid = _spawn([*stdio, opened[0], target], fds[0], group, apart=apart)
    except OSError as error:
        wire.send_or_not(control, ("failed", DIRECTLY, error.errno, "", ""))
        for fd in (*opened, ours.detach(), control.detach()):
            os.close(fd)
        return None
    for fd in (opened[0], *stdio):
        os.close(fd)
    clients = list(zip(fds[1:], wants, strict=True))
    del fds[1:]
    return pid, Exec(loop, plan, pid, ours, control, ends, clients, over)


def _pipes(plan: Plan, opened: list[int]) -> tuple[list[int], list[int]]:
    """The process's three descriptors, and our ends of those that are pipes; all are noted in ``opened``."""
    stdio: list[int] = []
    ends: list[int] = []
    for number in range(3):
        if number == 0 and not plan["stdin"]:
            stdio.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            opened.append(stdio[0])
            continue
        reader, writer = os.pipe2(os.O_CLOEXEC)
        opened += (reader, writer)
        stdio.append(writer if number else reader)
        ends.append(reader if number else writer)
    if plan["stdin"]:
        os.set_blocking(ends[0], False)
    return stdio, ends


def _spawn(given: list[int], program: int, group: str, *, apart: bool) -> int:
    """Start ``program`` with ``given`` as its descriptors from 0 on, leading a session. OSError."""
    if apart:
        namespaces.setns(given[TARGET], namespaces.CLONE_NEWPID)  # for children only
    copies: list[int] = []
    try:
        for number, fd in enumerate(given):
            if fd < len(given):  # one of the numbers that are about to be taken
                copies.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(given)))
                given[number] = copies[-1]
        if group:
            return _fork_into(group, given, program)
        return os.posix_spawn(
            f"/proc/self/fd/{program}",
            _ARGUMENTS,
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(given)],
            setsid=True,
            setsigmask=(),
            setsigdef=steps.CHANGED_SIGNALS,
        )
    finally:
        for fd in copies:
            os.close(fd)


def _fork_into(group: str, given: list[int], program: int) -> int:
    """As posix_spawn, born in the v2 group with the directory ``group``."""
    directory = os.open(group, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        pid = process.fork(0, directory)
    finally:
        os.close(directory)
    if pid:
        return pid
    try:
        for number, fd in enumerate(given):
            os.dup2(fd, number)
        steps.reset_signals()
        process.leave_session()
        os.execve(program, _ARGUMENTS, {})
    except OSError as error:
        channel = _socket.socket(fileno=CHANNEL)
        wire.send_or_not(channel, ("failed", DIRECTLY, error.errno, "", ""))
    finally:
        os._exit(steps.FAILED)
