"""What a container's first process (or an exec's) does between fork and execve.

It carries out a launch plan and decides nothing. It talks to its monitor over a packet socket:
``("namespaces",)`` when they exist, ``("terminal",)`` with the pty master, then waits for ``("go",)``,
``("exec",)`` right before execve(2), ``("failed", step, errno, detail)`` if something goes wrong; the end of
the connection means that execve succeeded.
"""

from __future__ import annotations

import errno
import fcntl
import os

from sampan.kernel import loopback, namespaces, process, pty
from sampan.runtime import hooks, identity, program, reaper, rootfs, steps, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any, NoReturn

    from sampan.runtime.title import Title

    Plan = dict[str, Any]

_FAILED = 127
_CHANNEL = 3  # descriptor numbers in the new process: 0, 1, 2 and this


class Origin:
    """From the processes that forked this: title, descriptors of plan, exec target or -1, host's mounts."""

    def __init__(self, shown: Title, plan: int, target: int, host_mounts: int) -> None:
        self.shown = shown
        self.plan = plan
        self.target = target
        self.host_mounts = host_mounts
        self.in_group = False  # born in its cgroup: there is none to enter


def run(plan: Plan, channel: _socket.socket, stdio: list[int], origin: Origin) -> NoReturn:
    """Become the container's process; never returns.

    ``stdio`` are the three descriptors to become 0, 1 and 2; with a tty they are replaced by it.
    """
    report = steps.Report(channel)
    try:
        report.at("prepare")
        channel = report.channel = _own_descriptors(channel, stdio, origin)
        steps.reset_signals()
        process.leave_session()
        process.set_parent_death_signal(process.SIGKILL)
        tools = steps.HostFiles(plan, report)
        _join(plan, origin, report)
        wire.send(channel, ("namespaces",))
        master = _prepare_root(plan, report)
        if master >= 0:
            wire.send(channel, ("terminal",), [master])
            os.close(master)
        ids = steps.identify(plan, report)
        _wait_for_go(channel)
        steps.set_names(plan, tools, report)
        steps.set_limits(plan, tools, report)
        _execute(plan, ids, tools, report, origin.shown)
    except BaseException as error:
        report.fail(error)


def _own_descriptors(channel: _socket.socket, stdio: list[int], origin: Origin) -> _socket.socket:
    """Keep 0, 1, 2, the channel and what ``origin`` has; close all that belongs to the monitor."""
    high = [_above(fd) for fd in stdio]
    moved = _above(channel.fileno())
    origin.target = _above(origin.target)
    origin.host_mounts = _above(origin.host_mounts)
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=True)
    os.dup2(moved, _CHANNEL, inheritable=False)
    first = _CHANNEL + 1
    for kept in sorted(fd for fd in (origin.target, origin.host_mounts) if fd >= first):
        process.close_between(first, kept - 1)
        first = kept + 1
    process.close_between(first, 0xFFFFFFFF)
    channel.detach()
    return type(channel)(fileno=_CHANNEL)


def _above(fd: int) -> int:
    """``fd``, or a copy of it out of the way of the numbers that are about to be taken."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _CHANNEL + 1) if 0 <= fd <= _CHANNEL else fd


def _join(plan: Plan, origin: Origin, report: steps.Report) -> None:
    """Cgroups first: a new cgroup namespace takes the present ones as its roots. cgroup_namespaces(7)."""
    for directory in () if origin.in_group else plan.get("join", ()):
        report.at("cgroup", directory)
        _enter_group(directory)
    if origin.target >= 0:
        report.at("setns", "container")
        process.set_dumpable(False)  # the container's processes see us from here on
        namespaces.setns(origin.target, plan["nsflags"] & ~namespaces.CLONE_NEWPID)
        os.close(origin.target)
    elif plan["kind"] == "exec":
        raise ProcessLookupError(errno.ESRCH, "an exec without its container")
    for path, flag in plan.get("setns", ()):
        if flag != namespaces.CLONE_NEWPID:  # that was the monitor's: it is for children
            report.at("setns", path)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            namespaces.setns(fd, flag)
            os.close(fd)
    if rootfs.needs_host_mounts(plan):
        report.at("setns", "mnt")
        namespaces.setns(origin.host_mounts, namespaces.CLONE_NEWNS)
    os.close(origin.host_mounts)
    flags = plan.get("unshare", 0) & ~namespaces.CLONE_NEWPID
    if flags:
        report.at("unshare", hex(flags))
        namespaces.unshare(flags)
    if flags & namespaces.CLONE_NEWNET:
        report.at("network", "lo")
        loopback.bring_up()


def _enter_group(directory: str) -> None:
    """Join a cgroup; this process has one thread.

    v1's ``tasks`` takes a thread that moves itself without stopping all forks of the machine, which costs
    an RCU grace period (5 to 15 ms) after each pause. v2 has only ``cgroup.procs``, which always does: there
    processes are born in their group where they can (see monitor.py). kernel/cgroup/cgroup.c
    """
    try:
        steps.write_file(f"{directory}/tasks", b"0")
    except FileNotFoundError:
        steps.write_file(f"{directory}/cgroup.procs", b"0")


def _prepare_root(plan: Plan, report: steps.Report) -> int:
    """Mounts and change of root; the master of the terminal, or -1. An exec only opens its terminal."""
    if plan["kind"] == "exec":
        report.at("root", "/")
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        master = slave = -1
        if plan["tty"]:
            report.at("terminal")
            master, slave, _ = pty.open_pair(root)
    else:
        root = rootfs.assemble(plan, report.at)
        master = slave = -1
        if plan["tty"]:
            report.at("terminal")
            master, slave = rootfs.open_console(root)
        if plan.get("hooks"):
            report.at("hook")
            _run_hooks(*plan["hooks"])
        rootfs.restrict(root, plan, report.at)
        if plan.get("make_cwd"):
            report.at("make cwd", plan["cwd"])
            program.make_working_directory(root, plan["cwd"])
        report.at("pivot_root")
        rootfs.enter(root, plan)
    os.close(root)
    if slave >= 0:
        steps.use_terminal(slave, plan.get("console_size"))
    return master


def _run_hooks(found: list[list[Any]], state: str) -> None:
    """Programs that CDI devices bring along. The pid is the one that the container sees (runtime.md, State)."""
    told = f'{state[:-1]}, "pid": {os.getpid()}}}'
    hooks.run_all("createContainer", [hooks.Hook(*hook) for hook in found], told)


def _wait_for_go(channel: _socket.socket) -> None:
    message, _ = wire.receive(channel)
    if message != ("go",):
        os._exit(_FAILED)  # the monitor is gone or was told to give up


def _execute(
    plan: Plan, ids: identity.Identity, tools: steps.HostFiles, report: steps.Report, shown: Title
) -> NoReturn:
    environment = steps.environment_of(plan, ids)
    os.umask(plan.get("umask", 0o022))
    report.at("chdir", plan["cwd"])
    arrived = program.change_directory(plan["cwd"], later=ids.uid != 0)
    report.at("privileges")
    steps.own_stdio(ids)
    steps.drop_privileges(plan, ids, report)
    process.set_parent_death_signal(process.SIGKILL)  # the change of user cleared it
    if not arrived:
        report.at("chdir", plan["cwd"])
        program.change_directory(plan["cwd"], later=False)
    report.at("program", plan["args"][0])
    path = program.find(os.fsdecode(plan["args"][0]), environment)
    if plan.get("no_new_privs") and plan.get("seccomp"):
        report.at("seccomp")
        steps.install_seccomp(plan)
    process.close_on_exec_from(_CHANNEL)
    if plan.get("init"):
        report.at("init")
        _start_below_init(plan, environment, shown)
    report.at("exec", path)
    wire.send(report.channel, ("exec",))
    try:
        os.execve(path, plan["args"], environment)
    except ValueError:
        raise program.null_byte(environment) from None


def _start_below_init(plan: Plan, environment: dict[str, str], shown: Title) -> None:
    """Fork; the child goes on to execve, this process stays as the container's reaper."""
    child = os.fork()
    if child == 0:
        reaper.prepare_child(plan["tty"])
        return
    arguments = [b"/sbin/docker-init", b"--", *map(os.fsencode, plan["args"])]
    shown.show(b"docker-init", b"\0".join(arguments))
    reaper.serve(child, arguments, environment)
