"""The monitor: one small process per container, its first process's parent.

It owns the container's streams (:mod:`sampan.runtime.hub`) and records the exit in ``state_dir/exit.json``.
It needs neither engine nor zygote once it runs; an engine that comes back connects to the socket ``s`` in
``run_dir``. If it dies, the container dies too (PR_SET_PDEATHSIG).

Messages to the engine: ``("serves", "exec")``, ``("hello", monitor pid, pid or 0, started_ns or 0)`` (before it
``("going",)`` to one that comes back when "go" was said), ``("created", pid)`` with a pidfd,
``("started", ns)``, ``("failed", step, errno, detail, text)``, ``("exit", code, oom_killed, ns)``,
``("synced", token)``.
From the engine: ``("go",)``, ``("abort",)``, ``("resize", rows, columns)``,
``("attach", stdin, stdout, stderr)`` with a socket, ``("close_stdin",)``, ``("sync", token)``,
``("exec", …)`` with descriptors, see :mod:`sampan.runtime.execs`; its answers come on a socket of its own.
"""

from __future__ import annotations

import _socket
import os

from sampan.kernel import namespaces, process, signals
from sampan.runtime import execs, handover, launch, wire
from sampan.runtime.loop import READABLE, Loop
from sampan.runtime.run import Run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sampan.runtime.hub import Wants
    from sampan.runtime.title import Title

    Plan = dict[str, Any]

_STOP_TIMEOUT = 10  # seconds between stop signal and SIGKILL, as dockerd has it
SERVES = ("serves", "exec")
"""What a monitor says first: it starts execs of its container too. One of an earlier version doesn't."""


def run(request: wire.Message, fds: list[int], shown: Title, host_mounts: int) -> NoReturn:
    """Be the monitor for a launch request; the process ends here.

    ``request`` is ``("launch", [(stdin, stdout, stderr), …], has_target, pid namespace, cgroup)``, the latter
    two as :func:`begin_first` takes them; ``fds`` are the control socket, the plan, with ``has_target`` the
    pidfd of an exec's container, then the attach clients' sockets. ``host_mounts`` is the host's mount
    namespace.
    What is touched here stays in memory for the container's life: the first process does all it can.
    """
    code = 1
    try:
        os.setsid()
        os.dup2(0, 2)  # 0 and 1 are /dev/null already
        signals.signal(signals.SIGCHLD, _note)  # the zygote ignores it: then there is nothing to wait for
        control = _socket.socket(fileno=fds[0])
        wire.send(control, SERVES)
        wire.send(control, ("hello", os.getpid(), 0, 0))
        first = 2 + request[2]
        origin = launch.Origin(shown, fds[1], fds[2] if request[2] else -1, host_mounts)
        try:
            child, ours, message, given = begin_first(origin, *request[3:])
        except OSError as error:
            wire.send(control, ("failed", "fork", error.errno, "", ""))
            os._exit(code)
        for fd in fds[1:first]:
            os.close(fd)
        os.close(host_mounts)
        if message and message[0] == "started":
            plan = message[1]
            shown.show(b"sampan-monitor", f"sampan-monitor {plan['kind']} {plan['id']}".encode())
            monitor = Monitor(plan, child, control, [os.pidfd_open(child), ours.detach(), *given])
            monitor.add_clients(fds[first:], request[1])
            monitor.run()
            code = 0
        elif message:
            wire.send(control, message)
    finally:
        os._exit(code)


def begin_first(
    origin: launch.Origin, pid_namespace: bool | str, group: str
) -> tuple[int, _socket.socket, wire.Message, list[int]]:
    """Fork the first process: its pid, the channel to it, its first message. Raises OSError.

    ``pid_namespace`` True is a new one, or that of ``origin.target``; text is its file; False is this one.
    It is born in the cgroup with the directory ``group``, if that is one of v2; else it enters by itself.
    """
    ours, theirs = wire.pair()
    try:
        child = _fork_first(pid_namespace, origin.target, group)
    except OSError:
        if not group:
            raise
        child = -1
    if child == 0:
        origin.in_group = bool(group)
        handover.run(theirs, origin)
    theirs.close()
    message, given = wire.receive(ours)
    if message or not group:
        return child, ours, message, given
    ours.close()
    if child > 0:
        # Linux 6.18 kills at birth when cgroup.kill was once written in this process's group, not in that one.
        os.waitpid(child, 0)
    return begin_first(origin, pid_namespace, "")


def _fork_first(pid_namespace: bool | str, target: int, group: str) -> int:
    if isinstance(pid_namespace, str):
        fd = os.open(pid_namespace, os.O_RDONLY | os.O_CLOEXEC)
        namespaces.setns(fd, namespaces.CLONE_NEWPID)
        os.close(fd)
    elif pid_namespace and target >= 0:
        namespaces.setns(target, namespaces.CLONE_NEWPID)
    flags = namespaces.CLONE_NEWPID if pid_namespace is True and target < 0 else 0
    if not group:
        return process.fork(flags)
    directory = os.open(group, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return process.fork(flags, directory)
    finally:
        os.close(directory)


class Monitor(Run):
    """The container or exec that this process is for, and more execs of the container."""

    def __init__(self, plan: Plan, pid: int, control: _socket.socket, fds: list[int]) -> None:
        """``fds``: pidfd of the process, channel to it, then as :func:`sampan.runtime.handover.run` has them."""
        pidfd, channel, *others = fds
        super().__init__(Loop(), plan, pid, pidfd, _socket.socket(fileno=channel), control)
        self._execs: dict[int, execs.Exec] = {}
        self._watch_children()
        if plan.get("run_dir") and plan["kind"] == "container":
            listener = _socket.socket(fileno=others.pop(0))
            self.loop.watch(listener.fileno(), READABLE, lambda _events: self._on_connect(listener))
        if plan["stdin"] and not plan["tty"]:
            self._hub.open_input(others.pop(0))
        for stream, fd in enumerate(others, 1):
            self._hub.add_output(fd, stream)

    def run(self) -> None:
        """Until the process has ended and everybody has got everything."""
        self.reap()  # it may have ended before SIGCHLD was watched
        self.loop.run()

    def add_clients(self, fds: list[int], wants: list[Wants]) -> None:
        """Attach clients that were there before the start."""
        for fd, wanted in zip(fds, wants, strict=True):
            self._hub.add_client(fd, wanted)

    def _watch_children(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signals.signal(signals.SIGTERM, _note)
        signals.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.loop.watch(reader, READABLE, lambda _events: self._on_signals(reader))

    # --- the engine -------------------------------------------------------------------------------------

    def _on_connect(self, listener: _socket.socket) -> None:
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        peer = _socket.socket(fileno=fd)
        self._add_peer(peer)
        hello = ("hello", os.getpid(), self._pid, self._started)
        try:
            wire.send(peer, SERVES)
            if self._going:
                wire.send(peer, ("going",))
            wire.send(peer, hello, (self._pidfd,))
            if self._exit:
                wire.send(peer, self._exit)
        except OSError:
            self._drop_peer(peer)

    def _obey(self, message: wire.Message, fds: list[int]) -> None:
        if message[0] == "exec":
            begun = execs.begin(self.loop, message, fds, self._pidfd, self._on_exec_over)
            if begun is not None:
                self._execs[begun[0]] = begun[1]
        else:
            super()._obey(message, fds)

    def _on_exec_over(self, pid: int) -> None:
        del self._execs[pid]
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if not self._execs:
            super()._stop_if_done()

    def _over(self) -> None:
        self.loop.stop()

    # --- children -----------------------------------------------------------------------------------------

    def _on_signals(self, reader: int) -> None:
        if signals.SIGTERM in os.read(reader, 4096):
            self._shut_down()
        self.reap()

    def _shut_down(self) -> None:
        """The machine goes down: the container's stop signal, and its grace time before the last one."""
        if self._status is None:
            try:
                signals.pidfd_send_signal(self._pidfd, self._plan.get("stop_signal", signals.SIGTERM))
            except ProcessLookupError:
                return
            self._thaw()
            grace = self._plan.get("stop_timeout", _STOP_TIMEOUT)
            if grace >= 0:  # negative: however long it takes
                self.loop.after(grace, self._kill)

    def _thaw(self) -> None:
        """A paused container takes no signal before it goes on; on v1 not even the last one."""
        for directory in self._plan.get("join") or ():
            for name, word in (("freezer.state", b"THAWED"), ("cgroup.freeze", b"0")):
                try:
                    fd = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
                except OSError:
                    continue  # another hierarchy's, or the other version's
                os.write(fd, word)
                os.close(fd)

    def reap(self) -> None:
        """Take note of the children that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended = self if pid == self._pid and self._status is None else self._execs.get(pid)
            if ended is not None:
                ended.on_ended(os.waitstatus_to_exitcode(status))

    def _kill_left_behind(self) -> None:
        """Without a pid namespace of its own nobody ends the rest of a container. pid_namespaces(7)."""
        plan = self._plan
        own = plan.get("unshare", 0) & namespaces.CLONE_NEWPID
        if own or plan["kind"] != "container" or not plan.get("join"):
            return
        with open(f"{plan['join'][0]}/cgroup.procs", "rb") as members:
            for pid in members.read().split():
                try:
                    os.kill(int(pid), signals.SIGKILL)
                except ProcessLookupError:
                    continue

    def _record(self) -> int:
        """Write ``exit.json``; its descriptor, still to be synced, or -1 where there is no place for it."""
        directory = self._plan.get("state_dir")
        if not directory or self._plan["kind"] != "container" or self._exit is None:
            return -1
        _, code, killed, now = self._exit
        oom = "true" if killed else "false"
        text = (
            f'{{"id":"{self._plan["id"]}","pid":{self._pid},"code":{code},"oom_killed":{oom},'
            f'"started_ns":{self._started},"finished_ns":{now}}}\n'
        )
        part = f"{directory}/{handover.EXIT_RECORD}.tmp"
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.write(fd, text.encode())
            os.rename(part, f"{directory}/{handover.EXIT_RECORD}")
        except OSError:
            return -1  # the container is being removed, or the disk is full
        return fd


def _note(_number: int, _frame: object) -> None:
    """SIGCHLD, SIGTERM: the byte in the wake-up pipe is all that's needed."""
