"""What a container is asked to be: the Engine API's ContainerConfig and HostConfig as typed structs.

Attributes are in Python's spelling, the JSON names are Docker's (``host.cpu_shares`` is ``CpuShares``).
Lists and maps are ``None`` where the client sent ``null`` or nothing and ``[]`` where it sent an empty
one: inspect must give back the difference, so read them as ``host.binds or ()``.
Decode with ``gojson.convert``, encode with ``gojson.encode``. Reference: Docker Engine API v1.24–v1.55,
definitions ContainerConfig, HostConfig, Resources, Mount.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import field

from sampan.gojson import Go, Parse

# A port key such as "80/tcp", "8000-8010/udp"; without a protocol it means tcp.
_PROTOCOLS = ("tcp", "udp", "sctp")


def parse_port(text: str) -> str:
    """Normalise ``80``, ``80/TCP``, ``8000-8010/udp`` to ``port/proto``; ValueError in dockerd's words."""
    number, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    for part in number.split("-", 1):
        if not re.fullmatch(r"[0-9]+", part):
            raise ValueError(f"invalid port '{number}': invalid syntax")
        if int(part) > 65535:
            raise ValueError(f"invalid port '{number}': value out of range")
    if protocol not in _PROTOCOLS and not re.fullmatch(r"[a-z0-9]+", protocol):
        raise ValueError(f"invalid port '{text}': invalid protocol")
    return f"{number}/{protocol}"


def parse_address(text: str) -> str:
    """Check an IP address, keeping the way it is written; ValueError in dockerd's words."""
    if text:
        try:
            ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            raise ValueError(f'ParseAddr("{text}"): unable to parse IP') from None
    return text


Address = Annotated[str, Parse(parse_address)]
Port = Annotated[str, Parse(parse_port)]
Empty = Annotated[dict[str, Any], Go("struct {}")]
StringMap = dict[str, str]


class _Struct(msgspec.Struct, rename="pascal", kw_only=True):
    """Base of all: Docker's JSON names from Python's attribute names."""


class HealthConfig(_Struct):
    """A health check; durations in nanoseconds, 0 means inherit."""

    go_name: ClassVar[str] = "container.HealthConfig"
    go_omitempty: ClassVar[frozenset[str]] = frozenset(
        {"test", "interval", "timeout", "start_period", "start_interval", "retries"}
    )

    test: list[str] | None = None
    interval: Annotated[int, Go("time.Duration")] = 0
    timeout: Annotated[int, Go("time.Duration")] = 0
    start_period: Annotated[int, Go("time.Duration")] = 0
    start_interval: Annotated[int, Go("time.Duration")] = 0
    retries: Annotated[int, Go("int")] = 0


class ContainerConfig(_Struct):
    """The portable part: what an image's config can also say."""

    go_name: ClassVar[str] = "container.Config"
    go_omitempty: ClassVar[frozenset[str]] = frozenset(
        {
            "exposed_ports",
            "healthcheck",
            "args_escaped",
            "network_disabled",
            "mac_address",
            "on_build",
            "stop_signal",
            "stop_timeout",
            "shell",
        }
    )

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: Annotated[dict[Port, Empty] | None, Go("network.PortSet")] = None
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] | None = None
    cmd: list[str] | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Empty] | None = None
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: StringMap | None = None
    stop_signal: str = ""
    stop_timeout: Annotated[int | None, Go("int")] = None
    shell: list[str] | None = None


class PortBinding(_Struct):
    """Where on the host a container's port is published; an empty HostPort means any free one."""

    go_name: ClassVar[str] = "network.PortBinding"

    host_ip: Address = ""
    host_port: str = ""


class RestartPolicy(_Struct):
    """What to do when the container ends by itself."""

    go_name: ClassVar[str] = "container.RestartPolicy"

    name: Annotated[str, Go("container.RestartPolicyMode")] = ""
    maximum_retry_count: Annotated[int, Go("int")] = 0


class LogConfig(_Struct):
    """A log driver and its options."""

    go_name: ClassVar[str] = "container.LogConfig"

    type: str = ""
    config: StringMap | None = None


class Ulimit(_Struct):
    """One resource limit (setrlimit(2)); -1 is unlimited."""

    go_name: ClassVar[str] = "units.Ulimit"

    name: str = ""
    hard: int = 0
    soft: int = 0


class DeviceMapping(_Struct):
    """A host device and where it appears in the container."""

    go_name: ClassVar[str] = "container.DeviceMapping"

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(_Struct):
    """A request to a device driver, such as ``--gpus all`` or a CDI device."""

    go_name: ClassVar[str] = "container.DeviceRequest"

    driver: str = ""
    count: Annotated[int, Go("int")] = 0
    device_ids: list[str] | None = field(default=None, name="DeviceIDs")
    capabilities: list[list[str]] | None = None
    options: StringMap | None = None


class WeightDevice(_Struct):
    """A relative weight of block I/O for one device."""

    go_name: ClassVar[str] = "blkiodev.WeightDevice"

    path: str = ""
    weight: Annotated[int, Go("uint16")] = 0


class ThrottleDevice(_Struct):
    """A limit of block I/O for one device, bytes or operations a second."""

    go_name: ClassVar[str] = "blkiodev.ThrottleDevice"

    path: str = ""
    rate: Annotated[int, Go("uint64")] = 0


_Throttles = Annotated[list[ThrottleDevice] | None, Go("[]*blkiodev.ThrottleDevice")]


class BindOptions(_Struct):
    """Options of a mount of type bind."""

    go_name: ClassVar[str] = "mount.BindOptions"
    go_omitempty: ClassVar[frozenset[str]] = frozenset(
        {
            "propagation",
            "non_recursive",
            "create_mountpoint",
            "read_only_non_recursive",
            "read_only_force_recursive",
        }
    )

    propagation: Annotated[str, Go("mount.Propagation")] = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class VolumeDriver(_Struct):
    """The driver that makes a volume, with its options."""

    go_name: ClassVar[str] = "mount.Driver"
    go_omitempty: ClassVar[frozenset[str]] = frozenset({"name", "options"})

    name: str = ""
    options: StringMap | None = None


class VolumeOptions(_Struct):
    """Options of a mount of type volume."""

    go_name: ClassVar[str] = "mount.VolumeOptions"
    go_omitempty: ClassVar[frozenset[str]] = frozenset({"no_copy", "labels", "subpath", "driver_config"})

    no_copy: bool = False
    labels: StringMap | None = None
    subpath: str = ""
    driver_config: VolumeDriver | None = None


class ImageOptions(_Struct):
    """Options of a mount of type image."""

    go_name: ClassVar[str] = "mount.ImageOptions"
    go_omitempty: ClassVar[frozenset[str]] = frozenset({"subpath"})

    subpath: str = ""


class TmpfsOptions(_Struct):
    """Options of a mount of type tmpfs; Mode is the number, not its octal digits."""

    go_name: ClassVar[str] = "mount.TmpfsOptions"
    go_omitempty: ClassVar[frozenset[str]] = frozenset({"size_bytes", "mode", "options"})

    size_bytes: int = 0
    mode: Annotated[int, Go("uint32")] = 0
    options: list[list[str]] | None = None


class Mount(_Struct):
    """One entry of ``--mount``."""

    go_name: ClassVar[str] = "mount.Mount"
    go_omitempty: ClassVar[frozenset[str]] = frozenset(
        {
            "type",
            "source",
            "target",
            "read_only",
            "consistency",
            "bind_options",
            "volume_options",
            "image_options",
            "tmpfs_options",
            "cluster_options",
        }
    )

    type: Annotated[str, Go("mount.Type")] = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: Annotated[str, Go("mount.Consistency")] = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    image_options: ImageOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    cluster_options: dict[str, Any] | None = None


class Resources(_Struct):
    """Limits: the part of HostConfig that ``docker update`` can change. Bytes, microseconds, nanocpus."""

    go_name: ClassVar[str] = "container.Resources"

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: Annotated[int, Go("uint16")] = 0
    blkio_weight_device: Annotated[list[WeightDevice] | None, Go("[]*blkiodev.WeightDevice")] = None
    blkio_device_read_bps: _Throttles = None
    blkio_device_write_bps: _Throttles = None
    blkio_device_read_iops: _Throttles = field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: _Throttles = field(default=None, name="BlkioDeviceWriteIOps")
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: int = 0
    kernel_memory_tcp: int = field(default=0, name="KernelMemoryTCP")
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    pids_limit: int | None = None
    ulimits: Annotated[list[Ulimit] | None, Go("[]*units.Ulimit")] = None
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: Annotated[int, Go("uint64")] = field(default=0, name="IOMaximumIOps")
    io_maximum_bandwidth: Annotated[int, Go("uint64")] = field(default=0, name="IOMaximumBandwidth")


class HostConfig(Resources):
    """The part of a container's configuration that depends on the host."""

    go_name: ClassVar[str] = "container.HostConfig"
    go_omitempty: ClassVar[frozenset[str]] = frozenset(
        {
            "annotations",
            "storage_opt",
            "tmpfs",
            "sysctls",
            "runtime",
            "mounts",
            "init",
            "kernel_memory",
            "kernel_memory_tcp",
        }
    )

    binds: list[str] | None = None
    container_id_file: str = field(default="", name="ContainerIDFile")
    log_config: LogConfig = field(default_factory=LogConfig)
    network_mode: Annotated[str, Go("container.NetworkMode")] = ""
    port_bindings: Annotated[dict[Port, list[PortBinding] | None] | None, Go("network.PortMap")] = None
    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    console_size: Annotated[list[Annotated[int, Go("uint")]], Go("[2]uint")] = field(
        default_factory=lambda: [0, 0]
    )
    annotations: StringMap | None = None
    cap_add: list[str] | None = None
    cap_drop: list[str] | None = None
    cgroupns_mode: Annotated[str, Go("container.CgroupnsMode")] = ""
    dns: list[Address] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: Annotated[str, Go("container.IpcMode")] = ""
    cgroup: Annotated[str, Go("container.CgroupSpec")] = ""
    links: list[str] | None = None
    oom_score_adj: Annotated[int, Go("int")] = 0
    pid_mode: Annotated[str, Go("container.PidMode")] = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] | None = None
    storage_opt: StringMap | None = None
    tmpfs: StringMap | None = None
    uts_mode: Annotated[str, Go("container.UTSMode")] = field(default="", name="UTSMode")
    userns_mode: Annotated[str, Go("container.UsernsMode")] = ""
    shm_size: int = 0
    sysctls: StringMap | None = None
    runtime: str = ""
    isolation: Annotated[str, Go("container.Isolation")] = ""
    mounts: list[Mount] | None = None
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    init: bool | None = None


class EndpointIPAMConfig(_Struct):
    """Addresses asked for on one network."""

    go_name: ClassVar[str] = "network.EndpointIPAMConfig"
    go_omitempty: ClassVar[frozenset[str]] = frozenset({"ipv4_address", "ipv6_address", "link_local_ips"})

    ipv4_address: Address = field(default="", name="IPv4Address")
    ipv6_address: Address = field(default="", name="IPv6Address")
    link_local_ips: list[Address] | None = field(default=None, name="LinkLocalIPs")


class EndpointSettings(_Struct):
    """A container's place on one network: the asked part, then what the engine fills in."""

    go_name: ClassVar[str] = "network.EndpointSettings"

    ipam_config: EndpointIPAMConfig | None = field(default=None, name="IPAMConfig")
    links: list[str] | None = None
    aliases: list[str] | None = None
    driver_opts: StringMap | None = None
    gw_priority: Annotated[int, Go("int")] = 0
    network_id: str = field(default="", name="NetworkID")
    endpoint_id: str = field(default="", name="EndpointID")
    gateway: Address = ""
    ip_address: Address = field(default="", name="IPAddress")
    mac_address: str = ""
    ip_prefix_len: Annotated[int, Go("int")] = field(default=0, name="IPPrefixLen")
    ipv6_gateway: Address = field(default="", name="IPv6Gateway")
    global_ipv6_address: Address = field(default="", name="GlobalIPv6Address")
    global_ipv6_prefix_len: Annotated[int, Go("int")] = field(default=0, name="GlobalIPv6PrefixLen")
    dns_names: list[str] | None = field(default=None, name="DNSNames")


class NetworkingConfig(_Struct):
    """The networks a new container is put on, by name."""

    go_name: ClassVar[str] = "network.NetworkingConfig"

    endpoints_config: dict[str, EndpointSettings | None] | None = None


class CreateRequest(ContainerConfig):
    """The body of ``POST /containers/create``: a ContainerConfig with two more members.

    Decode it with ``gojson.convert(body, CreateRequest, root="")``: dockerd's messages name no struct here.
    """

    go_name: ClassVar[str] = "container.CreateRequest"

    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None

    def container_config(self) -> ContainerConfig:
        """The part without HostConfig and NetworkingConfig."""
        return ContainerConfig(**{name: getattr(self, name) for name in ContainerConfig.__struct_fields__})

    def is_empty(self) -> bool:
        """Whether the request says nothing at all, which dockerd refuses."""
        return self == CreateRequest()


class UpdateRequest(Resources):
    """The body of ``POST /containers/{id}/update``."""

    go_name: ClassVar[str] = "container.UpdateConfig"

    restart_policy: RestartPolicy = field(default_factory=RestartPolicy)


class ExecConfig(_Struct):
    """The body of ``POST /containers/{id}/exec``."""

    go_name: ClassVar[str] = "container.ExecCreateRequest"

    user: str = ""
    privileged: bool = False
    tty: bool = False
    console_size: Annotated[list[Annotated[int, Go("uint")]] | None, Go("*[2]uint")] = None
    attach_stdin: bool = False
    attach_stderr: bool = False
    attach_stdout: bool = False
    detach_keys: str = ""
    env: list[str] | None = None
    working_dir: str = ""
    cmd: list[str] | None = None


class ExecStart(_Struct):
    """The body of ``POST /exec/{id}/start``."""

    go_name: ClassVar[str] = "container.ExecStartRequest"

    detach: bool = False
    tty: bool = False
    console_size: Annotated[list[Annotated[int, Go("uint")]] | None, Go("*[2]uint")] = None


# What inspect shows of the paths hidden from unprivileged containers (dockerd 29's list, sorted).
MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# The numbers of --ulimit's names, getrlimit(2).
RLIMITS = {
    "cpu": 0,
    "fsize": 1,
    "data": 2,
    "stack": 3,
    "core": 4,
    "rss": 5,
    "nproc": 6,
    "nofile": 7,
    "memlock": 8,
    "as": 9,
    "locks": 10,
    "sigpending": 11,
    "msgqueue": 12,
    "nice": 13,
    "rtprio": 14,
    "rttime": 15,
}
DEFAULT_SHM_SIZE = 64 * 1024 * 1024


def with_defaults(
    host: HostConfig,
    *,
    cgroup_v2: bool,
    log: LogConfig | None = None,
    runtime: str = "runc",
    ipc_mode: str = "private",
    shm_size: int = DEFAULT_SHM_SIZE,
) -> HostConfig:
    """A copy of ``host`` with what dockerd fills in at create, as inspect then shows it.

    ``log`` is the daemon's default log configuration (json-file without options when not given).
    """
    host = msgspec.structs.replace(host)
    _default_modes(host, cgroup_v2, ipc_mode)
    host.log_config = _default_log(host.log_config, log or LogConfig(type="json-file"))
    host.restart_policy = RestartPolicy(
        name=host.restart_policy.name or "no", maximum_retry_count=host.restart_policy.maximum_retry_count
    )
    host.shm_size = host.shm_size or shm_size
    host.runtime = host.runtime or runtime
    host.memory_swappiness = None if host.memory_swappiness == -1 else host.memory_swappiness
    host.pids_limit = None if host.pids_limit is not None and host.pids_limit <= 0 else host.pids_limit
    host.oom_kill_disable = bool(host.oom_kill_disable)
    host.port_bindings = {} if host.port_bindings is None else host.port_bindings
    if host.memory and not host.memory_swap:
        host.memory_swap = host.memory * 2
    _default_paths(host)
    return host


def _default_modes(host: HostConfig, cgroup_v2: bool, ipc_mode: str) -> None:
    if host.network_mode in ("", "default"):
        host.network_mode = "bridge"
    host.ipc_mode = host.ipc_mode or ipc_mode
    if not host.cgroupns_mode:
        host.cgroupns_mode = "private" if cgroup_v2 and not host.privileged else "host"


def _default_log(asked: LogConfig, default: LogConfig) -> LogConfig:
    """The daemon's options apply only when the container uses the daemon's driver."""
    if not asked.type or asked.type == default.type:
        return LogConfig(type=default.type, config={**(default.config or {}), **(asked.config or {})})
    return LogConfig(type=asked.type, config=asked.config or {})


def _default_paths(host: HostConfig) -> None:
    """``privileged`` and ``systempaths=unconfined`` show no paths; otherwise the defaults unless asked."""
    unconfined = "systempaths=unconfined" in (host.security_opt or ())
    if unconfined:
        host.masked_paths, host.readonly_paths = [], []
    elif not host.privileged:
        host.masked_paths = list(MASKED_PATHS) if host.masked_paths is None else host.masked_paths
        host.readonly_paths = list(READONLY_PATHS) if host.readonly_paths is None else host.readonly_paths
