"""A further process in a running container: exec."""

from __future__ import annotations

import os

from sampan.errors import Conflict, InvalidParameter, SystemFailure
from sampan.runtime.oci import console, initial, making, plan, stage
from sampan.runtime.oci.document import Node
from sampan.runtime.oci.spec import Process, Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.oci.logs import Log
    from sampan.runtime.oci.making import Made
    from sampan.runtime.oci.store import Container

    Plan = dict[str, Any]

_INHERITED = ("capabilities", "rlimits", "noNewPrivileges", "apparmorProfile", "oomScoreAdj")
_KINDS = ("user", "pid", "network", "ipc", "uts", "cgroup", "time", "mount")


class Request:
    """What ``exec`` was asked for; ``process`` is the whole of config.md's object."""

    def __init__(self, process: dict[str, Any]) -> None:
        self.process = process
        self.console_socket = ""
        self.pid_file = ""
        self.preserve_fds = 0
        self.detached = False
        self.ignore_paused = False
        self.rootless = False
        self.cgroups: list[str] = []


def execute(container: Container, request: Request, log: Log) -> Made:
    """Start the process; it runs when this returns. Conflict unless the container runs, StartFailure."""
    status = container.status()
    if status == "stopped":
        raise Conflict("cannot exec in a stopped container")
    if status == "paused" and not request.ignore_paused:
        raise Conflict("cannot exec in a paused container (use --ignore-paused to override)")
    config = container.config()
    found = Process(Node(_complete_process(request.process, config["process"]), "process"))
    console.check(found.terminal, request.detached, request.console_socket)
    spec = Spec(config)
    warnings: list[str] = []
    wanted = plan.of_process(found, spec, warnings)
    for text in warnings:
        log.warning(text)
    making.listen_fds(wanted, request.preserve_fds)
    _complete(wanted, container, request)
    made = making.fork(wanted, stage.Tools(), initial.run_exec)
    os.close(wanted["target"])
    with making.completing(made):
        making.proceed(made, wanted, "", request.console_socket)
        if request.pid_file:
            making.write_pid_file(request.pid_file, made.pid)
    return made


def _complete_process(asked: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Rights and limits that aren't given are the container's own."""
    kept = {name: own[name] for name in _INHERITED if own.get(name) is not None}
    return kept | {name: value for name, value in asked.items() if value is not None}


def _complete(wanted: Plan, container: Container, request: Request) -> None:
    mask = os.umask(0o022)
    os.umask(mask)
    try:
        target = os.pidfd_open(container.pid)
    except ProcessLookupError:
        raise Conflict("cannot exec in a stopped container") from None
    flags = _other_namespaces(container.pid)
    wanted |= {
        "kind": "exec",
        "id": container.id,
        "target": target,
        "nsflags": flags,
        "unshare": 0,
        "in_userns": bool(flags & plan.CLONE["user"]),
        "join": _join_files(container, request),
        "join_instead": _own_group(container),
        "rootless": request.rootless,
        "caller_umask": mask,
    }


def _other_namespaces(pid: int) -> int:
    """CLONE_NEW* of the namespaces that the process doesn't share with us."""
    flags = 0
    for kind in _KINDS:
        name = plan.NS_FILES.get(kind, kind)
        try:
            theirs = os.stat(f"/proc/{pid}/ns/{name}").st_ino
            if theirs != os.stat(f"/proc/self/ns/{name}").st_ino:
                flags |= plan.CLONE[kind]
        except FileNotFoundError:
            continue  # a kind that this kernel doesn't have
    return flags


def _join_files(container: Container, request: Request) -> list[str]:
    """The groups to enter: the container's, or below it those of ``--cgroup [CONTROLLERS:]PATH``."""
    group = container.group
    if not request.cgroups or not group.directories:
        return group.join_files()
    paths = dict.fromkeys(group.directories, "")
    for entry in request.cgroups:
        kinds, colon, path = entry.rpartition(":")
        for kind in kinds.split(",") if colon else list(paths):
            if kind not in paths:
                raise InvalidParameter(f"--cgroup {entry}: there is no controller {kind}")
            paths[kind] = os.path.normpath("/" + path)
    name = "cgroup.procs" if group.v2 else "tasks"
    found = {f"{group.directories[kind]}{path.rstrip('/')}/{name}": None for kind, path in paths.items()}
    for file in found:
        if not os.path.exists(file):
            raise SystemFailure(f"--cgroup: {os.path.dirname(file)} doesn't exist")
    return list(found)


def _own_group(container: Container) -> str:
    """v2: the group that the container's first process is in by now."""
    if not container.group.v2:
        return ""
    with open(f"/proc/{container.pid}/cgroup", encoding="utf-8") as file:
        path = file.read().strip().rpartition("::")[2]
    return f"/sys/fs/cgroup{path}/cgroup.procs"
