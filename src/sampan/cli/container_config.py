"""The body of ``POST /containers/create`` from ``run``'s flags: checks that need no engine are made here.

Fields that the user didn't set are left out: the engine's defaults hold.
"""

from __future__ import annotations

import os

from sampan.cli import endpoints, ports
from sampan.cli.errors import CLIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


def build(options: Options, image: str, words: list[str], proxies: dict[str, str]) -> dict[str, Any]:
    """Config, HostConfig and NetworkingConfig in one object. Raises CLIError with Docker's words."""
    exposed, bindings = ports.publish(options.all("publish"))
    exposed = {**ports.expose(options.all("expose")), **exposed}
    binds, volumes = volumes_of(options.all("volume"))
    config = process_config(options, proxies)
    config.update({"Image": image, "Cmd": words or None})
    if exposed:
        config["ExposedPorts"] = exposed
    if volumes:
        config["Volumes"] = volumes
    if health := health_check(options):
        config["Healthcheck"] = health
    mode, networks = endpoints.of_options(options)
    host = {**resources(options), **_host(options)}
    host["NetworkMode"] = mode
    if bindings:
        host["PortBindings"] = bindings
    if binds:
        host["Binds"] = binds
    config["HostConfig"] = host
    config["NetworkingConfig"] = {"EndpointsConfig": networks}
    return config


def process_config(options: Options, proxies: dict[str, str]) -> dict[str, Any]:
    """The part that describes the process: Config without ports, volumes and image."""
    attached = options.all("attach")
    detached = "detach" in options and options.flag("detach")
    config: dict[str, Any] = {}
    if not attached and not detached:
        attached = ["stdout", "stderr"] + (["stdin"] if options.flag("interactive") else [])
    for stream in attached:
        config[f"Attach{stream.capitalize()}"] = True
    if options.flag("interactive"):
        config["OpenStdin"] = True
        config["StdinOnce"] = "stdin" in attached
    if options.flag("tty"):
        config["Tty"] = True
    env = environment(options, proxies)
    if env:
        config["Env"] = env
    if labels := labels_of(options.all("label"), options.all("label-file")):
        config["Labels"] = labels
    for flag, key in _PROCESS:
        if value := options.text(flag):
            config[key] = value
    if "entrypoint" in options.given:
        config["Entrypoint"] = [options.text("entrypoint")]
    if "stop-timeout" in options.given:
        config["StopTimeout"] = options.number("stop-timeout")
    return config


_PROCESS = (
    ("hostname", "Hostname"),
    ("domainname", "Domainname"),
    ("user", "User"),
    ("workdir", "WorkingDir"),
    ("stop-signal", "StopSignal"),
)


def environment(options: Options, proxies: dict[str, str]) -> list[str]:
    """Variables of files, then of flags, then proxies that neither set."""
    found: list[str] = []
    for path in options.all("env-file"):
        found += environment_file(path)
    found += options.all("env")
    names = {entry.partition("=")[0] for entry in found}
    return found + [f"{name}={value}" for name, value in proxies.items() if name not in names]


def environment_file(path: str) -> list[str]:
    """The lines of an env file. Raises CLIError with the line's number."""
    entries = []
    for number, line in _lines_of(path):
        name, equals, _ = line.partition("=")
        if not name:
            raise CLIError(f"invalid environment file: no variable name on line '{line}' ({path}:{number})")
        if any(blank in name for blank in " \t"):
            raise CLIError(
                f"invalid environment file: variable '{name}' contains whitespaces ({path}:{number})"
            )
        if equals:
            entries.append(line)
        elif name in os.environ:
            entries.append(f"{name}={os.environ[name]}")
    return entries


def _lines_of(path: str) -> list[tuple[int, str]]:
    """Lines that say something, without leading blanks and comments."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except OSError as error:
        raise CLIError(f"open {path}: {(error.strerror or '').lower()}") from None
    except UnicodeDecodeError:
        raise CLIError(f"invalid environment file {path}: it is not UTF-8") from None
    lines = ((number, line.lstrip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


def labels_of(labels: list[str], files: list[str]) -> dict[str, str]:
    """Labels of files, then of flags."""
    entries = [line for path in files for _, line in _lines_of(path)]
    return dict(entry.partition("=")[::2] for entry in [*entries, *labels])


def volumes_of(specifications: list[str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """``-v`` as binds and anonymous volumes; a relative folder ``./x`` is made absolute here."""
    binds: list[str] = []
    anonymous: dict[str, dict[str, str]] = {}
    for text in specifications:
        source, colon, rest = text.partition(":")
        if not colon:
            anonymous[text] = {}
            continue
        if source in (".", "..") or source.startswith(("./", "../")):
            source = os.path.abspath(source)
        binds.append(f"{source}:{rest}")
    return binds, anonymous


def health_check(options: Options) -> dict[str, Any] | None:
    """The Healthcheck of the flags, None when none is given."""
    given = {flag for flag in options.given if flag.startswith("health-")}
    if options.flag("no-healthcheck"):
        if given:
            raise CLIError("--no-healthcheck conflicts with --health-* options")
        return {"Test": ["NONE"]}
    if not given:
        return None
    if options.number("health-retries") < 0:
        raise CLIError("--health-retries cannot be negative")
    check: dict[str, Any] = {}
    if options.text("health-cmd"):
        check["Test"] = ["CMD-SHELL", options.text("health-cmd")]
    for flag, key in _HEALTH:
        value = options.number(flag)
        if value < 0:
            raise CLIError(f"--{flag} cannot be negative")
        if value:
            check[key] = value
    return check


_HEALTH = (
    ("health-interval", "Interval"),
    ("health-timeout", "Timeout"),
    ("health-start-period", "StartPeriod"),
    ("health-start-interval", "StartInterval"),
    ("health-retries", "Retries"),
)
_NUMBERS = (
    ("blkio-weight", "BlkioWeight"),
    ("cpu-count", "CpuCount"),
    ("cpu-percent", "CpuPercent"),
    ("cpu-period", "CpuPeriod"),
    ("cpu-quota", "CpuQuota"),
    ("cpu-rt-period", "CpuRealtimePeriod"),
    ("cpu-rt-runtime", "CpuRealtimeRuntime"),
    ("cpu-shares", "CpuShares"),
    ("cpus", "NanoCpus"),
    ("io-maxbandwidth", "IOMaximumBandwidth"),
    ("io-maxiops", "IOMaximumIOps"),
    ("kernel-memory", "KernelMemory"),
    ("memory", "Memory"),
    ("memory-reservation", "MemoryReservation"),
    ("memory-swap", "MemorySwap"),
    ("pids-limit", "PidsLimit"),
)
_LISTS = (
    ("blkio-weight-device", "BlkioWeightDevice"),
    ("device-read-bps", "BlkioDeviceReadBps"),
    ("device-write-bps", "BlkioDeviceWriteBps"),
    ("device-read-iops", "BlkioDeviceReadIOps"),
    ("device-write-iops", "BlkioDeviceWriteIOps"),
    ("device-cgroup-rule", "DeviceCgroupRules"),
    ("ulimit", "Ulimits"),
)


def resources(options: Options) -> dict[str, Any]:
    """Limits and devices."""
    found: dict[str, Any] = {key: options.number(flag) for flag, key in _NUMBERS if options.number(flag)}
    found.update({key: options.all(flag) for flag, key in _LISTS if options.all(flag)})
    if "Ulimits" in found:  # each resource once, the last one given counts
        by_name = {limit["Name"]: limit for limit in found["Ulimits"]}
        found["Ulimits"] = [by_name[name] for name in sorted(by_name)]
    for flag, key in (("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems")):
        if options.text(flag):
            found[key] = options.text(flag)
    swappiness = options.number("memory-swappiness")
    if not -1 <= swappiness <= 100:
        raise CLIError(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
    if swappiness >= 0 and "memory-swappiness" in options.given:
        found["MemorySwappiness"] = swappiness
    if options.flag("oom-kill-disable"):
        found["OomKillDisable"] = True
    if options.all("gpus"):
        found["DeviceRequests"] = options.all("gpus")
    devices(options.all("device"), found)
    return found


def devices(specifications: list[str], found: dict[str, Any]) -> None:
    """``--device``: paths, and CDI names (vendor/class=name) as a request."""
    cdi = [text for text in specifications if not text.startswith("/") and "=" in text and "/" in text]
    plain = [device(text) for text in specifications if text not in cdi]
    if plain:
        found["Devices"] = plain
    if cdi:
        found.setdefault("DeviceRequests", []).append({"Driver": "cdi", "DeviceIDs": cdi})


def device(text: str) -> dict[str, str]:
    """``host[:container[:mode]]``. Raises CLIError."""
    source, _, rest = text.partition(":")
    target, colon, mode = rest.partition(":")
    if rest and not colon and is_device_mode(rest):
        target, mode = source, rest
    if not source or ":" in mode:
        raise CLIError(f"invalid device specification: {text}")
    if mode and not is_device_mode(mode):
        raise CLIError(f"bad mode specified: {mode}")
    return {"PathOnHost": source, "PathInContainer": target or source, "CgroupPermissions": mode or "rwm"}


def is_device_mode(text: str) -> bool:
    """Letters of ``rwm``, each once."""
    return bool(text) and set(text) <= set("rwm") and len(set(text)) == len(text)


def capability(name: str) -> str:
    """``net_admin`` as CAP_NET_ADMIN; ALL stays."""
    upper = name.strip().upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


_HOST_TEXTS = (
    ("cgroup-parent", "CgroupParent"),
    ("cgroupns", "CgroupnsMode"),
    ("cidfile", "ContainerIDFile"),
    ("ipc", "IpcMode"),
    ("isolation", "Isolation"),
    ("pid", "PidMode"),
    ("runtime", "Runtime"),
    ("userns", "UsernsMode"),
    ("uts", "UTSMode"),
    ("volume-driver", "VolumeDriver"),
)
_HOST_LISTS = (
    ("add-host", "ExtraHosts"),
    ("dns", "Dns"),
    ("dns-search", "DnsSearch"),
    ("group-add", "GroupAdd"),
    ("link", "Links"),
    ("mount", "Mounts"),
    ("volumes-from", "VolumesFrom"),
)
_HOST_FLAGS = (
    ("privileged", "Privileged"),
    ("publish-all", "PublishAllPorts"),
    ("read-only", "ReadonlyRootfs"),
    ("rm", "AutoRemove"),
)
EGRESS = "sampan.egress"
"""The annotation, label or network option that holds egress rules."""
_HOST_MAPS = (("annotation", "Annotations"), ("storage-opt", "StorageOpt"), ("sysctl", "Sysctls"))


def egress_rules(given: list[str]) -> str:
    """``--egress`` values as one text: ``allow=`` may be written before each, or not."""
    rules = [rule for text in given for rule in text.removeprefix("allow=").split(",") if rule]
    return "allow=" + ",".join(rule for rule in rules if rule != "none" or len(rules) == 1)


def _host(options: Options) -> dict[str, Any]:
    _check_modes(options)
    host: dict[str, Any] = {key: options.text(flag) for flag, key in _HOST_TEXTS if options.text(flag)}
    host.update({key: options.all(flag) for flag, key in _HOST_LISTS if options.all(flag)})
    host.update({key: True for flag, key in _HOST_FLAGS if options.flag(flag)})
    for flag, key in _HOST_MAPS:
        if options.all(flag):
            host[key] = pairs(options.all(flag))
    if rules := options.all("egress"):
        host.setdefault("Annotations", {})[EGRESS] = egress_rules(rules)
    for flag, key in (("cap-add", "CapAdd"), ("cap-drop", "CapDrop")):
        if options.all(flag):
            host[key] = [capability(name) for name in options.all(flag)]
    if resolver := options.all("dns-option") + options.all("dns-opt"):
        host["DnsOptions"] = resolver
    if options.all("tmpfs"):
        host["Tmpfs"] = dict(text.partition(":")[::2] for text in options.all("tmpfs"))
    for flag, key in (("shm-size", "ShmSize"), ("oom-score-adj", "OomScoreAdj")):
        if options.number(flag):
            host[key] = options.number(flag)
    if "init" in options.given:
        host["Init"] = options.flag("init")
    _security(options.all("security-opt"), host)
    _logging(options, host)
    host["RestartPolicy"] = restart_policy(options.text("restart"))
    if options.flag("rm") and host["RestartPolicy"]["Name"] not in ("no", ""):
        raise CLIError("conflicting options: cannot specify both --restart and --rm")
    return host


def _check_modes(options: Options) -> None:
    """Namespace modes that can't be right whatever the engine."""
    for flag, name, known in (
        ("pid", "PID", ("", "host")),
        ("uts", "UTS", ("", "host")),
        ("userns", "USER", ("", "host")),
        ("cgroupns", "CGROUP", ("", "host", "private")),
    ):
        value = options.text(flag)
        joins = flag == "pid" and value.startswith("container:") and len(value) > len("container:")
        if value not in known and not joins:
            raise CLIError(f"--{flag}: invalid {name} mode")
    mac = options.text("mac-address")
    if mac and not is_mac(mac):
        raise CLIError(f"{mac} is not a valid mac address")


def is_mac(text: str) -> bool:
    """An Ethernet address in the usual notations."""
    digits = text.replace(":", "").replace("-", "").replace(".", "")
    return len(digits) == 12 and all(digit in "0123456789abcdefABCDEF" for digit in digits) and digits != text


def pairs(entries: list[str]) -> dict[str, str]:
    """``key=value`` texts as an object."""
    return dict(entry.partition("=")[::2] for entry in entries)


def _security(entries: list[str], host: dict[str, Any]) -> None:
    found: list[str] = []
    for entry in entries:
        key, separator, value = entry.partition("=") if "=" in entry else entry.partition(":")
        if not separator and key != "no-new-privileges":
            raise CLIError(f'Invalid --security-opt: "{entry}"')
        if key == "systempaths" and value == "unconfined":
            host["MaskedPaths"] = []
            host["ReadonlyPaths"] = []
            continue
        if key == "seccomp" and value not in ("unconfined", "builtin"):
            entry = f"seccomp={_seccomp_profile(value)}"
        found.append(entry)
    if found:
        host["SecurityOpt"] = found


def _seccomp_profile(path: str) -> str:
    from sampan import jsontext

    try:
        with open(path, encoding="utf-8") as file:
            return jsontext.dumps(jsontext.loads(file.read()))
    except OSError as error:
        reason = f"open {path}: {(error.strerror or '').lower()}"
        raise CLIError(f"opening seccomp profile ({path}) failed: {reason}") from None
    except ValueError as error:
        raise CLIError(f"compacting json for seccomp profile ({path}) failed: {error}") from None


def _logging(options: Options, host: dict[str, Any]) -> None:
    driver, entries = options.text("log-driver"), pairs(options.all("log-opt"))
    if driver == "none" and entries:
        raise CLIError(f"invalid logging opts for driver {driver}")
    if driver or entries:
        host["LogConfig"] = {"Type": driver, "Config": entries}


def restart_policy(text: str) -> dict[str, Any]:
    """``on-failure:3`` as the API has it. Raises CLIError."""
    name, colon, count = text.partition(":")
    if colon and not name:
        raise CLIError("invalid restart policy format: no policy provided before colon")
    number = 0
    if colon:
        try:
            number = int(count)
        except ValueError:
            raise CLIError("invalid restart policy format: maximum retry count must be an integer") from None
    return {"Name": name, "MaximumRetryCount": number}
