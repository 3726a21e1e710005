"""A container's life: create, start, delete. runtime.md, Lifecycle; every step is undone when a later one fails."""

from __future__ import annotations

import os

from sampan import jsontext
from sampan.errors import Conflict, SampanError, SystemFailure
from sampan.kernel import namespaces, signals
from sampan.runtime import wire
from sampan.runtime.oci import bundle as bundles
from sampan.runtime.oci import cgroup, console, hooks, initial, making, plan, stage, store, trees, words
from sampan.runtime.oci.hooks import Hook
from sampan.runtime.oci.spec import HOOKS, Spec, hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from typing import Any

    from sampan.runtime.oci.cgroup import Group
    from sampan.runtime.oci.logs import Log
    from sampan.runtime.oci.making import Made
    from sampan.runtime.oci.store import Container

    Plan = dict[str, Any]

_STATE_MODE = 0o600


class Request:
    """What ``create`` and ``run`` were asked for beside the bundle's own configuration."""

    def __init__(self, root: str, identifier: str, bundle: str) -> None:
        self.root = root
        self.identifier = identifier
        self.bundle = os.path.abspath(bundle or ".")
        self.console_socket = ""
        self.pid_file = ""
        self.preserve_fds = 0
        self.no_pivot = False
        self.no_keyring = False
        self.detached = True
        self.rootless = False


def create(request: Request, log: Log) -> tuple[Container, Made]:
    """Make a container up to where it waits for :func:`start`; the terminal's master is in the second.

    Raises InvalidParameter, Unsupported, Conflict, SystemFailure, StartFailure; nothing is left behind then.
    """
    if not os.path.isdir(request.bundle):
        raise SystemFailure(f"chdir {request.bundle}: no such file or directory")
    store.check_id(request.identifier)
    spec = bundles.load(request.bundle)
    console.check(spec.process.terminal, request.detached, request.console_socket)
    warnings: list[str] = []
    made_plan = plan.of_container(spec, request.identifier, request.bundle, warnings)
    for text in [*warnings, *(f"{name}: ignored" for name in spec.linux.resources.ignored)]:
        log.warning(text)
    making.listen_fds(made_plan, request.preserve_fds)
    container = store.create(
        request.root,
        request.identifier,
        bundle=request.bundle,
        rootfs=made_plan["rootfs"],
        ociVersion=spec.version,
        annotations=spec.annotations,
        personal_pids=bool(made_plan["unshare"] & namespaces.CLONE_NEWPID),
    )
    try:
        return container, _create(container, spec, made_plan, request, log)
    except BaseException:
        _undo(container, spec, log)
        raise


def _create(container: Container, spec: Spec, wanted: Plan, request: Request, log: Log) -> Made:
    _keep_config(container, spec)
    group = _make_group(container, spec, request, log)
    listener = _complete(wanted, container, group, request)
    made = making.fork(wanted, stage.Tools(), initial.run_container)
    listener.close()
    with making.completing(made):
        container.save(pid=made.pid, pid_start=store.start_time(made.pid))
        group.limit_pids(spec.linux.resources)
        for kind in ("prestart", "createRuntime"):
            hooks.run_all(kind, spec.hooks[kind], container.state("creating"))
        making.proceed(made, wanted, "created", request.console_socket)
        if request.pid_file:
            making.write_pid_file(request.pid_file, made.pid)
    return made


def _keep_config(container: Container, spec: Spec) -> None:
    """Later changes of the bundle's file have no effect (runtime.md, Create)."""
    path = os.path.join(container.directory, store.CONFIG)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _STATE_MODE)
    try:
        os.write(fd, jsontext.dumps(spec.raw, escape=False).encode())
    finally:
        os.close(fd)


def _make_group(container: Container, spec: Spec, request: Request, log: Log) -> Group:
    """The control groups with their limits. Without rights a rootless container that wants none has none."""
    path = cgroup.clean_path(spec.linux.cgroups_path, container.id)
    limits = spec.linux.resources
    try:
        group = cgroup.Group.create(path)
    except OSError as error:
        if not (request.rootless and cgroup.is_denied(error)) or limits.limited():
            reason = os.strerror(error.errno or 0).lower()
            raise SystemFailure(f"unable to make cgroup {path}: {reason} ({error.filename})") from error
        log.warning(f"no cgroup for {container.id}: {os.strerror(error.errno or 0).lower()}")
        return cgroup.Group({})
    container.save(cgroups=group.directories, cgroups_made=group.made)
    group.limit(limits)
    try:
        group.restrict_devices(limits.devices)
    except OSError as error:
        if not request.rootless:
            reason = os.strerror(error.errno or 0).lower()
            raise SystemFailure(f"linux.resources.devices: {reason} ({error.filename or error})") from error
        log.warning("device rules need more rights than a rootless runtime has; the kernel's own apply")
    return group


def _complete(wanted: Plan, container: Container, group: Group, request: Request) -> _socket.socket:
    """What a plan needs of this process and machine; the socket on which the container waits for its start."""
    mask = os.umask(0o022)
    os.umask(mask)
    joined = sum(flag for _, flag in wanted["setns"])
    listener = console.listen(os.path.join(container.directory, store.SOCKET))
    wanted |= {
        "join": group.join_files(),
        "cgroups": group.directories,
        "in_userns": bool((wanted["unshare"] | joined) & namespaces.CLONE_NEWUSER),
        "rootless": request.rootless,
        "no_pivot": request.no_pivot,
        "no_keyring": request.no_keyring,
        "caller_umask": mask,
        "listener": listener,
        "state": {**container.state("creating"), "pid": 0},
        "trees": None,
    }
    if any(step.options.copy_up for step in wanted["mounts"]):
        import sampan.storage.tree  # noqa: F401 - the first process can't import any more
    if trees.may_take():
        wanted["trees"] = _take_trees(wanted)
    return listener


def _take_trees(wanted: Plan) -> trees.Trees:
    place: list[object] = ["", ""]

    def at(step: str, detail: object = "") -> None:
        place[:] = [step, detail]

    try:
        return trees.take(wanted, at)
    except OSError as error:
        text = str(error.filename or "")
        raise words.failure(str(place[0]), error.errno or 0, place[1], text) from error


def _undo(container: Container, spec: Spec, log: Log) -> None:
    """Take a container away that could not be made; poststop hooks run if others may have."""
    ran = container.pid > 0
    try:
        container.group.destroy()
    except (OSError, SampanError) as error:
        log.warning(f"cgroup of {container.id}: {error}")
    state = container.state("stopped")
    container.remove()
    if ran:
        _poststop(spec.hooks["poststop"], state, log)


# -- start ------------------------------------------------------------------------------------------------------


def start(container: Container) -> None:
    """Let a created container's program run. Conflict unless it is created, StartFailure when it can't."""
    status = container.status()
    if status == "stopped":
        raise Conflict("cannot start a container that has stopped")
    if status != "created":
        raise Conflict("cannot start an already running container")
    found = spec_hooks(container)
    _release(container)
    try:
        hooks.run_all("poststart", found["poststart"], container.state("running"))
    except hooks.HookFailed:
        kill_all(container, signals.SIGKILL)
        raise


def _release(container: Container) -> None:
    """The socket's name goes first: only one can start it, and what has no name isn't "created"."""
    path = os.path.join(container.directory, store.SOCKET)
    try:
        sock = console.connect(path, _seqpacket())
        os.unlink(path)
    except (FileNotFoundError, ConnectionRefusedError):
        raise Conflict("cannot start an already running container") from None
    try:
        wire.send(sock, ("go",))
        message, _ = wire.receive(sock)
    except (BrokenPipeError, ConnectionResetError):
        raise Conflict("cannot start a container that has stopped") from None
    finally:
        sock.close()
    if message:
        raise words.failure(*message[1:])


def _seqpacket() -> int:
    import _socket

    return int(_socket.SOCK_SEQPACKET)


def spec_hooks(container: Container) -> dict[str, list[Hook]]:
    """The hooks that the container was created with."""
    from sampan.runtime.oci.document import Node

    node = Node(container.config()).node("hooks")
    return {name: node.objects(name, hook) for name in HOOKS}


# -- end --------------------------------------------------------------------------------------------------------


def kill(container: Container, number: int, *, everyone: bool) -> None:
    """Send a signal to the first process or to all. Conflict in runc's words when nothing runs."""
    status = container.status()
    if status == "stopped" and not everyone:
        raise Conflict("container not running")
    # Without a PID namespace of its own the others would outlive the first.
    if everyone or (number == signals.SIGKILL and not container.fields["personal_pids"]):
        kill_all(container, number)
    else:
        _send(container, number)
    if number == signals.SIGKILL and container.fields["cgroups"] and container.group.frozen():
        container.group.thaw()  # v1's freezer holds back the signal


def kill_all(container: Container, number: int) -> None:
    """Send a signal to every process of the container."""
    if container.fields["cgroups"]:
        container.group.signal(number)
    elif container.alive():
        _send(container, number)


def _send(container: Container, number: int) -> None:
    try:
        pidfd = os.pidfd_open(container.pid)
    except ProcessLookupError:
        raise Conflict("container not running") from None
    try:
        if not container.alive():
            raise Conflict("container not running")
        signals.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def delete(container: Container, log: Log, *, force: bool) -> None:
    """Remove a container that isn't running; with ``force`` it is killed first."""
    status = container.status()
    if status in ("running", "paused", "creating") and not force:
        raise Conflict(
            f"cannot delete container {container.id} that is not stopped: {status}",
            hint="Stop it first (`kill`), or use --force.",
        )
    try:
        found = spec_hooks(container)["poststop"]
    except (OSError, SampanError):
        found = []  # its creation was cut short
    if container.alive():
        if container.fields["cgroups"] and container.group.frozen():
            container.group.thaw()
        _send_quietly(container)
        wait_end(container.pid)
    container.group.destroy()
    state = container.state("stopped")
    container.remove()
    _poststop(found, state, log)


def _send_quietly(container: Container) -> None:
    try:
        _send(container, signals.SIGKILL)
    except Conflict:
        return


def wait_end(pid: int, patience: float = 10.0) -> None:
    """Wait until a process has ended, at most ``patience`` seconds. SystemFailure."""
    import select

    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(patience * 1000):
            raise SystemFailure(f"process {pid} doesn't end")
    finally:
        os.close(pidfd)


def _poststop(found: list[Hook], state: dict[str, Any], log: Log) -> None:
    """Each is run; what fails is a warning (runtime.md, Lifecycle)."""
    for one in found:
        try:
            hooks.run_all("poststop", [one], state)
        except hooks.HookFailed as error:
            log.warning(str(error))
