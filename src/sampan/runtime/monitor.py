"""The monitor: one small process per container, its first process's parent.

It owns the container's streams (:mod:`sampan.runtime.hub`) and records the exit in ``state_dir/exit.json``.
It needs neither engine nor zygote once it runs; an engine that comes back connects to the socket ``s`` in
``run_dir``. If it dies, the container dies too (PR_SET_PDEATHSIG).

Messages to the engine: ``("hello", monitor pid, pid or 0, started_ns or 0)``, ``("created", pid)`` with a
pidfd, ``("started", ns)``, ``("failed", step, errno, detail, text)``, ``("exit", code, oom_killed, ns)``,
``("synced", token)``.
From the engine: ``("go",)``, ``("abort",)``, ``("resize", rows, columns)``,
``("attach", stdin, stdout, stderr)`` with a socket, ``("close_stdin",)``, ``("sync", token)``.
"""

from __future__ import annotations

import _socket
import os
import time

from sampan.kernel import namespaces, process, pty, signals
from sampan.runtime import launch, logwriter, wire
from sampan.runtime.hub import Hub
from sampan.runtime.loop import READABLE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sampan.runtime.hub import Wants
    from sampan.runtime.title import Title

    Plan = dict[str, Any]

SOCKET = "s"
EXIT_RECORD = "exit.json"
_DRAIN = 2.0  # seconds for which output is awaited that outlives the process, as dockerd does


def run(request: wire.Message, fds: list[int], shown: Title, host_mounts: int) -> NoReturn:
    """Be the monitor for a launch request; the process ends here.

    ``request`` is ``("launch", [(stdin, stdout, stderr), …], has_target)``; ``fds`` the control socket, the
    plan, with ``has_target`` the pidfd of an exec's container, then the attach clients' sockets.
    ``host_mounts`` is the host's mount namespace.
    """
    code = 1
    try:
        control = _socket.socket(fileno=fds[0])
        wire.send(control, ("hello", os.getpid(), 0, 0))
        plan = wire.unpack_plan(fds[1])
        _settle(plan, shown)
        has_target = request[2]
        target = fds[2] if has_target else -1
        monitor = Monitor(plan, control, shown, host_mounts)
        try:
            monitor.start(target, list(zip(fds[3 if has_target else 2 :], request[1], strict=True)))
        except (OSError, ValueError) as error:
            number, detail = getattr(error, "errno", 0), str(getattr(error, "filename", "") or "")
            monitor.tell(("failed", monitor.step, number, detail, "" if number else str(error)))
        else:
            monitor.loop.run()
            code = 0
    finally:
        os._exit(code)


def _settle(plan: Plan, shown: Title) -> None:
    """Own session and cgroups, no standard streams of the engine's, parent of orphans."""
    process.leave_session()
    process.set_subreaper()
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in range(3):
        os.dup2(null, number)
    os.close(null)
    for number in (signals.SIGHUP, signals.SIGINT):
        signals.signal(number, signals.SIG_IGN)
    for directory in plan.get("monitor_cgroups", ()):
        launch.write_file(f"{directory}/cgroup.procs", b"0")
    shown.show("sampan-monitor", f"sampan-monitor {plan['kind']} {plan['id']}")


class Monitor:
    """The state of one container or exec."""

    def __init__(self, plan: Plan, control: _socket.socket, shown: Title, host_mounts: int) -> None:
        self.loop = Loop()
        self.step = "monitor"
        spill = plan.get("state_dir") or plan.get("run_dir") or "/tmp"
        once = plan.get("stdin_once", False)
        self._hub = Hub(self.loop, tty=plan["tty"], stdin=plan["stdin"], stdin_once=once, spill=spill)
        self._hub.engine_connected = lambda: bool(self._peers)
        self._hub.on_silent = self._on_silent
        self._hub.on_unattached = self._stop_if_done
        self._plan = plan
        self._shown = shown
        self._host_mounts = host_mounts
        self._peers: dict[int, _socket.socket] = {}
        self._size: tuple[int, int] | None = None
        self._channel: _socket.socket | None = None
        self._failure: wire.Message | None = None
        self._executed = False
        self._pid = 0
        self._pidfd = -1
        self._started = 0
        self._status: int | None = None
        self._exit: wire.Message | None = None
        self._add_peer(control)

    # --- start ------------------------------------------------------------------------------------------

    def start(self, target: int, clients: list[tuple[int, Wants]]) -> None:
        """Open log and streams, fork the first process. Raises OSError, ValueError; ``step`` says where."""
        plan = self._plan
        if plan.get("state_dir"):
            self.step = "state"
            _unlink(f"{plan['state_dir']}/{EXIT_RECORD}")
        self.step = "log"
        self._hub.log = logwriter.open_log(plan.get("log"))
        self._watch_children()
        if plan.get("run_dir") and plan["kind"] == "container":
            self.step = "socket"
            self._listen(plan["run_dir"])
        for fd, wants in clients:
            self._hub.add_client(fd, wants)
        self.step = "streams"
        stdio = self._open_streams()
        self.step = "fork"
        self._fork(stdio, target)
        for fd in set(stdio):
            os.close(fd)
        if target >= 0:
            os.close(target)

    def _watch_children(self) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signals.signal(signals.SIGCHLD, _note)
        signals.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self.loop.watch(reader, READABLE, lambda _events: self._on_child(reader))

    def _listen(self, run_dir: str) -> None:
        """Bind the socket by way of a descriptor: a path in sockaddr_un has room for 107 bytes only."""
        directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _unlink(f"{run_dir}/{SOCKET}")
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        listener.bind(f"/proc/self/fd/{directory}/{SOCKET}")
        os.close(directory)
        os.chmod(f"{run_dir}/{SOCKET}", 0o600)
        listener.listen(16)
        self.loop.watch(listener.fileno(), READABLE, lambda _events: self._on_connect(listener))

    def _open_streams(self) -> list[int]:
        """Descriptors for the child; with a tty it opens a terminal and these are only placeholders."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if self._plan["tty"]:
            return [null, null, null]
        stdin = null
        if self._plan["stdin"]:
            stdin, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(writer, False)
            self._hub.open_input(writer)
        ends = [stdin]
        for stream in (1, 2):
            reader, end = os.pipe2(os.O_CLOEXEC)
            self._hub.add_output(reader, stream)
            ends.append(end)
        if stdin != null:
            os.close(null)
        return ends

    def _fork(self, stdio: list[int], target: int) -> None:
        """NEWPID is for children only, so the monitor itself may ask for it and stays outside."""
        plan = self._plan
        if target >= 0 and plan["nsflags"] & namespaces.CLONE_NEWPID:
            namespaces.setns(target, namespaces.CLONE_NEWPID)
        for path, flag in plan.get("setns", ()):
            if flag == namespaces.CLONE_NEWPID:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                namespaces.setns(fd, flag)
                os.close(fd)
        if plan.get("unshare", 0) & namespaces.CLONE_NEWPID:
            namespaces.unshare(namespaces.CLONE_NEWPID)
        self._channel, theirs = wire.pair()
        self._pid = os.fork()
        if self._pid == 0:
            launch.run(plan, theirs, stdio, launch.Origin(self._shown, target, self._host_mounts))
        theirs.close()
        self._pidfd = os.pidfd_open(self._pid)
        self.loop.watch(self._channel.fileno(), READABLE, lambda _events: self._on_channel())

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
        if not self._peers and not self._started:
            self._kill()  # nobody will ever say "go"

    def _on_connect(self, listener: _socket.socket) -> None:
        fd, _ = listener._accept()  # type: ignore[attr-defined]
        peer = _socket.socket(fileno=fd)
        self._add_peer(peer)
        hello = ("hello", os.getpid(), self._pid, self._started)
        try:
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
            self._hub.log.flush(time.time_ns())
            self.tell(("synced", message[1]))

    def _say_go(self) -> None:
        if self._channel is not None:
            try:
                wire.send(self._channel, ("go",))
            except OSError:
                return  # it failed already, the reason is on its way

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

    def _on_channel(self) -> None:
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

    def _on_child(self, reader: int) -> None:
        try:
            os.read(reader, 4096)
        except BlockingIOError:
            return
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
            self._on_channel()
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
        part = f"{directory}/{EXIT_RECORD}.tmp"
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.write(fd, text.encode())
            os.rename(part, f"{directory}/{EXIT_RECORD}")
        except OSError:
            return -1  # the container is being removed, or the disk is full
        return fd


def _note(_number: int, _frame: object) -> None:
    """SIGCHLD: the byte in the wake-up pipe is all that's needed."""


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
