"""What a monitor does is done in the zygote before there is one, with descriptors that lead nowhere.

Python sets much up with the first use, and rewrites code that has run a few times (PEP 659). What is done
before the fork is shared by all monitors; what each does anew is a page of its own, a quarter of a megabyte
in sum. Import-light.
"""

from __future__ import annotations

import _socket
import gc
import os

from sampan.kernel import signals
from sampan.runtime import calls, elf, execs, launch, wire
from sampan.runtime.monitor import Monitor, begin_first

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.runtime.loop import Loop
    from sampan.runtime.title import Title

_ROUNDS = 12  # code is rewritten after eight
_FORKS = 9  # enough for the same; they are what takes long here, about 3 ms each
_PLAN = {
    "kind": "container",
    "id": "",
    "tty": False,
    "stdin": False,
    "run_dir": "/nonexistent",
}
_LOG = {"path": "/dev/null", "max_size": 1 << 20, "max_file": 5, "compress": False}


def rehearse(shown: Title) -> None:
    """Be a monitor a few times, under the name of the zygote. Signals' handlers are to be set afterwards."""
    before = _descriptors()
    for number in range(_ROUNDS):
        _play(shown, ("local", "json-file")[number % 2], forking=number < _FORKS)
    signals.set_wakeup_fd(-1)
    gc.collect()  # sockets that are forgotten are closed
    for fd in _descriptors() - before:
        try:
            os.close(fd)
        except OSError:
            continue  # the one through which the directory was read


def _descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def _play(shown: Title, driver: str, *, forking: bool) -> None:
    """A container's start as its monitor sees it, up to where it waits; a line of output, and its log."""
    engine, control = wire.pair()
    first, ours = wire.pair()
    output, writer = os.pipe2(os.O_CLOEXEC)
    errors, _ = os.pipe2(os.O_CLOEXEC)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    listener.bind(b"")  # a name of the kernel's choice, see unix(7)
    listener.listen(1)
    nobody = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)  # in the place of a pidfd
    signals.signal(signals.SIGCHLD, signals.SIG_DFL)
    wire.send(control, ("hello", os.getpid(), 0, 0))
    if forking:
        _fork(launch.Origin(shown, -1, -1, nobody))
    log = {**_LOG, "driver": driver}
    wire.send(first, ("started", {**_PLAN, "log": log}), (listener.fileno(), output, errors))
    message, given = wire.receive(ours)
    plan = message[1]
    shown.show(b"sampan-zygote", f"sampan-zygote {plan['kind']} {plan['id']}".encode())
    monitor = Monitor(plan, os.getpid(), control, [nobody, ours.detach(), *given])
    monitor.add_clients([], [])
    wire.send(first, ("namespaces",))
    wire.send(engine, ("go",))
    os.write(writer, b"line\n")
    wire.send(first, ("exec",))
    turns = [_nothing, first.close, _nothing]
    if forking and calls.known():
        turns += [lambda: _ask_for_exec(engine), lambda: _end_exec(monitor), _nothing]
    _in_turns(monitor.loop, [*turns, monitor.loop.stop])
    monitor.run()


def _fork(origin: launch.Origin) -> None:
    """A first process that ends at once, for there is no plan; no cgroup either: both of its births are tried."""
    child, channel, _, _ = begin_first(origin, False, "/")
    channel.close()
    os.waitpid(child, 0)


def _ask_for_exec(engine: _socket.socket) -> None:
    """An exec in the container, of a program that says that it executes, and ends."""
    _, control = wire.pair()
    client, _ = _socket.socketpair()
    said = wire.packed(("exec",))
    program = elf.sealed("sampan-exec", calls.Calls().program(execs.CHANNEL, said, 0))
    fds = [control.detach(), program, client.detach()]
    wire.send(engine, ("exec", {**_PLAN, "kind": "exec", "log": None}, [(False, True, True)], False, ""), fds)


def _end_exec(monitor: Monitor) -> None:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return  # programs in memory can't be executed here
    monitor.reap()


def _in_turns(loop: Loop, actions: list[Callable[[], None]]) -> None:
    """One after the other, between them whatever is ready."""

    def turn() -> None:
        actions.pop(0)()
        if actions:
            loop.after(0, turn)

    loop.after(0, turn)


def _nothing() -> None:
    """What is ready is handled."""
