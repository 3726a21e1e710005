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
import resource

from sampan.kernel import namespaces, process, pty, signals
from sampan.runtime import identity, program, reaper, rootfs, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any, NoReturn

    from sampan.runtime.title import Title

    Plan = dict[str, Any]

_FAILED = 127
# What Python, zygote and monitor set; an ignored signal would stay ignored through execve.
_CHANGED_SIGNALS = (
    signals.SIGPIPE,
    signals.SIGXFSZ,
    signals.SIGINT,
    signals.SIGHUP,
    signals.SIGCHLD,
    signals.SIGTERM,
)
_CHANNEL = 3  # descriptor numbers in the new process: 0, 1, 2 and this


class _Report:
    """Where we are, for the error message, and the way to say it."""

    def __init__(self, channel: _socket.socket) -> None:
        self.channel = channel
        self.step = ""
        self.detail: object = ""

    def at(self, step: str, detail: object = "") -> None:
        self.step = step
        self.detail = detail

    def fail(self, error: BaseException) -> NoReturn:
        number = getattr(error, "errno", None) or 0
        text = str(error) if not isinstance(error, OSError) else str(error.filename or "")
        if not isinstance(error, OSError | identity.IdentityError | program.ProgramError | ValueError):
            text = f"{type(error).__name__}: {text}"
        try:
            wire.send(self.channel, ("failed", self.step, number, self.detail, text))
        finally:
            os._exit(_FAILED)


class Origin:
    """From the processes that forked this: title, descriptors of plan, exec target or -1, host's mounts."""

    def __init__(self, shown: Title, plan: int, target: int, host_mounts: int) -> None:
        self.shown = shown
        self.plan = plan
        self.target = target
        self.host_mounts = host_mounts


def run(plan: Plan, channel: _socket.socket, stdio: list[int], origin: Origin) -> NoReturn:
    """Become the container's process; never returns.

    ``stdio`` are the three descriptors to become 0, 1 and 2; with a tty they are replaced by it.
    """
    report = _Report(channel)
    try:
        report.at("prepare")
        channel = report.channel = _own_descriptors(channel, stdio, origin)
        _reset_signals()
        process.leave_session()
        process.set_parent_death_signal(process.SIGKILL)
        tools = _HostFiles(plan, report)
        _join(plan, origin, report)
        wire.send(channel, ("namespaces",))
        master = _prepare_root(plan, report)
        if master >= 0:
            wire.send(channel, ("terminal",), [master])
            os.close(master)
        ids = _identify(plan, report)
        _wait_for_go(channel)
        _set_names(plan, tools, report)
        _set_limits(plan, tools, report)
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


def _reset_signals() -> None:
    signals.set_wakeup_fd(-1)
    for number in _CHANGED_SIGNALS:
        signals.signal(number, signals.SIG_DFL)
    signals.pthread_sigmask(signals.SIG_SETMASK, ())


def _join(plan: Plan, origin: Origin, report: _Report) -> None:
    """Cgroups first: a new cgroup namespace takes the present ones as its roots. cgroup_namespaces(7)."""
    for directory in plan.get("join", ()):
        report.at("cgroup", directory)
        _enter_group(directory)
    if origin.target >= 0:
        report.at("setns", "container")
        process.set_dumpable(False)  # the container's processes see us from here on
        namespaces.setns(origin.target, plan["nsflags"] & ~namespaces.CLONE_NEWPID)
        os.close(origin.target)
    for path, flag in plan.get("setns", ()):
        if flag != namespaces.CLONE_NEWPID:  # that was the monitor's: it is for children
            report.at("setns", path)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            namespaces.setns(fd, flag)
            os.close(fd)
    if rootfs.shares_mounts(plan):
        report.at("setns", "mnt")
        namespaces.setns(origin.host_mounts, namespaces.CLONE_NEWNS)
    os.close(origin.host_mounts)
    flags = plan.get("unshare", 0) & ~namespaces.CLONE_NEWPID
    if flags:
        report.at("unshare", hex(flags))
        namespaces.unshare(flags)


def _enter_group(directory: str) -> None:
    """Join a cgroup; this process has one thread.

    v1's ``tasks`` takes a thread that moves itself without stopping all forks of the machine, which costs
    an RCU grace period (5 to 15 ms) after each pause; v2 and ``cgroup.procs`` always do. kernel/cgroup/cgroup.c
    """
    try:
        write_file(f"{directory}/tasks", b"0")
    except FileNotFoundError:
        write_file(f"{directory}/cgroup.procs", b"0")


class _HostFiles:
    """Files of the host's /proc that are needed after the root has changed; an image can't fake these."""

    def __init__(self, plan: Plan, report: _Report) -> None:
        report.at("proc")
        self.sysctl = self.oom = self.apparmor = -1
        if plan.get("sysctl"):
            self.sysctl = os.open("/proc/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if plan.get("oom_score_adj") is not None:
            self.oom = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        if plan.get("apparmor"):
            self.apparmor = os.open("/proc/self/attr/apparmor/exec", os.O_WRONLY | os.O_CLOEXEC)


def _prepare_root(plan: Plan, report: _Report) -> int:
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
        rootfs.restrict(root, plan, report.at)
        if plan.get("make_cwd"):
            report.at("make cwd", plan["cwd"])
            program.make_working_directory(root, plan["cwd"])
        report.at("pivot_root")
        rootfs.enter(root, plan)
    os.close(root)
    if slave >= 0:
        _use_terminal(slave, plan.get("console_size"))
    return master


def _use_terminal(slave: int, size: list[int] | None) -> None:
    if size and any(size):
        pty.set_size(slave, size[0], size[1])
    pty.make_controlling(slave)
    for number in range(3):
        os.dup2(slave, number, inheritable=True)
    os.close(slave)


def _identify(plan: Plan, report: _Report) -> identity.Identity:
    report.at("user")
    user = plan["user"]
    if "name" in user:
        return identity.resolve(user["name"], user.get("groups", ()))
    home = identity.home_of(user["uid"]) if plan.get("default_home") else "/"
    return identity.Identity(user["uid"], user["gid"], list(user["groups"]), home)


def _wait_for_go(channel: _socket.socket) -> None:
    message, _ = wire.receive(channel)
    if message != ("go",):
        os._exit(_FAILED)  # the monitor is gone or was told to give up


def _set_names(plan: Plan, tools: _HostFiles, report: _Report) -> None:
    if plan.get("hostname"):
        report.at("hostname", plan["hostname"])
        namespaces.set_hostname(plan["hostname"])
    if plan.get("domainname"):
        report.at("domainname", plan["domainname"])
        namespaces.set_domainname(plan["domainname"])
    for key, value in (plan.get("sysctl") or {}).items():
        report.at("sysctl", key)
        # Dots separate, as sysctl(8) has it; a name with slashes is a path, for interfaces with dots.
        path = key if "/" in key else key.replace(".", "/")
        write_file(path, str(value).encode(), tools.sysctl)


def _set_limits(plan: Plan, tools: _HostFiles, report: _Report) -> None:
    for number, soft, hard in plan.get("rlimits", ()):
        report.at("rlimit", number)
        _set_limit(number, soft, hard)
    if tools.oom >= 0:
        report.at("oom_score_adj", plan["oom_score_adj"])
        _set_oom_score(tools.oom, plan["oom_score_adj"])
    if tools.apparmor >= 0:
        report.at("apparmor", plan["apparmor"])
        os.write(tools.apparmor, f"exec {plan['apparmor']}".encode())


def _set_limit(number: int, soft: int, hard: int) -> None:
    """Without CAP_SYS_RESOURCE the hard limit can't grow: then as much as there is."""
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError:
        ceiling = resource.getrlimit(number)[1]
        resource.setrlimit(number, (_lower(soft, ceiling), _lower(hard, ceiling)))


def _lower(wanted: int, ceiling: int) -> int:
    if ceiling == resource.RLIM_INFINITY:
        return wanted
    return ceiling if wanted == resource.RLIM_INFINITY else min(wanted, ceiling)


def _set_oom_score(fd: int, value: int) -> None:
    try:
        os.write(fd, str(value).encode())
    except PermissionError:
        return  # lowering it takes CAP_SYS_RESOURCE, which some hosts withhold: the container runs without


def _execute(
    plan: Plan, ids: identity.Identity, tools: _HostFiles, report: _Report, shown: Title
) -> NoReturn:
    environment = _environment(plan, ids)
    os.umask(plan.get("umask", 0o022))
    report.at("chdir", plan["cwd"])
    arrived = program.change_directory(plan["cwd"], later=ids.uid != 0)
    report.at("privileges")
    _own_stdio(ids)
    _drop_privileges(plan, ids, report)
    if not arrived:
        report.at("chdir", plan["cwd"])
        program.change_directory(plan["cwd"], later=False)
    report.at("program", plan["args"][0])
    path = program.find(os.fsdecode(plan["args"][0]), environment)
    if plan.get("no_new_privs") and plan.get("seccomp"):
        report.at("seccomp")
        process.install_seccomp(plan["seccomp"])
    process.close_on_exec_from(_CHANNEL)
    if plan.get("init"):
        report.at("init")
        _start_below_init(plan, shown)
    report.at("exec", path)
    wire.send(report.channel, ("exec",))
    os.execve(path, plan["args"], environment)


def _environment(plan: Plan, ids: identity.Identity) -> dict[str, str]:
    environment = {}
    for entry in plan["env"]:
        name, equals, value = entry.partition("=")
        if name and equals:
            environment[name] = value
    if plan.get("default_home") and not environment.get("HOME"):
        environment["HOME"] = ids.home
    return environment


def _own_stdio(ids: identity.Identity) -> None:
    """Give pipes and the terminal to the user, who may then open /dev/stdout; devices stay as they are."""
    if not ids.uid:
        return
    null = os.stat("/dev/null").st_rdev if os.path.exists("/dev/null") else -1
    for fd in range(3):
        if os.fstat(fd).st_rdev != null:
            try:
                os.fchown(fd, ids.uid, -1)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EROFS, errno.EINVAL):
                    raise


def _drop_privileges(plan: Plan, ids: identity.Identity, report: _Report) -> None:
    caps = plan["caps"]
    if plan.get("no_new_privs"):
        process.set_no_new_privileges()
    process.limit_bounding_set(caps["bounding"])
    if plan.get("seccomp") and not plan.get("no_new_privs"):
        report.at("seccomp")  # takes CAP_SYS_ADMIN, which is about to go
        process.install_seccomp(plan["seccomp"])
    report.at("user", ids.uid)
    process.keep_capabilities(True)
    os.setgroups(ids.groups)
    os.setresgid(ids.gid, ids.gid, ids.gid)
    os.setresuid(ids.uid, ids.uid, ids.uid)
    report.at("capabilities")
    _, held, _ = process.get_capabilities()  # a host may withhold some: as much as there is
    process.set_capabilities(*(caps[name] & held for name in ("effective", "permitted", "inheritable")))
    process.keep_capabilities(False)
    process.set_ambient(caps["ambient"] & held)
    process.set_parent_death_signal(process.SIGKILL)  # the change of user cleared it


def _start_below_init(plan: Plan, shown: Title) -> None:
    """Fork; the child goes on to execve, this process stays as the container's reaper."""
    child = os.fork()
    if child == 0:
        reaper.prepare_child(plan["tty"])
        return
    process.close_between(_CHANNEL, 0xFFFFFFFF)
    shown.show(b"docker-init", b"\0".join([b"/sbin/docker-init", b"--", *map(os.fsencode, plan["args"])]))
    reaper.serve(child)


def write_file(path: str, data: bytes, dirfd: int | None = None) -> None:
    """Write a kernel file in one call, with errors seen (an implicit close would hide them)."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
