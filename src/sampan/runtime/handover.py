"""What a container's first process does before it leaves the host: the monitor's log, socket and pipes.

They are made here and not by the monitor: what is touched in memory on the way goes with execve(2), and the
monitor, which stays as long as its container, remains nearly as small as it was forked.
"""

from __future__ import annotations

import _socket
import os

from sampan.runtime import launch, logwriter, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    Plan = dict[str, Any]

SOCKET = "s"
EXIT_RECORD = "exit.json"
_FAILED = 127

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
    "bound",
    "stop_signal",
    "stop_timeout",
)


def run(channel: _socket.socket, origin: launch.Origin) -> NoReturn:
    """Be the first process of ``origin``'s plan, from the fork to the end.

    The monitor gets ``("started", plan part)`` with descriptors, where there are such: listening socket,
    stdin's write end, stdout's and stderr's read ends; or ``("failed", step, errno, detail, text)``.
    """
    preparation = _Preparation()
    try:
        stdio = preparation.make(origin.plan)
        part = {key: preparation.plan[key] for key in _MONITOR_KEYS if key in preparation.plan}
        wire.send(channel, ("started", part), preparation.for_monitor)
    except (OSError, ValueError) as error:
        number, detail = getattr(error, "errno", 0) or 0, str(getattr(error, "filename", "") or "")
        try:
            wire.send(channel, ("failed", preparation.step, number, detail, "" if number else str(error)))
        finally:
            os._exit(_FAILED)
    launch.run(preparation.plan, channel, stdio, origin)


class _Preparation:
    def __init__(self) -> None:
        self.plan: Plan = {}
        self.step = ""
        self.for_monitor: list[int] = []

    def make(self, plan_fd: int) -> list[int]:
        """Everything for the monitor; the three descriptors to become 0, 1, 2.

        Raises OSError, ValueError; ``step`` says where.
        """
        self.step = "plan"
        plan = self.plan = wire.unpack_plan(plan_fd)
        if plan.get("userns"):
            raise ValueError("user namespaces with id maps are not supported yet")
        if plan.get("state_dir"):
            self.step = "state"
            unlink(f"{plan['state_dir']}/{EXIT_RECORD}")
        self.step = "log"
        logwriter.open_log(plan.get("log")).close(0)  # the monitor opens it when there is something to write
        if plan.get("run_dir") and plan["kind"] == "container":
            self.step = "socket"
            self.for_monitor.append(_listen(plan["run_dir"]))
        self.step = "streams"
        return self._open_streams()

    def _open_streams(self) -> list[int]:
        """Descriptors for this process; with a tty it opens a terminal and these are only placeholders."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if self.plan["tty"]:
            return [null, null, null]
        stdin = null
        if self.plan["stdin"]:
            stdin, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(writer, False)
            self.for_monitor.append(writer)
        ends = [stdin]
        for _ in range(2):
            reader, end = os.pipe2(os.O_CLOEXEC)
            self.for_monitor.append(reader)
            ends.append(end)
        return ends


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
