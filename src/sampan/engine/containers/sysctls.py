"""Kernel parameters of a container: those of its own namespaces, never the machine's."""

from __future__ import annotations

from sampan import errors
from sampan.runtime.config import HostConfig

_RUNC = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: "
)
_IPC = frozenset(
    (
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    )
)
_DEFAULTS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}


def of_container(host: HostConfig) -> dict[str, str]:
    """What is set when the container starts. SystemFailure, in runc's words, for what isn't its own."""
    found = dict(host.sysctls or {})
    for name in found:
        _check(name.replace("/", "."), name, host)
    if host.network_mode != "host" and not host.network_mode.startswith("container:"):
        found = {**_DEFAULTS, **found}
    return found


def _check(dotted: str, name: str, host: HostConfig) -> None:
    if dotted.startswith("net.") and ".." not in dotted:
        if host.network_mode == "host":
            raise errors.SystemFailure(f'{_RUNC}sysctl "{name}" not allowed in host network namespace')
    elif dotted in _IPC or (dotted.startswith("fs.mqueue.") and ".." not in dotted):
        if host.ipc_mode == "host":
            raise errors.SystemFailure(f'{_RUNC}sysctl "{name}" is not allowed in the hosts ipc namespace')
    elif dotted == "kernel.domainname":
        if host.uts_mode == "host":
            raise errors.SystemFailure(f'{_RUNC}sysctl "{name}" is not allowed in the hosts uts namespace')
    elif dotted == "kernel.hostname":
        raise errors.SystemFailure(
            f'{_RUNC}sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field'
        )
    else:
        raise errors.SystemFailure(f'{_RUNC}sysctl "{name}" is not in a separate kernel namespace')
