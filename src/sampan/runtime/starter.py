"""The starter: a short-lived child of the monitor that sets a container's first process going.

It opens log file, socket and pipes, forks the first process as the monitor's child (CLONE_PARENT), hands
everything to the monitor and ends. What it touches in memory goes with it: the monitor, which stays as long
as its container, remains nearly as small as it was forked.
"""

from __future__ import annotations

import _socket
import os

from sampan.kernel import namespaces, process
from sampan.runtime import launch, logwriter, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Plan = dict[str, Any]

SOCKET = "s"
EXIT_RECORD = "exit.json"

# What the monitor needs of a plan.
_MONITOR_KEYS = (
    "kind",
    "id",
    "tty",
    "stdin",
    "stdin_once",
    "log",
    "oom",
    "state_dir",
    "run_dir",
    "join",
    "unshare",
    "stop_signal",
    "stop_timeout",
)


def run(control: _socket.socket, handover: _socket.socket, origin: launch.Origin) -> NoReturn:
    """Start the process of ``origin``'s plan; failures go to the engine, success to the monitor.

    The monitor gets ``("started", pid, plan part)`` and descriptors: pidfd, channel to the first process,
    then where there are such: listening socket, stdin's write end, stdout's and stderr's read ends.
    """
    starter = _Starter(origin)
    try:
        wire.send(control, ("hello", os.getppid(), 0, 0))
        starter.start()
        part = {key: starter.plan[key] for key in _MONITOR_KEYS if key in starter.plan}
        wire.send(handover, ("started", starter.pid, part), starter.for_monitor)
    except (OSError, ValueError) as error:
        if starter.pid == 0 and starter.step != "hello":
            number, detail = getattr(error, "errno", 0) or 0, str(getattr(error, "filename", "") or "")
            wire.send(control, ("failed", starter.step, number, detail, "" if number else str(error)))
    finally:
        os._exit(0)


class _Starter:
    def __init__(self, origin: launch.Origin) -> None:
        self.plan: Plan = {}
        self.step = "hello"
        self.pid = 0
        self.for_monitor: list[int] = []
        self._origin = origin

    def start(self) -> None:
        """Everything up to the fork of the first process. Raises OSError, ValueError; ``step`` says where."""
        self.step = "plan"
        plan = self.plan = wire.unpack_plan(self._origin.plan)
        if plan.get("userns"):
            raise ValueError("user namespaces with id maps are not supported yet")
        self.step = "monitor cgroup"
        for directory in plan.get("monitor_cgroups", ()):
            launch.write_file(f"{directory}/cgroup.procs", str(os.getppid()).encode())
        if plan.get("state_dir"):
            self.step = "state"
            unlink(f"{plan['state_dir']}/{EXIT_RECORD}")
        self.step = "log"
        logwriter.open_log(plan.get("log")).close(0)  # the monitor opens it when there is something to write
        later: list[int] = []
        if plan.get("run_dir") and plan["kind"] == "container":
            self.step = "socket"
            later.append(_listen(plan["run_dir"]))
        self.step = "streams"
        stdio = self._open_streams(later)
        self.step = "fork"
        self._fork(stdio)
        self.for_monitor += later

    def _open_streams(self, later: list[int]) -> list[int]:
        """Descriptors for the child; with a tty it opens a terminal and these are only placeholders."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if self.plan["tty"]:
            return [null, null, null]
        stdin = null
        if self.plan["stdin"]:
            stdin, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(writer, False)
            later.append(writer)
        ends = [stdin]
        for _ in range(2):
            reader, end = os.pipe2(os.O_CLOEXEC)
            later.append(reader)
            ends.append(end)
        return ends

    def _fork(self, stdio: list[int]) -> None:
        """NEWPID is for children only, so the starter may ask for it and stays outside."""
        plan, target = self.plan, self._origin.target
        if target >= 0 and plan["nsflags"] & namespaces.CLONE_NEWPID:
            namespaces.setns(target, namespaces.CLONE_NEWPID)
        for path, flag in plan.get("setns", ()):
            if flag == namespaces.CLONE_NEWPID:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                namespaces.setns(fd, flag)
                os.close(fd)
        if plan.get("unshare", 0) & namespaces.CLONE_NEWPID:
            namespaces.unshare(namespaces.CLONE_NEWPID)
        ours, theirs = wire.pair()
        self.pid = process.fork_for_parent()
        if self.pid == 0:
            launch.run(plan, theirs, stdio, self._origin)
        self.for_monitor += [os.pidfd_open(self.pid), ours.detach()]


def _listen(run_dir: str) -> int:
    """Bind the socket by way of a descriptor: a path in sockaddr_un has room for 107 bytes only."""
    directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    unlink(f"{run_dir}/{SOCKET}")
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    listener.bind(f"/proc/self/fd/{directory}/{SOCKET}")
    os.close(directory)
    os.chmod(f"{run_dir}/{SOCKET}", 0o600)
    listener.listen(16)
    return listener.detach()


def unlink(path: str) -> None:
    """Remove ``path`` if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
