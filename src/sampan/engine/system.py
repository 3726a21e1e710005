"""The engine about itself: version and info."""

from __future__ import annotations

import os
import re
import secrets
import time
from typing import TYPE_CHECKING, Any

import sampan
from sampan import errors
from sampan.engine import machine
from sampan.engine.config import EngineConfig
from sampan.engine.containers import apparmor, cgroups, support
from sampan.engine.containers.timestamps import rfc3339
from sampan.engine.networks.defaults import own_table
from sampan.kernel import overlay

if TYPE_CHECKING:
    from sampan.engine.engine import Engine

MATCHED_RELEASE = "29.7.2"
"""The engine release whose API behaviour is matched: clients compare its number with what they need."""

VERSION = f"{MATCHED_RELEASE}+sampan.{sampan.__version__}"
API_VERSION, MINIMUM_API_VERSION = "1.55", "1.24"
DEFAULT_RUNTIME = "runc"
INDEX_SERVER = "https://index.docker.io/v1/"


def version_document() -> dict[str, Any]:
    """What ``GET /version`` answers."""
    architecture, kernel = machine.go_architecture(), machine.kernel_version()
    details = {
        "ApiVersion": API_VERSION,
        "Arch": architecture,
        "BuildTime": "",
        "Experimental": "false",
        "GitCommit": "",
        "GoVersion": machine.python_version(),
        "KernelVersion": kernel,
        "MinAPIVersion": MINIMUM_API_VERSION,
        "Os": "linux",
    }
    runtime = {"Name": "sampan-runtime", "Version": sampan.__version__, "Details": {"GitCommit": ""}}
    return {
        "Platform": {"Name": f"sampan {sampan.__version__}"},
        "Version": VERSION,
        "ApiVersion": API_VERSION,
        "MinAPIVersion": MINIMUM_API_VERSION,
        "Os": "linux",
        "Arch": architecture,
        "Components": [{"Name": "Engine", "Version": VERSION, "Details": details}, runtime],
        "GitCommit": "",
        "GoVersion": machine.python_version(),
        "KernelVersion": kernel,
        "BuildTime": "",
    }


def engine_id(config: EngineConfig) -> str:
    """The engine's lasting id, made when first asked for."""
    path = config.data_root / "engine-id"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    digits = secrets.token_hex(16)
    found = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    try:
        path.write_text(found + "\n")
    except OSError as error:
        raise errors.SystemFailure(f"can't write {path}: {error.strerror}") from error
    return found


def info_document(engine: Engine, version: tuple[int, int]) -> dict[str, Any]:
    """What ``GET /info`` answers to a client of that API version. Call it in a thread."""
    config = engine.config
    system_name, system_version = machine.operating_system()
    found: dict[str, Any] = {"ID": engine_id(config)}
    found |= _counts(engine)
    found |= {
        "Driver": "overlay2",
        "DriverStatus": _driver_status(config),
        "Plugins": PLUGINS,
        **_kernel_features(),
        "Debug": config.debug,
        "NFd": machine.open_files(),
        "NGoroutines": _threads(),
        "SystemTime": rfc3339(time.time_ns()),
        "LoggingDriver": config.log_driver,
        "CgroupDriver": "cgroupfs",
        "NEventsListener": engine.events.listeners,
        "KernelVersion": machine.kernel_version(),
        "OperatingSystem": system_name,
        "OSVersion": system_version,
        "OSType": "linux",
        "Architecture": machine.architecture(),
        "IndexServerAddress": INDEX_SERVER,
        "RegistryConfig": _registries(config),
        "NCPU": os.cpu_count() or 1,
        "MemTotal": machine.memory_total(),
        "GenericResources": None,
        "DockerRootDir": str(config.data_root),
        "HttpProxy": _proxy("HTTP_PROXY"),
        "HttpsProxy": _proxy("HTTPS_PROXY"),
        "NoProxy": _proxy("NO_PROXY"),
        "Name": os.uname().nodename,
        "Labels": list(config.labels),
        "ExperimentalBuild": False,
        "ServerVersion": VERSION,
        "Runtimes": {DEFAULT_RUNTIME: {"path": "sampan-runtime"}},
        "DefaultRuntime": DEFAULT_RUNTIME,
        "Swarm": _NOT_IN_SWARM,
        "LiveRestoreEnabled": config.live_restore,
        "Isolation": "",
        "InitBinary": "built in",
    }
    return found | _by_version(config, version)


PLUGINS = {
    "Volume": ["local"],
    "Network": ["bridge", "host", "ipvlan", "macvlan", "null"],
    "Authorization": None,
    "Log": ["journald", "json-file", "local", "syslog"],
}
_NOT_IN_SWARM = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}


def _threads() -> int:
    """Threads stand where a Go engine counts its goroutines."""
    return len(os.listdir("/proc/self/task"))


def _counts(engine: Engine) -> dict[str, int]:
    states = [container.state.status for container in engine.containers]
    paused = states.count("paused")
    running = states.count("running") + states.count("restarting")
    return {
        "Containers": len(states),
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": len(states) - running - paused,
        "Images": len(engine.images.rows()),
    }


def _driver_status(config: EngineConfig) -> list[list[str]]:
    return [
        ["Backing Filesystem", machine.file_system(config.data_root)],
        ["Supports d_type", str(overlay.names_types(config.data_root)).lower()],
        ["Using metacopy", "false"],
        ["Native Overlay Diff", "true"],
        ["userxattr", "false"],
    ]


def _kernel_features() -> dict[str, Any]:
    # Fields of info begin with a capital letter; the others are for its warnings.
    found: dict[str, Any] = {name: value for name, value in support.features().items() if name[0].isupper()}
    found["IPv4Forwarding"] = machine.ipv4_forwarding()
    found["CgroupVersion"] = "2" if cgroups.is_v2() else "1"
    return found


def _proxy(variable: str) -> str:
    """A proxy of the environment, without the password that it may hold."""
    value = os.environ.get(variable) or os.environ.get(variable.lower(), "")
    return re.sub(r"//[^/@]*@", "//xxxxx:xxxxx@", value)


def _registries(config: EngineConfig) -> dict[str, Any]:
    mirrors = list(config.registry_mirrors)
    indexes = {"docker.io": {"Name": "docker.io", "Mirrors": mirrors, "Secure": True, "Official": True}}
    cidrs = ["::1/128", "127.0.0.0/8"]
    for registry in config.insecure_registries:
        if "/" in registry:
            cidrs.append(registry)
        else:
            indexes[registry] = {"Name": registry, "Mirrors": [], "Secure": False, "Official": False}
    return {"InsecureRegistryCIDRs": cidrs, "IndexConfigs": indexes, "Mirrors": mirrors}


def _discovered(directories: list[str]) -> dict[str, Any]:
    """Devices that drivers know of, if any."""
    from sampan.engine.containers import cdi  # most machines have none

    devices = sorted(cdi.find(directories).devices)
    return {"DiscoveredDevices": [{"Source": "cdi", "ID": name} for name in devices]} if devices else {}


def _by_version(config: EngineConfig, version: tuple[int, int]) -> dict[str, Any]:
    """What differs by API version, see the API's changelog: commits, firewall, bridge-nf."""
    commit = {"ID": "", "Expected": ""} if version < (1, 49) else {"ID": ""}
    found: dict[str, Any] = {"ContainerdCommit": commit, "RuncCommit": commit, "InitCommit": commit}
    found["SecurityOptions"] = security_options(config)
    found["CDISpecDirs"] = directories = config.cdi_directories()
    if version >= (1, 50) and any(map(os.path.isdir, directories)):
        found |= _discovered(directories)
    if version < (1, 50):
        found |= {"BridgeNfIptables": False, "BridgeNfIp6tables": False}
    if version < (1, 49):
        config_shown = _registries(config)
        config_shown["AllowNondistributableArtifactsCIDRs"] = []
        config_shown["AllowNondistributableArtifactsHostnames"] = []
        found["RegistryConfig"] = config_shown
    else:
        found["FirewallBackend"] = {"Driver": "nftables", "Info": [["Table", f"inet {own_table(config)}"]]}
    found["Warnings"] = _warnings(config)
    return found


def security_options(config: EngineConfig) -> list[str]:
    """What guards containers by default, in dockerd's spelling."""
    profile = config.seccomp_profile or "builtin"
    options = ["name=apparmor"] if apparmor.supported() else []
    options.append(f"name=seccomp,profile={profile}")
    if cgroups.is_v2():
        options.append("name=cgroupns")
    if config.no_new_privileges:
        options.append("name=no-new-privileges")
    return options


def _warnings(config: EngineConfig) -> list[str] | None:
    features = support.features() | {"IPv4Forwarding": machine.ipv4_forwarding()}
    texts = {
        "MemoryLimit": "WARNING: No memory limit support",
        "SwapLimit": "WARNING: No swap limit support",
        "CpuCfsQuota": "WARNING: No cpu cfs quota support",
        "CPUShares": "WARNING: No cpu shares support",
        "CPUSet": "WARNING: No cpuset support",
        "PidsLimit": "WARNING: No pids limit support",
        "IPv4Forwarding": "WARNING: IPv4 forwarding is disabled",
        "weight": "WARNING: No blkio weight support",
        "weight_device": "WARNING: No blkio weight_device support",
        "read_bps": "WARNING: No blkio throttle.read_bps_device support",
        "write_bps": "WARNING: No blkio throttle.write_bps_device support",
        "read_iops": "WARNING: No blkio throttle.read_iops_device support",
        "write_iops": "WARNING: No blkio throttle.write_iops_device support",
    }
    found = [text for name, text in texts.items() if not features[name]]
    return found or None
