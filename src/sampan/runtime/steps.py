"""Steps on the way from fork to execve that every container process takes, whoever started it.

Used by :mod:`sampan.runtime.launch` (below a monitor) and :mod:`sampan.runtime.oci` (below whoever called the
command line). Each carries out its part of a launch plan and decides nothing.
"""

from __future__ import annotations

import errno
import os
import resource

from sampan.kernel import archcalls, namespaces, process, pty, signals
from sampan.runtime import hooks, identity, program, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any, NoReturn

    Plan = dict[str, Any]

FAILED = 127
# What Python, zygote and monitor set; an ignored signal would stay ignored through execve.
CHANGED_SIGNALS = (
    signals.SIGPIPE,
    signals.SIGXFSZ,
    signals.SIGINT,
    signals.SIGHUP,
    signals.SIGCHLD,
    signals.SIGTERM,
)


_MOST_TEXT = 4096
# Errors whose text says it all.
_TOLD = OSError | hooks.HookFailed | identity.IdentityError | program.ProgramError


class Report:
    """Where we are, for the error message, and the way to say it."""

    def __init__(self, channel: _socket.socket) -> None:
        self.channel = channel
        self.step = ""
        self.detail: object = ""

    def at(self, step: str, detail: object = "") -> None:
        """From here on a failure is one of ``step``."""
        self.step = step
        self.detail = detail

    def fail(self, error: BaseException) -> NoReturn:
        """Send ``("failed", step, errno, detail, text)`` and end this process."""
        number = getattr(error, "errno", None) or 0
        text = str(error) if not isinstance(error, OSError) else str(error.filename or "")
        if not isinstance(error, _TOLD | ValueError):
            text = f"{type(error).__name__}: {text}"
        detail = tuple(map(_cut, self.detail)) if isinstance(self.detail, tuple) else _cut(self.detail)
        try:
            wire.send(self.channel, ("failed", self.step, number, detail, _cut(text)))
        finally:
            os._exit(FAILED)


def _cut(value: object) -> object:
    """As much of a text as fits into a message, whatever the user has given."""
    return value[:_MOST_TEXT] if isinstance(value, str) else value


def reset_signals() -> None:
    """Default actions and nothing blocked, for the program to come. signal(7)."""
    signals.set_wakeup_fd(-1)
    for number in CHANGED_SIGNALS:
        signals.signal(number, signals.SIG_DFL)
    signals.pthread_sigmask(signals.SIG_SETMASK, ())


class HostFiles:
    """Files of the host's /proc that are needed after the root has changed; an image can't fake these."""

    def __init__(self, plan: Plan, report: Report) -> None:
        report.at("proc")
        self.sysctl = self.oom = self.apparmor = -1
        if plan.get("sysctl"):
            self.sysctl = os.open("/proc/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if plan.get("oom_score_adj") is not None:
            self.oom = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        if plan.get("apparmor"):
            self.apparmor = os.open("/proc/self/attr/apparmor/exec", os.O_WRONLY | os.O_CLOEXEC)


def use_terminal(slave: int, size: list[int] | None) -> None:
    """Make ``slave`` the controlling terminal and 0, 1, 2; ``size`` is [rows, columns]."""
    if size and any(size):
        pty.set_size(slave, size[0], size[1])
    pty.make_controlling(slave)
    for number in range(3):
        os.dup2(slave, number, inheritable=True)
    os.close(slave)


def identify(plan: Plan, report: Report) -> identity.Identity:
    """Whom to run as; inside the container's root. Raises IdentityError."""
    report.at("user")
    user = plan["user"]
    if "name" in user:
        return identity.resolve(user["name"], user.get("groups", ()))
    home = identity.home_of(user["uid"]) if plan.get("default_home") else "/"
    return identity.Identity(user["uid"], user["gid"], list(user["groups"]), home)


def set_names(plan: Plan, tools: HostFiles, report: Report) -> None:
    """Host name, domain name, kernel parameters of the namespaces. OSError."""
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


def set_limits(plan: Plan, tools: HostFiles, report: Report) -> None:
    """Resource limits, OOM score (an error if withheld and the plan is "strict"), AppArmor profile."""
    for number, soft, hard in plan.get("rlimits", ()):
        report.at("rlimit", number)
        _set_limit(number, soft, hard)
    if tools.oom >= 0:
        report.at("oom_score_adj", plan["oom_score_adj"])
        _set_oom_score(tools.oom, plan["oom_score_adj"], strict=bool(plan.get("strict")))
    if tools.apparmor >= 0:
        report.at("apparmor", plan["apparmor"])
        os.write(tools.apparmor, f"exec {plan['apparmor']}".encode())


def _set_limit(number: int, soft: int, hard: int) -> None:
    """Refused (EPERM) are more open files than fs.nr_open, and more than there is without CAP_SYS_RESOURCE."""
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as error:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM)) from error


def _set_oom_score(fd: int, value: int, *, strict: bool) -> None:
    try:
        os.write(fd, str(value).encode())
    except PermissionError:
        if strict:
            raise
        return  # lowering it takes CAP_SYS_RESOURCE, which some hosts withhold: the container runs without


def environment_of(plan: Plan, ids: identity.Identity) -> dict[str, str]:
    """The plan's variables; with "default_home" HOME from the user's account."""
    environment = {}
    for entry in plan["env"]:
        name, equals, value = entry.partition("=")
        if name and equals:
            environment[name] = value
    if plan.get("default_home") and not environment.get("HOME"):
        environment["HOME"] = ids.home
    return environment


def own_stdio(ids: identity.Identity) -> None:
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


def drop_privileges(plan: Plan, ids: identity.Identity, report: Report) -> None:
    """Bounding set, seccomp (unless no_new_privs lets it wait), user, capabilities. capabilities(7).

    Clears the parent death signal.
    """
    caps = plan["caps"]
    if plan.get("no_new_privs"):
        process.set_no_new_privileges()
    process.limit_bounding_set(caps["bounding"])
    if plan.get("seccomp") and not plan.get("no_new_privs"):
        report.at("seccomp")  # takes CAP_SYS_ADMIN, which is about to go
        install_seccomp(plan)
    report.at("user", ids.uid)
    process.keep_capabilities(True)
    if not plan.get("keep_groups"):
        os.setgroups(ids.groups)
    os.setresgid(ids.gid, ids.gid, ids.gid)
    os.setresuid(ids.uid, ids.uid, ids.uid)
    report.at("capabilities")
    _, held, _ = process.get_capabilities()  # a host may withhold some: as much as there is
    process.set_capabilities(*(caps[name] & held for name in ("effective", "permitted", "inheritable")))
    process.keep_capabilities(False)
    process.set_ambient(caps["ambient"] & held)


def install_seccomp(plan: Plan) -> None:
    """The plan's seccomp program, with its "seccomp_flags". seccomp(2)."""
    flags = plan.get("seccomp_flags", 0)
    if flags:
        archcalls.install_seccomp(plan["seccomp"], flags)
    else:
        process.install_seccomp(plan["seccomp"])


def write_file(path: str, data: bytes, dirfd: int | None = None) -> None:
    """Write a kernel file in one call, with errors seen (an implicit close would hide them)."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=dirfd)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
