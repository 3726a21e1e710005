"""The monitor: one small process per container, its first process's parent.

It owns the container's streams: writes the log, serves attach clients, records the exit in
``state_dir/exit.json``. It needs neither engine nor zygote once it runs; an engine that comes back connects
to the socket ``s`` in ``run_dir``. If it dies, the container dies too (PR_SET_PDEATHSIG).

Messages to the engine: ``("hello", monitor pid, pid or 0, started_ns or 0)``, ``("created", pid)`` with a
pidfd, ``("started", ns)``, ``("failed", step, errno, detail, text)``, ``("exit", code, oom_killed, ns)``,
``("synced", token)``.
From the engine: ``("go",)``, ``("abort",)``, ``("resize", rows, columns)``,
``("attach", stdin, stdout, stderr)`` with a socket, ``("close_stdin",)``, ``("sync", token)``.
"""

from __future__ import annotations

import _signal
import _socket
import errno
import fcntl
import os
import select
import time

from sampan.kernel import namespaces, process, pty
from sampan.runtime import launch, logwriter, streams, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from sampan.runtime.title import Title

    Plan = dict[str, Any]

SOCKET = "s"
EXIT_RECORD = "exit.json"
_LARGE_PIPE = 1 << 20
_IDLE_FLUSH = 1.0  # seconds after which an unfinished line is logged as it is
_DRAIN = 2.0  # seconds for which output is awaited that outlives the process, as dockerd does
_DETACHED_GRACE = 0.1  # seconds to find out whether a client left or the engine died
_IN, _OUT, _GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLHUP | select.EPOLLERR


def run(request: wire.Message, fds: list[int], shown: Title) -> NoReturn:
    """Be the monitor for a launch request; the process ends here.

    ``request`` is ``("launch", [(stdin, stdout, stderr), …], has_target)``; ``fds`` the control socket, the
    plan, with ``has_target`` the pidfd of an exec's container, then the attach clients' sockets.
    """
    code = 1
    try:
        control = _socket.socket(fileno=fds[0])
        wire.send(control, ("hello", os.getpid(), 0, 0))
        plan = wire.unpack_plan(fds[1])
        _settle(plan, shown)
        has_target = request[2]
        target = fds[2] if has_target else -1
        monitor = Monitor(plan, control, shown)
        try:
            monitor.start(target, list(zip(fds[3 if has_target else 2 :], request[1], strict=True)))
        except OSError as error:
            detail = str(error.filename or "")
            monitor.tell(("failed", monitor.step, error.errno, detail, ""))
        else:
            monitor.serve()
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
    for number in (_signal.SIGHUP, _signal.SIGINT):
        _signal.signal(number, _signal.SIG_IGN)
    for directory in plan.get("monitor_cgroups", ()):
        launch.write_file(f"{directory}/cgroup.procs", b"0")
    shown.show("sampan-monitor", f"sampan-monitor {plan['kind']} {plan['id']}")


class Monitor:
    """The event loop and the state of one container or exec."""

    def __init__(self, plan: Plan, control: _socket.socket, shown: Title) -> None:
        self.step = "monitor"
        self._plan = plan
        self._shown = shown
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._peers: dict[int, _socket.socket] = {}
        self._clients: dict[int, streams.Client] = {}
        self._outputs: dict[int, int] = {}  # descriptor -> stream number
        self._held = False  # outputs are not read while a client's backlog is too long
        self._input: streams.Input | None = None
        self._master = -1
        self._size: tuple[int, int] | None = None
        self._channel: _socket.socket | None = None
        self._failure: wire.Message | None = None
        self._executed = False
        self._pid = 0
        self._pidfd = -1
        self._started = 0
        self._status: int | None = None
        self._exit: wire.Message | None = None
        self._finished = False
        self._deadlines: dict[str, float] = {}
        self._log: logwriter.Log = logwriter.NoLog()
        self._add_peer(control)

    # --- start ---------------------------------------------------------------------------------------

    def start(self, target: int, clients: list[tuple[int, tuple[bool, bool, bool]]]) -> None:
        """Open log and streams, fork the first process. Raises OSError."""
        plan = self._plan
        if plan.get("state_dir"):
            self.step = "state"
            _unlink(f"{plan['state_dir']}/{EXIT_RECORD}")
        self.step = "log"
        self._log = logwriter.open_log(plan.get("log"))
        self._watch_children()
        if plan.get("run_dir") and plan["kind"] == "container":
            self.step = "socket"
            self._listen(plan["run_dir"])
        for fd, wants in clients:
            self._add_client(fd, wants)
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
        _signal.signal(_signal.SIGCHLD, _note)
        _signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        self._watch(reader, _IN, lambda _events: self._on_child(reader))

    def _listen(self, run_dir: str) -> None:
        """Bind the socket by way of a descriptor: a path in sockaddr_un has room for 107 bytes only."""
        directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        _unlink(f"{run_dir}/{SOCKET}")
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
        listener.bind(f"/proc/self/fd/{directory}/{SOCKET}")
        os.close(directory)
        os.chmod(f"{run_dir}/{SOCKET}", 0o600)
        listener.listen(16)
        self._watch(listener.fileno(), _IN, lambda _events: self._on_connect(listener))

    def _open_streams(self) -> list[int]:
        """Descriptors for the child; with a tty it opens a terminal and these are only placeholders."""
        plan = self._plan
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if plan["tty"]:
            return [null, null, null]
        stdin = null
        if plan["stdin"]:
            stdin, writer = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(writer, False)
            self._input = streams.Input(writer, lambda: self._close(writer))
        ends = [stdin]
        for stream in (1, 2):
            reader, end = os.pipe2(os.O_CLOEXEC)
            self._add_output(reader, stream)
            ends.append(end)
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
            launch.run(plan, theirs, stdio, target, self._shown)
        theirs.close()
        self._pidfd = os.pidfd_open(self._pid)
        self._watch(self._channel.fileno(), _IN, lambda _events: self._on_channel())

    # --- the loop -------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Until the process has ended, its output is logged, and every client has got its share."""
        while not self._finished:
            for fd, events in self._epoll.poll(self._timeout()):
                handler = self._handlers.get(fd)
                if handler is not None:
                    handler(events)
            self._on_deadlines()

    def _timeout(self) -> float:
        if not self._deadlines:
            return -1
        return max(min(self._deadlines.values()) - time.monotonic(), 0)

    def _on_deadlines(self) -> None:
        if not self._deadlines:
            return
        now = time.monotonic()
        for name in [name for name, moment in self._deadlines.items() if moment <= now]:
            del self._deadlines[name]
            if name == "flush":
                self._log.flush(time.time_ns())
            elif name == "drain":
                self._conclude()
            elif name == "left" and self._peers:
                self._end_input()

    def _watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _close(self, fd: int) -> None:
        self._unwatch(fd)
        os.close(fd)

    # --- the engine -----------------------------------------------------------------------------------

    def tell(self, message: wire.Message, fds: tuple[int, ...] = ()) -> None:
        """Send ``message`` to every connected engine; one that is gone doesn't matter."""
        for peer in list(self._peers.values()):
            try:
                wire.send(peer, message, fds)
            except OSError:
                self._drop_peer(peer)

    def _add_peer(self, peer: _socket.socket) -> None:
        self._peers[peer.fileno()] = peer
        self._watch(peer.fileno(), _IN, lambda _events: self._on_peer(peer))

    def _drop_peer(self, peer: _socket.socket) -> None:
        if self._peers.pop(peer.fileno(), None) is None:
            return
        self._unwatch(peer.fileno())
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
        kind = message[0]
        if kind == "go" and self._channel is not None:
            self._say_go(self._channel)
        elif kind == "abort":
            self._kill()
        elif kind == "resize":
            self._resize(message[1], message[2])
        elif kind == "attach":
            self._attach(fds.pop(), message[1:])
        elif kind == "close_stdin":
            self._end_input()
        elif kind == "sync":
            self._log.flush(time.time_ns())
            self.tell(("synced", message[1]))
        for fd in fds:
            os.close(fd)

    def _say_go(self, channel: _socket.socket) -> None:
        try:
            wire.send(channel, ("go",))
        except OSError:
            return  # it failed already, the reason is on its way

    def _kill(self) -> None:
        if self._pidfd >= 0 and self._status is None:
            try:
                _signal.pidfd_send_signal(self._pidfd, _signal.SIGKILL)
            except ProcessLookupError:
                return

    def _resize(self, rows: int, columns: int) -> None:
        self._size = (rows, columns)
        if self._master >= 0:
            try:
                pty.set_size(self._master, rows, columns)
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
            self._unwatch(channel.fileno())
            channel.close()
            self._channel = None
            self._on_executed()
        elif message[0] == "namespaces":
            self.tell(("created", self._pid), (self._pidfd,))
        elif message[0] == "terminal":
            self._use_terminal(fds[0])
        elif message[0] == "exec":
            self._executed = True
        elif message[0] == "failed":
            self._failure = message

    def _on_executed(self) -> None:
        """The channel ended: execve went through, or the process failed or was killed before it."""
        if self._failure is None and self._executed:
            self._started = time.time_ns()
            self.tell(("started", self._started))

    def _use_terminal(self, master: int) -> None:
        self._master = master
        self._add_output(master, 1)
        if self._plan["stdin"]:
            self._input = streams.Input(master, self._input_ended)
        if self._size:
            self._resize(*self._size)

    def _input_ended(self) -> None:
        """The master stays open for output."""

    def _on_child(self, reader: int) -> None:
        try:
            while os.read(reader, 512):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._pid and self._status is None:
                self._ended(os.waitstatus_to_exitcode(status))

    def _ended(self, code: int) -> None:
        self._status = code if code >= 0 else 128 - code
        while self._channel is not None:  # what it said last, before it ended
            self._on_channel()
        if not self._started:
            self._tell_failure()
            self._finished = True
            return
        self._kill_left_behind()
        if self._outputs:
            self._deadlines["drain"] = time.monotonic() + _DRAIN
        else:
            self._conclude()

    def _tell_failure(self) -> None:
        if self._failure is None:
            self._failure = ("failed", "killed", 0, self._status, "")
        self.tell(self._failure)
        for client in list(self._clients.values()):
            self._drop_client(client)

    def _kill_left_behind(self) -> None:
        """Without a pid namespace of its own nobody ends the rest of a container. pid_namespaces(7)."""
        plan = self._plan
        if plan["kind"] != "container" or plan.get("unshare", 0) & namespaces.CLONE_NEWPID or not plan.get("join"):
            return
        with open(f"{plan['join'][0]}/cgroup.procs", "rb") as members:
            for pid in members.read().split():
                try:
                    os.kill(int(pid), _signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def _conclude(self) -> None:
        """Log complete: record the exit and tell it."""
        if self._exit is None and self._status is not None:
            now = time.time_ns()
            self._log.close(now)
            self._deadlines.pop("flush", None)
            self._deadlines.pop("drain", None)
            killed = self._oom_killed()
            self._exit = ("exit", self._status, killed, now)
            record = self._record(self._exit)
            self.tell(self._exit)
            if record >= 0:
                os.fsync(record)
                os.close(record)
            if self._input is not None:
                self._input.close()
        for client in list(self._clients.values()):
            if not client.backlog:
                self._drop_client(client)
        # An exec's background processes may hold its pipes: read on, or they would get SIGPIPE.
        self._finished = not self._clients and not self._outputs

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
        text = (
            f'{{"id":"{self._plan["id"]}","pid":{self._pid},"code":{code},'
            f'"oom_killed":{"true" if killed else "false"},"started_ns":{self._started},"finished_ns":{now}}}\n'
        )
        part = f"{directory}/{EXIT_RECORD}.tmp"
        try:
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError:
            return -1  # the container is being removed
        os.write(fd, text.encode())
        try:
            os.rename(part, f"{directory}/{EXIT_RECORD}")
        except OSError:
            pass
        return fd

    # --- output -----------------------------------------------------------------------------------------

    def _add_output(self, fd: int, stream: int) -> None:
        self._outputs[fd] = stream
        self._watch(fd, _IN, lambda _events: self._on_output(fd, stream))

    def _on_output(self, fd: int, stream: int) -> None:
        try:
            data = os.read(fd, streams.CHUNK)
        except BlockingIOError:
            self._on_input_ready(fd)
            return
        except OSError as error:
            if error.errno != errno.EIO:  # EIO is a terminal's end: no process has it open
                raise
            data = b""
        if not data:
            self._end_output(fd)
            return
        if len(data) == streams.CHUNK:
            _enlarge(fd)
        if self._exit is None:
            self._log.write(stream, data, time.time_ns())
            if self._log.pending():
                self._deadlines["flush"] = time.monotonic() + _IDLE_FLUSH
            else:
                self._deadlines.pop("flush", None)
        for client in list(self._clients.values()):
            self._feed(client, stream, data)
        if self._input is not None and self._input.full and fd == self._master:
            self._on_input_ready(fd)

    def _end_output(self, fd: int) -> None:
        self._outputs.pop(fd)
        if fd == self._master:
            self._master = -1
            if self._input is not None:
                self._input.fd = -1
        self._close(fd)
        if not self._outputs and self._status is not None:
            self._conclude()

    def _feed(self, client: streams.Client, stream: int, data: bytes) -> None:
        try:
            client.feed(stream, data)
        except OSError:
            self._hold()  # no room to spill: the container waits, as it would for a full pipe
        self._follow(client)
        if len(client.backlog) > streams.LIMIT:
            self._hold()

    def _hold(self) -> None:
        self._held = True
        for fd in self._outputs:
            self._epoll.modify(fd, 0)

    def _release(self) -> None:
        if self._held and all(len(client.backlog) < streams.LIMIT for client in self._clients.values()):
            self._held = False
            for fd in self._outputs:
                self._epoll.modify(fd, _IN)

    # --- clients ----------------------------------------------------------------------------------------

    def _attach(self, fd: int, wants: tuple[bool, bool, bool]) -> None:
        if self._exit is None:
            self._add_client(fd, wants)
        else:
            os.close(fd)

    def _add_client(self, fd: int, wants: tuple[bool, bool, bool]) -> None:
        directory = self._plan.get("state_dir") or self._plan.get("run_dir") or "/tmp"
        if not self._plan["stdin"]:
            wants = (False, *wants[1:])
        client = streams.Client(fd, wants, self._plan["tty"], directory)
        self._clients[fd] = client
        self._follow(client)

    def _follow(self, client: streams.Client) -> None:
        """Listen for what can be done for ``client`` now."""
        if client.gone and not client.wants_input:
            self._drop_client(client)
        if client.gone:
            return
        if client.fd not in self._handlers:
            self._watch(client.fd, 0, lambda events: self._on_client(client, events))
        reading = client.wants_input and not (self._input is not None and self._input.full)
        self._epoll.modify(client.fd, (_IN if reading else 0) | (_OUT if client.backlog else 0))

    def _on_client(self, client: streams.Client, events: int) -> None:
        if events & _OUT and not client.gone:
            client.flush()
            self._release()
        if events & _GONE and not client.gone:
            client.drop_output()
            self._release()
        if client.wants_input and events & (_IN | _GONE):
            self._take_input(client, left=bool(events & _GONE))
        if self._exit is not None and not client.backlog:
            self._conclude()
        elif client.fd in self._clients:
            self._follow(client)

    def _take_input(self, client: streams.Client, *, left: bool) -> None:
        sink = self._input
        if sink is not None and sink.full:
            if left:
                self._unwatch(client.fd)  # a hang-up can't be masked; what it sent still waits to be read
            return
        data = client.receive()
        if data is None:
            return
        if data:
            if sink is not None:
                sink.write(data)
                self._await_input(sink)
            return
        client.wants_input = False
        if not self._plan["stdin_once"] or self._plan["tty"]:
            return
        if left:
            # Perhaps it is the engine that died; then the container keeps its stdin.
            self._deadlines["left"] = time.monotonic() + _DETACHED_GRACE
        else:
            self._end_input()

    def _drop_client(self, client: streams.Client) -> None:
        if self._clients.pop(client.fd, None) is not None:
            self._unwatch(client.fd)
            client.close()
            self._release()

    # --- input ------------------------------------------------------------------------------------------

    def _end_input(self) -> None:
        if self._input is not None and not self._plan["tty"]:
            self._input.close()

    def _await_input(self, sink: streams.Input) -> None:
        """While the container doesn't read, clients are not read either."""
        if sink.fd < 0 or not sink.full:
            return
        if sink.fd == self._master:
            self._epoll.modify(sink.fd, _OUT | (0 if self._held else _IN))
        elif sink.fd not in self._handlers:
            self._watch(sink.fd, _OUT, lambda _events: self._on_input_ready(sink.fd))
        for client in self._clients.values():
            self._follow(client)

    def _on_input_ready(self, fd: int) -> None:
        sink = self._input
        if sink is None or sink.fd < 0 or fd != sink.fd:
            return
        sink.flush()
        if sink.full:
            return
        if fd == self._master:
            self._epoll.modify(fd, 0 if self._held else _IN)
        else:
            self._unwatch(fd)
        for client in list(self._clients.values()):
            if client.gone and client.wants_input:
                self._take_input(client, left=True)
            self._follow(client)


def _note(_number: int, _frame: object) -> None:
    """SIGCHLD: the byte in the wake-up pipe is all that's needed."""


def _enlarge(fd: int) -> None:
    """A busy pipe gets 1 MiB: fewer switches between writer and reader."""
    try:
        if fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) < _LARGE_PIPE:
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
    except OSError:
        return  # a terminal, or the user's pipe quota is used up


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
