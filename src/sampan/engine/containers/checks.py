"""What ``docker create`` and ``update`` refuse, in Docker's words; pure, but for the machine's figures."""

from __future__ import annotations

import os

from sampan import errors
from sampan.engine.containers import apparmor, logdriver, nulls, signals, support
from sampan.network.macaddr import parse_mac
from sampan.runtime import capabilities, devices
from sampan.runtime.config import (
    RLIMITS,
    ContainerConfig,
    HealthConfig,
    HostConfig,
    Resources,
    RestartPolicy,
)

_POLICIES = ("", "no", "always", "on-failure", "unless-stopped", "on-unhealthy")
_SMALLEST_MEMORY = 6 << 20
_SHORTEST = 1_000_000  # ns, of a health check


def check_create(config: ContainerConfig, host: HostConfig) -> list[str]:
    """Refuse what dockerd refuses at create (400 unless said otherwise); warnings for the user."""
    check_config(config)
    check_host(host)
    nulls.refuse(config)
    nulls.refuse(host, "HostConfig.")
    if host.uts_mode == "host" and (config.hostname or config.domainname):
        word = "hostname" if config.hostname else "domainname"
        raise errors.InvalidParameter(f"conflicting options: {word} and the UTS mode")
    check_restart_policy(host.restart_policy, auto_remove=host.auto_remove)
    return check_resources(host) + _security_warnings(host)


def check_config(config: ContainerConfig) -> None:
    """The portable part."""
    if config.working_dir and not config.working_dir.startswith("/"):
        raise errors.InvalidParameter(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if len(config.hostname.encode()) > 64:
        raise errors.InvalidParameter(f'hostname "{config.hostname}" is too long (maximum 64 bytes)')
    check_environment(config.env)
    if config.mac_address:
        parse_mac(config.mac_address)
    if config.stop_signal:
        signals.parse(config.stop_signal)
    _check_health(config.healthcheck)


def check_environment(env: list[str] | None) -> None:
    """InvalidParameter for a variable without a name."""
    for entry in env or ():
        if not entry.partition("=")[0]:
            raise errors.InvalidParameter(f"invalid environment variable: {entry}")


def _check_health(health: HealthConfig | None) -> None:
    if health is None:
        return
    if health.test and health.test[0] in ("CMD", "CMD-SHELL") and len(health.test) == 1:
        raise errors.InvalidParameter(f"No command after {health.test[0]} in Healthcheck")
    if health.test and health.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise errors.InvalidParameter(
            f"Unknown healthcheck type '{health.test[0]}' (expected 'CMD')", hint="Or CMD-SHELL, or NONE."
        )
    for name, value in (
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ):
        if value and value < _SHORTEST:
            raise errors.InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise errors.InvalidParameter("Retries in Healthcheck cannot be negative")


def check_host(host: HostConfig) -> None:
    """The part that depends on the host."""
    if host.isolation not in ("", "default"):
        raise errors.InvalidParameter(f"invalid isolation ({host.isolation}): linux only supports 'default'")
    if host.runtime not in ("", "runc", "io.containerd.runc.v2"):
        raise errors.InvalidParameter(f"unknown or invalid runtime name: {host.runtime}")
    ipc = host.ipc_mode
    if ipc not in ("", "none", "host", "private", "shareable") and not ipc.startswith("container:"):
        raise errors.InvalidParameter(f"invalid IPC mode: {ipc}")
    _check_namespaces(host)
    if not -1000 <= host.oom_score_adj <= 1000:
        raise errors.InvalidParameter(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    if host.shm_size < 0:
        raise errors.InvalidParameter("SHM size can not be less than 0")
    if host.userns_mode not in ("", "host"):
        raise errors.Unsupported(f"user namespace mode {host.userns_mode} is not supported")
    capabilities.normalise(host.cap_add, "CapAdd")
    capabilities.normalise(host.cap_drop, "CapDrop")
    _check_security(host)
    if host.log_config.type or host.log_config.config:
        logdriver.check(host.log_config.type or "json-file", host.log_config.config or {})


def _check_namespaces(host: HostConfig) -> None:
    """Modes that are no words of Docker's: taken for the default they would be dropped in silence."""
    if host.cgroupns_mode not in ("", "host", "private"):
        raise errors.InvalidParameter(f"invalid cgroup namespace mode: {host.cgroupns_mode}")
    if host.pid_mode not in ("", "host") and not host.pid_mode.startswith("container:"):
        raise errors.InvalidParameter(f"invalid PID mode: {host.pid_mode}")
    if host.uts_mode not in ("", "host"):
        raise errors.InvalidParameter(f"invalid UTS mode: {host.uts_mode}")
    if host.cgroup:
        raise errors.InvalidParameter(
            f"cgroup specification {host.cgroup} is not supported (HostConfig.Cgroup)"
        )


_SECURITY_OPTIONS = frozenset(
    ("no-new-privileges", "seccomp", "label", "apparmor", "systempaths", "writable-cgroups")
)
_TRUTH = frozenset(("1", "t", "T", "TRUE", "true", "True", "0", "f", "F", "FALSE", "false", "False"))


def _check_security(host: HostConfig) -> None:
    for text in host.security_opt or ():
        if text in ("no-new-privileges", "writable-cgroups", "disable"):
            continue
        # The colon is from before 1.11; values have colons too, so the equals sign comes first.
        key, mark, value = text.partition("=") if "=" in text else text.partition(":")
        if not mark:
            raise errors.SystemFailure(f'invalid --security-opt 1: "{text}"')
        boolean = key in ("no-new-privileges", "writable-cgroups")
        if key not in _SECURITY_OPTIONS or (boolean and value not in _TRUTH):
            raise errors.SystemFailure(f'invalid --security-opt 2: "{text}"')
        if key == "systempaths" and value != "unconfined":
            raise errors.SystemFailure(f'invalid --security-opt 2: "{text}"')


def _security_warnings(host: HostConfig) -> list[str]:
    """Guards that were asked for and that this machine doesn't have."""
    warnings = []
    for text in host.security_opt or ():
        key, _, value = text.replace(":", "=", 1).partition("=")
        if key == "label" and value != "disable":
            warnings.append(f"SELinux is not used by this engine: {text} has no effect.")
        if key == "apparmor" and value not in ("", "unconfined") and not apparmor.enabled():
            warnings.append(f"AppArmor is not enabled on this machine: {text} has no effect.")
    return warnings


def check_restart_policy(policy: RestartPolicy, *, auto_remove: bool) -> None:
    """Name and count of a restart policy."""
    if policy.name not in _POLICIES:
        raise errors.InvalidParameter(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', "
            "'on-failure', or 'unless-stopped'"
        )
    if policy.maximum_retry_count < 0:
        raise errors.InvalidParameter("invalid restart policy: maximum retry count cannot be negative")
    if policy.maximum_retry_count and policy.name not in ("on-failure", "on-unhealthy"):
        raise errors.InvalidParameter(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'"
        )
    if auto_remove and policy.name not in ("", "no"):
        raise errors.InvalidParameter("can't create 'AutoRemove' container with restart policy")


def check_resources(resources: Resources) -> list[str]:
    """Limits; the warnings are about what this kernel can't do: that is taken out of ``resources``."""
    _check_memory(resources)
    _check_cpu(resources)
    _check_realtime(resources)
    _check_cpuset(resources)
    _check_block_io(resources)
    for rule in resources.device_cgroup_rules or ():
        devices.parse_rule(rule)
    _check_devices(resources)
    _check_ulimits(resources)
    return support.discard(resources)


def _check_devices(resources: Resources) -> None:
    for mapping in resources.devices or ():
        if not set(mapping.cgroup_permissions) <= set("rwm"):
            raise errors.InvalidParameter(
                f"bad mode specified: {mapping.cgroup_permissions}", hint="Known are r, w and m."
            )


def _check_ulimits(resources: Resources) -> None:
    for limit in resources.ulimits or ():
        if limit.name not in RLIMITS:
            raise errors.InvalidParameter(f"invalid ulimit type: {limit.name}")
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            raise errors.InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
            )


def _check_block_io(resources: Resources) -> None:
    if resources.blkio_weight and not 10 <= resources.blkio_weight <= 1000:
        raise errors.InvalidParameter("Range of blkio weight is from 10 to 1000")
    for device in resources.blkio_weight_device or ():
        if not 10 <= device.weight <= 1000:
            raise errors.InvalidParameter(f"Range of blkio weight of {device.path} is from 10 to 1000")
    for words, value in (
        ("bandwidth", resources.io_maximum_bandwidth),
        ("IOPs", resources.io_maximum_iops),
    ):
        if value:
            raise errors.InvalidParameter(
                f"invalid QoS settings: linux does not support configuration of maximum {words}"
            )


def _check_realtime(resources: Resources) -> None:
    period, runtime = resources.cpu_realtime_period, resources.cpu_realtime_runtime
    if not period and not runtime:
        return
    if period < 0 or runtime < 0:
        raise errors.InvalidParameter("cpu real-time period and runtime cannot be negative")
    if not support.has("cpu.rt_runtime_us"):
        raise errors.InvalidParameter("kernel does not support CPU real-time scheduler")
    if period and runtime > period:
        raise errors.InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")


def _check_memory(resources: Resources) -> None:
    memory, swap, reserved = resources.memory, resources.memory_swap, resources.memory_reservation
    if memory and memory < _SMALLEST_MEMORY:
        raise errors.InvalidParameter("Minimum memory limit allowed is 6MB")
    if memory > 0 and 0 < swap < memory:
        raise errors.InvalidParameter(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if memory == 0 and swap > 0:
        raise errors.InvalidParameter(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    swappiness = resources.memory_swappiness
    if 0 < resources.kernel_memory < _SMALLEST_MEMORY:
        raise errors.InvalidParameter("Minimum kernel memory limit allowed is 6MB")
    if swappiness is not None and swappiness != -1 and not 0 <= swappiness <= 100:
        raise errors.InvalidParameter(f"Invalid value: {swappiness}, valid memory swappiness range is 0-100")
    if 0 < reserved < _SMALLEST_MEMORY:
        raise errors.InvalidParameter("Minimum memory reservation allowed is 6MB")
    if 0 < memory < reserved:
        raise errors.InvalidParameter(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )


def _check_cpu(resources: Resources) -> None:
    cpus = os.cpu_count() or 1
    if resources.nano_cpus and (resources.cpu_quota or resources.cpu_period):
        other = "Quota" if resources.cpu_quota else "Period"
        raise errors.InvalidParameter(f"Conflicting options: Nano CPUs and CPU {other} cannot both be set")
    if resources.nano_cpus and not 10_000_000 <= resources.nano_cpus <= cpus * 1_000_000_000:
        raise errors.InvalidParameter(
            f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )
    if resources.cpu_period and not 1000 <= resources.cpu_period <= 1_000_000:
        raise errors.InvalidParameter(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < resources.cpu_quota < 1000:
        raise errors.InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")


def _check_cpuset(resources: Resources) -> None:
    for text, name, path in (
        (resources.cpuset_cpus, "cpus", "/sys/devices/system/cpu/online"),
        (resources.cpuset_mems, "mems", "/sys/devices/system/node/online"),
    ):
        if not text:
            continue
        wanted = parse_set(text)
        if wanted is None:
            raise errors.InvalidParameter(f"Invalid value {text} for cpuset {name}: invalid format: {text}")
        try:
            with open(path) as file:
                available = file.read().strip()
        except FileNotFoundError:
            available = "0"
        if not wanted <= (parse_set(available) or set()):
            title = "CPUs" if name == "cpus" else "memory nodes"
            raise errors.InvalidParameter(
                f"Requested {title} are not available - requested {text}, available: {available}"
            )


def parse_set(text: str) -> set[int] | None:
    """``0-2,5`` as numbers, None when it isn't such a list."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(first) > int(last or first):
            return None
        found.update(range(int(first), int(last or first) + 1))
    return found
