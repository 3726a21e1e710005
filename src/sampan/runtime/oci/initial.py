"""What the container's first process, or an exec's, does until execve(2).

It talks to the command that made it over a packet socket: ``("prepared",)`` when namespaces and mounts exist,
then it waits for ``("go",)`` while hooks run; ``("terminal",)`` with the pty master; ``("created",)``. Then it
waits for a connection to its start socket, which gets ``("failed", step, errno, detail, text)`` or, once
execve(2) has closed it, its end. An exec doesn't wait; its channel ends with execve.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys

from sampan.kernel import archcalls, loopback, process, pty
from sampan.runtime import program, rootfs, steps, wire
from sampan.runtime.oci import hooks, mounting, stage, trees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from sampan.runtime.identity import Identity
    from sampan.runtime.oci.stage import Tools

    Plan = dict[str, Any]

_STDIO = 3


def run_container(plan: Plan, channel: _socket.socket, tools: Tools) -> NoReturn:
    """Become the container's first process; never returns."""
    report = steps.Report(channel)
    try:
        report.at("prepare")
        root = _set_up(plan, report, tools)
        wire.send(channel, ("prepared",))
        _wait_for_go(channel)
        report.at("hook")
        hooks.run_all("createContainer", plan["hooks"]["createContainer"], _state(plan, "creating"))
        _enter(root, plan, channel, report)
        steps.set_names(plan, tools, report)
        _ready(plan, tools, report, channel)
    except BaseException as error:
        report.fail(error)


def run_exec(plan: Plan, channel: _socket.socket, tools: Tools) -> NoReturn:
    """Become a further process of a container; never returns."""
    report = steps.Report(channel)
    try:
        report.at("prepare")
        _forget_imports()
        _lead_session(plan, report, keyring=False)
        tools.open_own(plan)
        wire.send(channel, ("prepared",))
        _wait_for_go(channel)
        if plan["tty"]:
            _exec_terminal(plan, channel, report)
        _set_limits(plan, tools, report)
        _close_all_but(plan, [channel.fileno()])
        _become(plan, report)
        path, environment = _program(plan, report)
        _execute(path, plan, environment, report)
    except BaseException as error:
        report.fail(error)


def _set_up(plan: Plan, report: steps.Report, tools: Tools) -> int:
    _forget_imports()
    _lead_session(plan, report, keyring=not plan["no_keyring"])
    tools.open_own(plan)
    if plan["loopback"]:
        report.at("network", "lo")
        loopback.bring_up()
    taken = plan["trees"] or trees.take(plan, report.at)
    root = mounting.assemble(plan, taken, report.at)
    report.at("make cwd", plan["cwd"])
    program.make_working_directory(root, plan["cwd"])
    return root


def _forget_imports() -> None:
    """No import may reach a file any more: after a change of root that would be the container's file."""
    sys.path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()
    sys.meta_path[:] = [finder for finder in sys.meta_path if finder.__name__ != "PathFinder"]  # type: ignore[attr-defined]


def _lead_session(plan: Plan, report: steps.Report, *, keyring: bool) -> None:
    process.set_dumpable(False)  # others in a shared PID namespace must not see our descriptors
    steps.reset_signals()
    process.leave_session()
    if keyring:
        report.at("session keyring")
        try:
            archcalls.join_session_keyring(f"_ses.{plan['id']}")
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):  # the kernel has none, or hides it from us
                raise


def _wait_for_go(channel: _socket.socket) -> None:
    message, _ = wire.receive(channel)
    if message != ("go",):
        os._exit(steps.FAILED)  # the command is gone or has given up


def _enter(root: int, plan: Plan, channel: _socket.socket, report: steps.Report) -> None:
    """Terminal, hidden paths, change of root."""
    slave = -1
    if plan["tty"]:
        report.at("terminal")
        master, slave = rootfs.open_console(root)
        _hand_over(channel, master)
    rootfs.restrict(root, plan, report.at)
    report.at("pivot_root")
    if plan["no_pivot"]:
        mounting.enter_by_chroot(root, plan)
    else:
        rootfs.enter(root, plan)
    os.close(root)
    if slave >= 0:
        steps.use_terminal(slave, plan["console_size"])


def _hand_over(channel: _socket.socket, master: int) -> None:
    os.set_blocking(master, True)
    wire.send(channel, ("terminal",), [master])
    os.close(master)


def _exec_terminal(plan: Plan, channel: _socket.socket, report: steps.Report) -> None:
    report.at("terminal")
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    master, slave, _ = pty.open_pair(root)
    os.close(root)
    _hand_over(channel, master)
    steps.use_terminal(slave, plan["console_size"])


def _ready(plan: Plan, tools: Tools, report: steps.Report, channel: _socket.socket) -> NoReturn:
    """All but the program: say so, wait for ``start``, go."""
    _set_limits(plan, tools, report)
    listener: _socket.socket = plan["listener"]
    _close_all_but(plan, [channel.fileno(), listener.fileno()])
    _become(plan, report)
    path, environment = _program(plan, report)
    wire.send(channel, ("created",))
    channel.close()
    report.channel = _accept(listener)
    listener.close()
    _wait_for_go(report.channel)
    report.at("hook")
    hooks.run_all("startContainer", plan["hooks"]["startContainer"], _state(plan, "created"))
    _execute(path, plan, environment, report)


def _execute(path: str, plan: Plan, environment: dict[str, str], report: steps.Report) -> NoReturn:
    """The filter last: from then on only execve(2) is called, or a message sent that it failed."""
    if plan["no_new_privs"] and plan.get("seccomp"):
        report.at("seccomp")
        steps.install_seccomp(plan)
    report.at("exec", path)
    os.execve(path, plan["args"], environment)


def _accept(listener: _socket.socket) -> _socket.socket:
    fd, _ = listener._accept()  # type: ignore[attr-defined]
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)


def _set_limits(plan: Plan, tools: Tools, report: steps.Report) -> None:
    """What needs the host's /proc or more rights than the user has."""
    if plan["scheduler"] is not None and plan["scheduler"].reset_on_fork:
        report.at("scheduler")
        stage.set_scheduler(plan)
    if plan["personality"] is not None:
        report.at("personality")
        process.set_personality(plan["personality"])
    if plan["final_cpus"]:
        report.at("CPU affinity")
        os.sched_setaffinity(0, plan["final_cpus"])
    steps.set_limits({"apparmor": plan["apparmor"]}, tools, report)


def _become(plan: Plan, report: steps.Report) -> None:
    """The user with its rights, in its working directory."""
    ids = steps.identify(plan, report)
    plan["identity"] = ids
    os.umask(plan["caller_umask"] if plan["umask"] is None else plan["umask"])
    report.at("chdir", plan["cwd"])
    arrived = program.change_directory(plan["cwd"], later=ids.uid != 0)
    report.at("privileges")
    steps.own_stdio(ids)
    plan["keep_groups"] = _keep_groups(plan, ids)
    steps.drop_privileges(plan, ids, report)
    if not arrived:
        report.at("chdir", plan["cwd"])
        program.change_directory(plan["cwd"], later=False)


def _keep_groups(plan: Plan, ids: Identity) -> bool:
    if not plan["no_setgroups"]:
        return False
    if ids.groups:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), "additional groups in this user namespace")
    return True


def _program(plan: Plan, report: steps.Report) -> tuple[str, dict[str, str]]:
    environment = steps.environment_of(plan, plan["identity"])
    report.at("program", plan["args"][0])
    return program.find(plan["args"][0], environment), environment


def _close_all_but(plan: Plan, kept: list[int]) -> None:
    """Close our own descriptors; stdio, those to be preserved and ``kept`` stay, the latter until execve."""
    first = _STDIO + plan["preserve_fds"]
    process.close_on_exec_from(first)
    for fd in sorted(kept):
        process.close_between(first, fd - 1)
        first = fd + 1
    process.close_between(first, 0xFFFFFFFF)


def _state(plan: Plan, status: str) -> dict[str, Any]:
    """The state for a hook in the container: the pid is the one that the container sees (runtime.md, State)."""
    return {**plan["state"], "status": status, "pid": os.getpid()}
