"""What a container's record means for the launch: namespaces, mounts, devices, rights, limits as a plan.

The plan's form is described in ``runtime/supervisor.py`` and carried out by ``runtime/launch.py``, which
decides nothing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sampan import errors
from sampan.engine.containers import apparmor, launchmounts, logdriver, signals, sysctls
from sampan.engine.containers.cgroups import Cgroup
from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container
from sampan.kernel import namespaces
from sampan.kernel.bpf import DeviceRule
from sampan.runtime import capabilities, devices, seccomp
from sampan.runtime.cgroups.devicerules import EVERYTHING
from sampan.runtime.config import RLIMITS, ContainerConfig, HostConfig

if TYPE_CHECKING:
    from sampan.engine.containers.devicerequests import Granted

Plan = dict[str, Any]
DEFAULT_PARENT = "sampan"
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SECCOMP = seccomp.SeccompCache()


def cgroup_parent(containers: Containers, container: Container) -> str:
    """Below which group the container's is made."""
    return os.path.normpath(
        "/" + (container.host.cgroup_parent or containers.config.cgroup_parent or "sampan")
    )


def make_cgroup(containers: Containers, container: Container, granted: Granted | None = None) -> Cgroup:
    """Make the groups with the container's limits and rules for its and ``granted`` devices. SystemFailure."""
    group = Cgroup.create(cgroup_parent(containers, container), container.id, container.host)
    try:
        rules = device_rules(container.host)
        group.restrict_devices(rules + granted.rules if granted else rules)
    except OSError as problem:
        group.destroy()
        raise errors.SystemFailure(f"device cgroup rules: {problem}") from problem
    return group


def device_rules(host: HostConfig) -> list[DeviceRule]:
    """What the container may do with devices; the last rule that matches decides."""
    if host.privileged:
        return [EVERYTHING]
    rules = [*devices.default_rules(), *map(_asked_rule, host.device_cgroup_rules or ())]
    for mapping in host.devices or ():
        access = mapping.cgroup_permissions or "rwm"
        for device in devices.expand(mapping.path_on_host, mapping.path_in_container or mapping.path_on_host):
            rules.append(DeviceRule(True, device.kind, device.major, device.minor, access))
    return rules


def _asked_rule(text: str) -> DeviceRule:
    """``--device-cgroup-rule``; one about all devices is about every access too, as v1's kernel has it."""
    rule = devices.parse_rule(text)
    return EVERYTHING if rule.kind == "a" and rule.major is None else rule


def cgroup_token(containers: Containers, container: Container) -> str:
    """What a clean-up job needs to find the group again."""
    return f"{cgroup_parent(containers, container)}\n{container.id}"


def destroy_cgroup(token: str) -> None:
    """The clean-up job. OSError when a process doesn't end."""
    parent, _, name = token.partition("\n")
    Cgroup(parent, name).destroy()


def open_cgroup(containers: Containers, container: Container) -> Cgroup:
    """The group of a container that was started before."""
    return Cgroup(cgroup_parent(containers, container), container.id)


def joined_namespaces(containers: Containers, container: Container) -> list[list[Any]]:
    """``[path, flag]`` of the namespaces of other containers. Raises in Docker's words."""
    host, found = container.host, []
    for mode, kind, flag in (
        (host.ipc_mode, "ipc", namespaces.CLONE_NEWIPC),
        (host.pid_mode, "pid", namespaces.CLONE_NEWPID),
        (host.network_mode, "net", namespaces.CLONE_NEWNET),
    ):
        if mode.startswith("container:"):
            donor = _donor(containers, mode.removeprefix("container:"), kind)
            found.append([f"/proc/{donor.state.pid}/ns/{kind}", flag])
    return found


def _donor(containers: Containers, reference: str, kind: str) -> Container:
    words = {"ipc": "IPC", "pid": "PID", "net": "network"}[kind]
    try:
        donor = containers.get(reference)
    except errors.NotFound as missing:
        if kind == "net":
            text = f"joining network namespace of container: {missing.message}"
            raise errors.SystemFailure(text) from None
        raise errors.SystemFailure(f"failed to join {words} namespace: {missing.message}") from None
    if not donor.running:
        text = f"cannot join {words} namespace of a non running container: container {donor.name} is "
        raise errors.Conflict(text + donor.state.status)
    if kind == "ipc" and donor.host.ipc_mode not in ("shareable", "host"):
        raise errors.InvalidParameter(
            f"failed to join IPC namespace: container {donor.id}: non-shareable IPC "
            "(hint: use IpcMode:shareable for the donor container)"
        )
    return donor


def unshared(host: HostConfig) -> int:
    """CLONE_NEW* flags of the namespaces that the container gets for itself."""
    flags = namespaces.CLONE_NEWNS
    if not (host.pid_mode == "host" or host.pid_mode.startswith("container:")):
        flags |= namespaces.CLONE_NEWPID
    if not (host.ipc_mode == "host" or host.ipc_mode.startswith("container:")):
        flags |= namespaces.CLONE_NEWIPC
    if host.uts_mode != "host":
        flags |= namespaces.CLONE_NEWUTS
    if not (host.network_mode == "host" or host.network_mode.startswith("container:")):
        flags |= namespaces.CLONE_NEWNET
    if host.cgroupns_mode != "host":
        flags |= namespaces.CLONE_NEWCGROUP
    return flags


def build(
    containers: Containers,
    container: Container,
    cgroup: Cgroup,
    joined: list[list[Any]],
    rootfs: list[Any] | None = None,
    granted: Granted | None = None,
) -> tuple[Plan, Plan]:
    """What an exec is planned from, and the plan of the first process: the same but for ``granted`` devices.

    ``rootfs`` in the plan's form replaces the container's own layers.
    """
    config, host, state = container.config, container.host, containers.state_dir(container.id)
    if rootfs is None:
        lowers = [str(path) for path in containers.lowers(container)]
        rootfs = ["overlay", lowers, str(state / "upper"), str(state / "work")]
    plan: Plan = {
        "kind": "container",
        "id": container.id,
        "join": cgroup.join,
        "unshare": unshared(host),
        "setns": joined,
        "rootfs": rootfs,
        "readonly": host.readonly_rootfs,
        "hostname": None if host.uts_mode == "host" else config.hostname or container.short_id,
        "domainname": config.domainname or None,
        "sysctl": sysctls.of_container(host),
        "log": logdriver.plan(container, containers.log_path(container.id)),
        "oom": cgroup.oom_files(),
        **_machine_stop(config),
        "state_dir": str(state),
        "run_dir": str(containers.run_dir(container.id)),
        **_process(containers, container),
        **rights(containers, host),
    }
    plan |= launchmounts.plan(containers, container, cgroup.path)
    if granted is None:
        return plan, plan
    first = dict(plan)
    granted.add_to(first, state)
    return plan, first


def _process(containers: Containers, container: Container) -> Plan:
    """The first process: what it runs, as whom, where, with which terminal or pipes."""
    config, host = container.config, container.host
    return {
        "args": [container.path, *container.args],
        "env": environment(container),
        "cwd": config.working_dir or "/",
        "make_cwd": True,
        "user": {"name": config.user, "groups": list(host.group_add or ())},
        "default_home": True,
        "tty": config.tty,
        "console_size": list(host.console_size) if any(host.console_size) else None,
        "stdin": config.open_stdin,
        "stdin_once": config.stdin_once,
        "init": bool(host.init if host.init is not None else containers.config.init),
        "rlimits": rlimits(containers, host),
        "oom_score_adj": host.oom_score_adj or None,
        "umask": 0o022,
    }


def environment(container: Container) -> list[str]:
    """PATH and the like first, then what the user said, as Docker orders them."""
    config = container.config
    names = {entry.partition("=")[0] for entry in config.env or ()}
    base = [] if "PATH" in names else [DEFAULT_PATH]
    if "HOSTNAME" not in names:
        base.append(f"HOSTNAME={config.hostname or container.short_id}")
    if config.tty and "TERM" not in names:
        base.append("TERM=xterm")
    # A name without a value takes the variable away.
    return base + [entry for entry in config.env or () if "=" in entry]


def rlimits(containers: Containers, host: HostConfig) -> list[list[int]]:
    """``[number, soft, hard]``: the engine's defaults, then the container's own."""
    wanted = {name: (limit.soft, limit.hard) for name, limit in containers.config.default_ulimits.items()}
    wanted |= {limit.name: (limit.soft, limit.hard) for limit in host.ulimits or ()}
    return [[RLIMITS[name], soft, hard] for name, (soft, hard) in wanted.items()]


def _machine_stop(config: ContainerConfig) -> Plan:
    """How the monitor stops the container when the machine goes down; what isn't said is the monitor's default."""
    found: Plan = {}
    number = signals.parse(config.stop_signal or "TERM")
    if config.stop_signal and signals.supported(number):
        found["stop_signal"] = number
    if config.stop_timeout is not None:
        found["stop_timeout"] = config.stop_timeout
    return found


@functools.cache
def _bounding() -> int:
    """What this engine may hand out; it never changes."""
    return capabilities.available()


def rights(containers: Containers, host: HostConfig, *, exec_privileged: bool = False) -> Plan:
    """Capabilities, seccomp program, no-new-privileges, AppArmor profile.

    A privileged exec has all capabilities; filter and profile stay those of its container, as in Docker.
    """
    privileged = host.privileged
    names = capabilities.granted(host.cap_add, host.cap_drop, privileged=privileged, bounding=_bounding())
    bits = capabilities.mask(capabilities.granted(None, None, privileged=True) if exec_privileged else names)
    options = security_options(containers, host)
    return {
        "caps": {"bounding": bits, "effective": bits, "permitted": bits, "inheritable": 0, "ambient": 0},
        "no_new_privs": options["no_new_privileges"],
        # A privileged container has a filter only if one was asked for by name.
        "seccomp": None if privileged and not options["own_seccomp"] else _filter(options["seccomp"], names),
        "apparmor": _apparmor(options["apparmor"], privileged=privileged),
    }


def _apparmor(named: str, *, privileged: bool) -> str | None:
    """The profile to enter; on a machine without AppArmor none, as in Docker (create has warned)."""
    if not apparmor.enabled():
        return None
    profile = apparmor.chosen(named, privileged=privileged)
    if profile == apparmor.DEFAULT:
        apparmor.ensure_default()
    return None if profile in ("", "unconfined") else profile


def security_options(containers: Containers, host: HostConfig) -> dict[str, Any]:
    """``--security-opt`` taken apart. SystemFailure (500, as dockerd) for unknown ones."""
    found: dict[str, Any] = {
        "no_new_privileges": containers.config.no_new_privileges,
        "seccomp": containers.config.seccomp_profile,
        "own_seccomp": False,
        "apparmor": "",
    }
    for text in host.security_opt or ():
        key, mark, value = (
            text.replace(":", "=", 1).partition("=") if "=" not in text else text.partition("=")
        )
        if key == "no-new-privileges":
            found["no_new_privileges"] = value.lower() not in ("false", "0") if mark else True
        elif key == "seccomp":
            found["seccomp"], found["own_seccomp"] = value, True
        elif key == "apparmor":
            found["apparmor"] = value
        elif key not in ("label", "systempaths", "writable-cgroups", "disable"):
            raise errors.SystemFailure(f'invalid --security-opt 2: "{text}"')
    return found


def _filter(profile: str, names: Iterable[str]) -> bytes | None:
    if profile == "unconfined":
        return None
    text = profile
    if profile in ("builtin", "default"):
        text = ""
    elif profile and not profile.lstrip().startswith("{"):
        text = Path(profile).read_text()
    return _SECCOMP.program(_SECCOMP.section(text, names))


def load_spec(containers: Containers, container: Container) -> Plan | None:
    """What an exec needs, for a container that an earlier engine started."""
    return {"env": environment(container)}
