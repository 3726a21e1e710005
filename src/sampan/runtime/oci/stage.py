"""The stage: a short-lived child that enters cgroups and namespaces and forks the container's first process.

A new PID namespace is for children, and a process in it can't do everything that its maker may. So the stage
prepares with the caller's rights, and forks the first process as the caller's child (CLONE_PARENT): whoever
reaps the caller's orphans (conmon, containerd-shim) becomes its parent when the caller ends.
"""

from __future__ import annotations

import errno
import os

from sampan.kernel import archcalls, namespaces, process
from sampan.runtime import steps, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable
    from typing import Any, NoReturn

    Plan = dict[str, Any]
    First = Callable[[Plan, _socket.socket, "Tools"], NoReturn]


class Tools(steps.HostFiles):
    """The host's /proc, kept open where the container's could be a fake, and what is opened through it."""

    def __init__(self) -> None:
        self.sysctl = self.oom = self.apparmor = -1
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open_own(self, plan: Plan) -> None:
        """Open what concerns the calling process; inside its final PID namespace."""
        if plan.get("sysctl"):
            self.sysctl = os.open("sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.proc)
        if plan.get("apparmor"):
            path = "self/attr/apparmor/exec"
            self.apparmor = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.proc)


def run(plan: Plan, channel: _socket.socket, tools: Tools, first: First) -> NoReturn:
    """Prepare, fork, let ``first`` be the new process, tell its pid (``("pid", n)``) and end."""
    report = steps.Report(channel)
    try:
        _enter_groups(plan, report)
        _set_scheduling(plan, report)
        _enter_namespaces(plan, channel, tools, report)
        report.at("fork")
        pid = process.fork_for_parent()
        if pid == 0:
            first(plan, channel, tools)
        wire.send(channel, ("pid", pid))
    except BaseException as error:
        report.fail(error)
    os._exit(0)


def _enter_groups(plan: Plan, report: steps.Report) -> None:
    """Cgroups first: a new cgroup namespace takes the present ones as its roots. cgroup_namespaces(7)."""
    for path in plan["join"]:
        report.at("cgroup", path)
        try:
            steps.write_file(path, b"0")
        except OSError as error:
            # v2, and the container has made groups below: then the one that its first process is in.
            if error.errno not in (errno.EBUSY, errno.EOPNOTSUPP) or not plan.get("join_instead"):
                raise
            steps.write_file(plan["join_instead"], b"0")
    if plan["oom_score_adj"] is not None:
        report.at("oom_score_adj", plan["oom_score_adj"])
        _set_oom_score(plan)


def _set_oom_score(plan: Plan) -> None:
    try:
        steps.write_file("/proc/self/oom_score_adj", str(plan["oom_score_adj"]).encode())
    except PermissionError:
        if not plan["rootless"]:  # lowering it takes CAP_SYS_RESOURCE
            raise


def _set_scheduling(plan: Plan, report: steps.Report) -> None:
    """What needs the caller's capabilities and stays through fork: policy, I/O priority, CPUs."""
    if plan["first_cpus"]:
        report.at("CPU affinity")
        os.sched_setaffinity(0, plan["first_cpus"])
    wanted = plan["scheduler"]
    if wanted is not None:
        report.at("scheduler")
        # RESET_ON_FORK would be spent on our own fork: set by the first process then, see initial.py.
        if not wanted.reset_on_fork:
            set_scheduler(plan)
    if plan["io_priority"] is not None:
        report.at("ioPriority")
        found = plan["io_priority"]
        archcalls.set_io_priority(archcalls.IO_CLASSES[found.io_class], found.level)


def set_scheduler(plan: Plan) -> None:
    """Policy, priority and nice value of this process. sched(7)."""
    wanted = plan["scheduler"]
    policy = wanted.policy | (os.SCHED_RESET_ON_FORK if wanted.reset_on_fork else 0)
    os.sched_setscheduler(0, policy, os.sched_param(wanted.priority))
    if wanted.nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, wanted.nice)


def _enter_namespaces(plan: Plan, channel: _socket.socket, tools: Tools, report: steps.Report) -> None:
    if plan["kind"] == "exec":
        report.at("setns", "container")
        process.set_dumpable(False)  # the container's processes see us from here on
        if plan["nsflags"]:
            namespaces.setns(plan["target"], plan["nsflags"])
        os.close(plan["target"])
    else:
        _join(plan, report)
    if plan["unshare"] & namespaces.CLONE_NEWUSER:
        report.at("unshare", "user")
        namespaces.unshare(namespaces.CLONE_NEWUSER)
        report.at("id mappings")
        wire.send(channel, ("map", os.getpid()))
        if wire.receive(channel)[0] != ("go",):
            os._exit(steps.FAILED)
    plan["no_setgroups"] = _setgroups_denied(tools)
    if plan["in_userns"]:
        _become_root(plan, report)
    flags = plan["unshare"] & ~namespaces.CLONE_NEWUSER
    if flags:
        report.at("unshare", hex(flags))
        namespaces.unshare(flags)
    if plan.get("time_offsets"):
        report.at("time offsets")
        steps.write_file("/proc/self/timens_offsets", plan["time_offsets"].encode())


def _join(plan: Plan, report: steps.Report) -> None:
    """Existing namespaces; the user namespace last, since the caller may have more rights than it gives."""
    ordered = sorted(plan["setns"], key=lambda entry: entry[1] == namespaces.CLONE_NEWUSER)
    opened = []
    for path, flag in ordered:
        report.at("setns", path)
        opened.append((os.open(path, os.O_RDONLY | os.O_CLOEXEC), path, flag))
    for fd, path, flag in opened:
        report.at("setns", path)
        namespaces.setns(fd, flag)
        os.close(fd)


def _become_root(plan: Plan, report: steps.Report) -> None:
    """Root of the user namespace makes the mounts; without setgroups(2) where the namespace forbids it."""
    report.at("user", 0)
    if not plan["no_setgroups"]:
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _setgroups_denied(tools: Tools) -> bool:
    """Whether this user namespace forbids setgroups(2). user_namespaces(7)."""
    try:
        fd = os.open("self/setgroups", os.O_RDONLY | os.O_CLOEXEC, dir_fd=tools.proc)
    except OSError:
        return False
    try:
        return os.read(fd, 16).strip() == b"deny"
    finally:
        os.close(fd)
