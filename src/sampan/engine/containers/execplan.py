"""The plan of one more process in a running container."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sampan import errors
from sampan.engine import threads
from sampan.engine.containers import checks, launchspec, nulls
from sampan.engine.containers.context import Containers, Live
from sampan.engine.containers.merge import replace_env
from sampan.engine.containers.record import Container
from sampan.runtime import directly, entering, identity
from sampan.runtime.config import ExecConfig

if TYPE_CHECKING:
    from sampan.engine.exec import Exec


_LOOKUP = 1.0  # seconds; the container's files may be on a server that is down


async def program(container: Container, plan: dict[str, Any]) -> bytes | None:
    """How the container's monitor may carry out ``plan`` by itself; None if somebody else must."""
    name, groups = plan["user"]["name"], plan["user"]["groups"]
    try:
        ids = await threads.soon(lambda: _whom(container, name, groups), _LOOKUP)
    except (OSError, identity.IdentityError):
        return None  # who starts it finds out, too, and has words for it
    return directly.program(plan, ids) if ids is not None else None


def _whom(container: Container, name: str, groups: Sequence[str | int] = ()) -> identity.Identity:
    root = os.open(f"/proc/{container.state.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return identity.resolve(name, groups, root)
    finally:
        os.close(root)


def check(containers: Containers, container: Container, config: ExecConfig) -> None:
    """What is refused when the exec is made: a user that the container doesn't have (400)."""
    checks.check_environment(config.env)
    nulls.refuse(config)
    if not config.user:
        return
    try:
        _whom(container, config.user)
    except identity.IdentityError as problem:
        raise errors.InvalidParameter(str(problem)) from None
    except OSError:
        return


def build(
    containers: Containers,
    container: Container,
    live: Live,
    exec_: Exec,
    size: Sequence[int] | None,
    *,
    attached: bool,
) -> dict[str, Any]:
    """The plan: the container's rights and environment, the exec's own user, directory and variables."""
    config, host = exec_.config, container.host
    cgroup = live.cgroup or launchspec.open_cgroup(containers, container)
    environment = [entry for entry in launchspec.environment(container) if not entry.startswith("TERM=")]
    if config.tty:
        environment.append("TERM=xterm")
    return {
        "kind": "exec",
        "id": exec_.id,
        "join": cgroup.join,
        "nsflags": entering.namespaces_of(container.state.pid),
        "cwd": config.working_dir or container.config.working_dir or "/",
        "args": list(config.cmd or ()),
        "env": replace_env(environment, config.env),
        "user": {
            "name": config.user or container.config.user,
            "groups": list(host.group_add or ()),
        },
        "rlimits": launchspec.rlimits(containers, host),
        "umask": 0o022,
        "default_home": True,
        "tty": config.tty,
        "console_size": list(size) if size and any(size) else None,
        "stdin": config.attach_stdin and attached,
        "stdin_once": True,
        "log": None,
        "bound": exec_.bound,
        **launchspec.rights(containers, host, exec_privileged=config.privileged),
    }
