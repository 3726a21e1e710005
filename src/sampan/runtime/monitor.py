"""The monitor: one small process per container, its first process's parent.

It owns the container's streams (:mod:`sampan.runtime.hub`) and records the exit in ``state_dir/exit.json``.
It needs neither engine nor zygote once it runs; an engine that comes back connects to the socket ``s`` in
``run_dir``. If it dies, the container dies too (PR_SET_PDEATHSIG).

Messages to the engine: ``("hello", monitor pid, pid or 0, started_ns or 0)`` (before it ``("going",)`` to one
that comes back when "go" was said), ``("created", pid)`` with a pidfd, ``("started", ns)``,
``("failed", step, errno, detail, text)``, ``("exit", code, oom_killed, ns)``, ``("synced", token)``.
From the engine: ``("go",)``, ``("abort",)``, ``("resize", rows, columns)``,
``("attach", stdin, stdout, stderr)`` with a socket, ``("close_stdin",)``, ``("sync", token)``.
"""

from __future__ import annotations

import _socket
import os
import time

from sampan.kernel import namespaces, process, pty, signals
from sampan.runtime import handover, launch, wire
from sampan.runtime.hub import Hub
from sampan.runtime.loop import READABLE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sampan.runtime.hub import Wants
    from sampan.runtime.title import Title

    Plan = dict[str, Any]

_STOP_TIMEOUT = 10  # seconds between stop signal and SIGKILL, as dockerd has it
_DRAIN = 2.0  # seconds for which output is awaited that outlives the process, as dockerd does


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


class Monitor:
    """The state of one container or exec."""

    def __init__(self, plan: Plan, pid: int, control: _socket.socket, fds: list[int]) -> None:
        """``fds``: pidfd of the process, channel to it, then as :func:`sampan.runtime.handover.run` has them."""
        self.loop = Loop()
        self._plan = plan
        self._pid = pid
        self._pidfd, channel, *others = fds
        self._peers: dict[int, _socket.socket] = {}
        self._size: tuple[int, int] | None = None
        self._failure: wire.Message | None = None
        self._going = False
        self._executed = False
        self._started = 0
        self._status: int | None = None
        self._exit: wire.Message | None = None
        self._channel: _socket.socket | None = _socket.socket(fileno=channel)
        self._hub = Hub(self.loop, plan)
        self._hub.engine_connected = lambda: bool(self._peers)
        self._hub.on_silent = self._on_silent
        self._hub.on_unattached = self._stop_if_done
        self._add_peer(control)
        self._watch_children()
        self.loop.watch(channel, READABLE, self._on_channel)
        if plan.get("run_dir") and plan["kind"] == "container":
            listener = _socket.socket(fileno=others.pop(0))
            self.loop.watch(listener.fileno(), READABLE, lambda _events: self._on_connect(listener))
        if plan["stdin"] and not plan["tty"]:
            self._hub.open_input(others.pop(0))
        for stream, fd in enumerate(others, 1):
            self._hub.add_output(fd, stream)

    def run(self) -> None:
        """Until the process has ended and everybody has got everything."""
        self._reap()  # it may have ended before SIGCHLD was watched
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

    def tell(self, message: wire.Message, fds: tuple[int, ...] = ()) -> None:
        """Send ``message`` to every connected engine; one that is gone doesn't matter."""
        for peer in list(self._peers.values()):
            try:
                wire.send(peer, message, fds)
            except OSError:
                self._drop_peer(peer)

    def _add_peer(self, peer: _socket.socket) -> None:
        self._peers[peer.fileno()] = peer
        self.loop.watch(peer.fileno(), READABLE, lambda _events: self._on_peer(peer))

    def _drop_peer(self, peer: _socket.socket) -> None:
        if self._peers.pop(peer.fileno(), None) is None:
            return
        self.loop.unwatch(peer.fileno())
        peer.close()
        if not self._peers and (not self._going or self._plan.get("bound")):
            self._kill()  # nobody will ever say "go", or wait for what it finds out

    def _on_connect(self, listener: _socket.socket) -> None:
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        peer = _socket.socket(fileno=fd)
        self._add_peer(peer)
        hello = ("hello", os.getpid(), self._pid, self._started)
        try:
            if self._going:
                wire.send(peer, ("going",))
            wire.send(peer, hello, (self._pidfd,))
            if self._exit:
                wire.send(peer, self._exit)
        except OSError:
            self._drop_peer(peer)

    def _on_peer(self, peer: _socket.socket) -> None:
        try:
            message, fds = wire.receive(peer)
        except OSError:
            message, fds = (), []
        if not message:
            self._drop_peer(peer)
            return
        self._obey(message, fds)
        for fd in fds:
            os.close(fd)

    def _obey(self, message: wire.Message, fds: list[int]) -> None:
        kind = message[0]
        if kind == "go":
            self._say_go()
        elif kind == "abort":
            self._kill()
        elif kind == "resize":
            self._resize(message[1], message[2])
        elif kind == "attach":
            self._hub.add_client(fds.pop(), message[1:])
        elif kind == "close_stdin":
            self._hub.end_input()
        elif kind == "sync":
            self._hub.flush_log()
            self.tell(("synced", message[1]))

    def _say_go(self) -> None:
        if self._channel is not None:
            try:
                wire.send(self._channel, ("go",))
            except OSError:
                return  # it failed already, the reason is on its way
            self._going = True

    def _kill(self) -> None:
        if self._pidfd >= 0 and self._status is None:
            try:
                signals.pidfd_send_signal(self._pidfd, signals.SIGKILL)
            except ProcessLookupError:
                return

    def _resize(self, rows: int, columns: int) -> None:
        self._size = (rows, columns)
        if self._hub.terminal >= 0:
            try:
                pty.set_size(self._hub.terminal, rows, columns)
            except OSError:
                return  # the terminal is gone

    # --- the first process ------------------------------------------------------------------------------

    def _on_channel(self, _events: int) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            message, fds = wire.receive(channel)
        except OSError:
            message, fds = (), []
        if not message:
            self.loop.unwatch(channel.fileno())
            channel.close()
            self._channel = None
            if self._failure is None and self._executed:
                self._started = time.time_ns()
                self.tell(("started", self._started))
        elif message[0] == "namespaces":
            self.tell(("created", self._pid), (self._pidfd,))
        elif message[0] == "terminal":
            self._hub.use_terminal(fds[0])
            if self._size:
                self._resize(*self._size)
        elif message[0] == "exec":
            self._executed = True
        elif message[0] == "failed":
            self._failure = message

    def _on_signals(self, reader: int) -> None:
        if signals.SIGTERM in os.read(reader, 4096):
            self._shut_down()
        self._reap()

    def _shut_down(self) -> None:
        """The machine goes down: the container's stop signal, and its grace time before the last one."""
        if self._status is None:
            try:
                signals.pidfd_send_signal(self._pidfd, self._plan.get("stop_signal", signals.SIGTERM))
            except ProcessLookupError:
                return
            grace = self._plan.get("stop_timeout", _STOP_TIMEOUT)
            if grace >= 0:  # negative: however long it takes
                self.loop.after("stop", grace, self._kill)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid and self._status is None:
                self._on_ended(os.waitstatus_to_exitcode(status))

    def _on_ended(self, code: int) -> None:
        self._status = code if code >= 0 else 128 - code
        while self._channel is not None:  # what it said last, before it ended
            self._on_channel(READABLE)
        if not self._started:
            self.tell(self._failure or ("failed", "killed", 0, self._status, ""))
            self._hub.drop_clients(only_idle=False)
            self.loop.stop()
            return
        self._kill_left_behind()
        if self._hub.speaking:
            self.loop.after("drain", _DRAIN, self._on_drained)
        else:
            self._conclude()

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

    def _on_silent(self) -> None:
        if self._status is not None:
            self._conclude()

    def _on_drained(self) -> None:
        if self._hub.held:  # a slow client keeps us from reading: its output isn't lost
            self.loop.after("drain", _DRAIN, self._on_drained)
        else:
            self._conclude()

    def _conclude(self) -> None:
        """All output is in: complete the log, record the exit and tell it."""
        if self._exit is None and self._status is not None:
            self.loop.cancel("drain")
            now = time.time_ns()
            self._hub.end(now)
            self._exit = ("exit", self._status, self._oom_killed(), now)
            record = self._record(self._exit)
            self.tell(self._exit)
            if record >= 0:
                os.fsync(record)
                os.close(record)
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        # An exec's background processes may hold its pipes: read on, or they would get SIGPIPE.
        if self._exit is not None and not self._hub.attached and not self._hub.speaking:
            self.loop.stop()

    def _oom_killed(self) -> bool:
        for path, key in self._plan.get("oom") or ():
            try:
                with open(path, "rb") as counters:
                    lines = [line.split() for line in counters]
            except OSError:
                continue
            if any(len(line) == 2 and line[0] == key.encode() and int(line[1]) > 0 for line in lines):
                return True
        return False

    def _record(self, message: wire.Message) -> int:
        """Write ``exit.json``; its descriptor, still to be synced, or -1 where there is no place for it."""
        directory = self._plan.get("state_dir")
        if not directory or self._plan["kind"] != "container":
            return -1
        _, code, killed, now = message
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
