"""``create``, ``start``, ``run`` and ``exec``."""

from __future__ import annotations

import os

from sampan.errors import InvalidParameter, Unsupported
from sampan.runtime.oci import lifecycle, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.oci.context import Context
    from sampan.runtime.oci.foreground import Foreground


def one_id(rest: list[str], verb: str) -> str:
    """The only word: a container's id. InvalidParameter in runc's words."""
    if len(rest) != 1:
        raise InvalidParameter(f'sampan-runtime: "{verb}" requires exactly 1 argument(s)')
    return rest[0]


def _request(context: Context, options: dict[str, Any], identifier: str) -> lifecycle.Request:
    context.refuse_systemd()
    request = lifecycle.Request(context.root, identifier, options["bundle"])
    request.console_socket = options["console-socket"]
    request.pid_file = options["pid-file"]
    request.preserve_fds = options["preserve-fds"] or 0
    request.no_pivot = options["no-pivot"]
    request.no_keyring = options["no-new-keyring"]
    request.rootless = context.rootless
    return request


def create(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``create ID``."""
    lifecycle.create(_request(context, options, one_id(rest, "create")), context.log)
    return 0


def start(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``start ID``."""
    lifecycle.start(store.load(context.root, one_id(rest, "start")))
    return 0


def run(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``run ID``: the program's exit code, unless detached."""
    request = _request(context, options, one_id(rest, "run"))
    request.detached = options["detach"]
    served = None if request.detached else _foreground(subreaper=not options["no-subreaper"])
    container, made = lifecycle.create(request, context.log)
    keep = options["keep"] or request.detached
    try:
        lifecycle.start(container)
    except BaseException:
        lifecycle.delete(container, context.log, force=True)
        raise
    if served is None:
        return 0
    code = served.wait(made.pid, made.master)
    if not keep:
        lifecycle.delete(container, context.log, force=True)
    return code


def _foreground(*, subreaper: bool) -> Foreground:
    from sampan.runtime.oci.foreground import Foreground

    return Foreground(subreaper=subreaper)


def execute(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``exec ID COMMAND``: the program's exit code, unless detached."""
    from sampan.runtime.oci import execing

    if not rest or (len(rest) < 2 and not options["process"]):
        raise InvalidParameter('sampan-runtime: "exec" requires a container id and a command')
    if options["process-label"]:
        raise Unsupported("--process-label: SELinux labels aren't supported")
    container = store.load(context.root, rest[0])
    request = execing.Request(_process(options, rest[1:], container))
    request.console_socket = options["console-socket"]
    request.pid_file = options["pid-file"]
    request.preserve_fds = options["preserve-fds"] or 0
    request.detached = options["detach"]
    request.ignore_paused = options["ignore-paused"]
    request.cgroups = options["cgroup"]
    request.rootless = context.rootless
    served = None if request.detached else _foreground(subreaper=False)
    made = execing.execute(container, request, context.log)
    return 0 if served is None else served.wait(made.pid, made.master)


def _process(options: dict[str, Any], words: list[str], container: store.Container) -> dict[str, Any]:
    """The process object: from a file, or the container's own with what the options change."""
    if options["process"]:
        return _from_file(options["process"])
    process = dict(container.config().get("process") or {})
    process["args"] = words
    process["terminal"] = options["tty"]
    process.pop("execCPUAffinity", None)
    if options["cwd"]:
        process["cwd"] = options["cwd"]
    if options["apparmor"]:
        process["apparmorProfile"] = options["apparmor"]
    if options["no-new-privs"]:
        process["noNewPrivileges"] = True
    process["env"] = [*(process.get("env") or ()), *options["env"]]
    process["user"] = _user(options, dict(process.get("user") or {}))
    if options["cap"]:
        process["capabilities"] = _more(process.get("capabilities") or {}, options["cap"])
    return process


def _from_file(path: str) -> dict[str, Any]:
    from sampan.runtime.oci.bundle import parse

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        return parse(file.read(), path)


def _user(options: dict[str, Any], user: dict[str, Any]) -> dict[str, Any]:
    if options["user"]:
        uid, colon, gid = options["user"].partition(":")
        user["uid"] = _number(uid, "--user")
        if colon:
            user["gid"] = _number(gid, "--user")
    if options["additional-gids"]:
        words = ",".join(options["additional-gids"]).split(",")
        user["additionalGids"] = [_number(word, "--additional-gids") for word in words]
    return user


def _number(text: str, flag: str) -> int:
    if not text.isdecimal():
        raise InvalidParameter(f"{flag}: {text!r} isn't a number; names are for the caller to look up")
    return int(text)


def _more(present: dict[str, list[str]], names: list[str]) -> dict[str, list[str]]:
    """runc adds to every set but the ambient one, where an unprivileged user gets it too if inheritable."""
    upper = [name.upper() for name in names]
    added = [name if name.startswith("CAP_") else f"CAP_{name}" for name in upper]
    sets = ("bounding", "effective", "permitted")
    return {**present, **{kind: [*(present.get(kind) or ()), *added] for kind in sets}}
