"""From a bundle's configuration to a launch plan: what the first process (or an exec's) will do, step by step.

A plan has the keys of :mod:`sampan.runtime.launch`'s where the steps are the same (:mod:`sampan.runtime.steps`).
Everything is decided here; what carries it out has no policy.
"""

from __future__ import annotations

import errno
import os

from sampan.errors import InvalidParameter, SystemFailure, Unsupported
from sampan.kernel import mounts, namespaces
from sampan.runtime import capabilities
from sampan.runtime.oci import options
from sampan.runtime.oci.spec import CAPABILITY_SETS, PERSONALITIES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.oci.spec import Mount, Process, Spec

    Plan = dict[str, Any]

CLONE = {
    "pid": namespaces.CLONE_NEWPID,
    "network": namespaces.CLONE_NEWNET,
    "mount": namespaces.CLONE_NEWNS,
    "ipc": namespaces.CLONE_NEWIPC,
    "uts": namespaces.CLONE_NEWUTS,
    "user": namespaces.CLONE_NEWUSER,
    "cgroup": namespaces.CLONE_NEWCGROUP,
    "time": namespaces.CLONE_NEWTIME,
}
# Names in /proc/<pid>/ns.
NS_FILES = {"network": "net", "mount": "mnt"}
_PROPAGATION = {
    "private": mounts.MS_PRIVATE,
    "shared": mounts.MS_SHARED,
    "slave": mounts.MS_SLAVE,
    "unbindable": mounts.MS_UNBINDABLE,
}
_APPARMOR = "/sys/module/apparmor/parameters/enabled"


def of_container(spec: Spec, identifier: str, bundle: str, warnings: list[str]) -> Plan:
    """The plan of a container's first process. ``warnings`` gets what is left out on the spec's own terms.

    Raises InvalidParameter, Unsupported, SystemFailure.
    """
    spaces = spec.linux.namespaces
    new = [kind for kind, found in spaces.items() if not found.path]
    joined = [(found.path, kind) for kind, found in spaces.items() if found.path]
    for path, kind in joined:
        check_namespace(path, kind)
    plan: Plan = {
        "kind": "container",
        "id": identifier,
        "unshare": sum(CLONE[kind] for kind in new),
        "setns": [(path, CLONE[kind]) for path, kind in joined],
        "maps": (_map(spec.linux.uid_mappings), _map(spec.linux.gid_mappings)),
        "time_offsets": "".join(
            f"{clock} {secs} {nanos}\n" for clock, (secs, nanos) in spec.linux.time_offsets.items()
        ),
        "rootfs": _rootfs(spec, bundle),
        "readonly": spec.readonly,
        "propagation": _root_propagation(spec.linux.rootfs_propagation),
        "mounts": [_mount(entry, bundle, spec) for entry in spec.mounts],
        "devices": spec.linux.devices,
        "masked": spec.linux.masked_paths,
        "readonly_paths": spec.linux.readonly_paths,
        "hostname": spec.hostname,
        "domainname": spec.domainname,
        "sysctl": spec.linux.sysctl,
        "loopback": "network" in new,
        "hooks": spec.hooks,
        **of_process(spec.process, spec, warnings),
    }
    return plan


def of_process(process: Process, spec: Spec, warnings: list[str]) -> Plan:
    """The part of a plan that an exec has too."""
    return {
        "strict": True,
        "tty": process.terminal,
        "console_size": list(process.console_size) if process.console_size else None,
        "cwd": process.cwd,
        "args": process.args,
        "env": process.env,
        "default_home": True,
        "user": {"uid": process.user.uid, "gid": process.user.gid, "groups": process.user.groups},
        "umask": process.user.umask,
        "rlimits": [(limit.number, limit.soft, limit.hard) for limit in process.rlimits],
        "oom_score_adj": process.oom_score_adj,
        "no_new_privs": process.no_new_privileges,
        "caps": _capabilities(process.capabilities or {}, warnings),
        "apparmor": _apparmor(process.apparmor),
        "personality": PERSONALITIES.get(spec.linux.personality),
        "scheduler": process.scheduler,
        "io_priority": process.io_priority,
        "first_cpus": cpu_list(process.first_cpus, "process.execCPUAffinity.initial"),
        "final_cpus": cpu_list(process.final_cpus, "process.execCPUAffinity.final"),
        **_seccomp(spec.linux.seccomp),
    }


def check_namespace(path: str, kind: str) -> None:
    """A path of ``linux.namespaces`` must be a namespace of its type. InvalidParameter."""
    import fcntl

    get_type = 0xB703  # NS_GET_NSTYPE, ioctl_ns(2)
    where = f"linux.namespaces: {path!r}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidParameter(f"{where}: {os.strerror(error.errno or 0).lower()}") from error
    try:
        found = fcntl.ioctl(fd, get_type)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        found = 0
    finally:
        os.close(fd)
    if found != CLONE[kind]:
        raise InvalidParameter(f"{where} isn't a namespace of type {kind}")


def _map(mappings: list[Any]) -> str:
    return "".join(f"{entry.container} {entry.host} {entry.size}\n" for entry in mappings)


def _rootfs(spec: Spec, bundle: str) -> str:
    path = os.path.join(bundle, spec.root)
    if not os.path.isdir(path):
        raise InvalidParameter(f"root.path: {path} doesn't exist or isn't a directory")
    return os.path.realpath(path)


def _root_propagation(name: str) -> int:
    """MS_* flags; without a choice a slave of the host's mounts, as other runtimes have it."""
    if not name:
        return mounts.MS_SLAVE | mounts.MS_REC
    recursive = mounts.MS_REC if name not in _PROPAGATION else 0
    return _PROPAGATION[name.removeprefix("r") if recursive else name] | recursive


class MountStep:
    """A mount with its options taken apart; ``maps`` are an id-mapped mount's own uid and gid maps."""

    __slots__ = ("destination", "kind", "maps", "options", "source")

    def __init__(self, kind: str, source: str, destination: str, found: options.Options) -> None:
        self.kind = kind
        self.source = source
        self.destination = destination
        self.options = found
        self.maps: tuple[str, str] | None = None


def _mount(entry: Mount, bundle: str, spec: Spec) -> MountStep:
    found = options.Options(entry.options)
    kind = entry.kind
    if kind in ("bind", "rbind"):
        # The type alone says it as well, as runc takes it.
        found.flags |= mounts.MS_BIND | (mounts.MS_REC if kind == "rbind" else 0)
    options.check(entry.path, kind, found)
    if not kind and not found.bind and not found.flags & mounts.MS_REMOUNT:
        raise InvalidParameter(f"{entry.path}.type: this field is required")
    source = entry.source
    if found.bind:
        if not source:
            raise InvalidParameter(f"{entry.path}.source: a bind mount needs it")
        source = os.path.join(bundle, source)
    step = MountStep(kind, source, entry.destination, found)
    if entry.uid_mappings or found.idmap:
        step.maps = _mount_maps(entry, found, spec)
    return step


def _mount_maps(entry: Mount, found: options.Options, spec: Spec) -> tuple[str, str]:
    if not found.bind:
        raise InvalidParameter(f"{entry.path}.uidMappings: only bind mounts can have id mappings")
    if entry.uid_mappings:
        return _map(entry.uid_mappings), _map(entry.gid_mappings)
    if not spec.linux.uid_mappings:
        raise InvalidParameter(
            f"{entry.path}.options: idmap needs uidMappings and gidMappings, or a user namespace with them"
        )
    return _map(spec.linux.uid_mappings), _map(spec.linux.gid_mappings)


def _capabilities(wanted: dict[str, list[str]], warnings: list[str]) -> dict[str, int]:
    """Bit sets. What nobody can be given is left out with a warning (config.md, Linux Process)."""
    usable = capabilities.available()
    found: dict[str, int] = {}
    for name in CAPABILITY_SETS:
        bits = 0
        for capability in wanted.get(name, ()):
            bit = capabilities.mask([capability]) if capability in capabilities.NAMES else 0
            if not bit & usable:
                text = f"process.capabilities.{name}: {capability} can't be granted and is left out"
                warnings.append(text)
            bits |= bit & usable
        found[name] = bits
    # An ambient capability has to be permitted and inheritable, capabilities(7).
    if found["ambient"] & ~(found["permitted"] & found["inheritable"]):
        raise InvalidParameter(
            "process.capabilities.ambient: all of it must be permitted and inheritable too"
        )
    return found


def _apparmor(profile: str) -> str | None:
    if not profile or profile == "unconfined":
        return None
    try:
        with open(_APPARMOR, encoding="ascii") as file:
            enabled = file.read().strip() == "Y"
    except OSError:
        enabled = False
    if not enabled:
        raise SystemFailure("process.apparmorProfile: apparmor is not supported by this kernel or disabled")
    return profile


def _seccomp(section: dict[str, Any] | None) -> Plan:
    """The compiled program with the flags that seccomp(2) takes."""
    if not section:
        return {}
    from sampan.kernel import archcalls
    from sampan.runtime import filters

    flags = 0
    for name in section.get("flags") or ():
        if name not in archcalls.SECCOMP_FLAGS:
            raise Unsupported(f"linux.seccomp.flags: {name} isn't supported")
        flags |= archcalls.SECCOMP_FLAGS[name]
    if "defaultAction" not in section:
        raise InvalidParameter("linux.seccomp.defaultAction: this field is required")
    return {"seccomp": filters.compile_section(section), "seccomp_flags": flags}


def cpu_list(text: str, field: str) -> set[int]:
    """``0-3,7`` as numbers; empty for "". InvalidParameter naming ``field``."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidParameter(f"{field}: {text!r} isn't a list of CPUs such as 0-3,7")
        found.update(range(int(first), int(last or first) + 1))
    return found
