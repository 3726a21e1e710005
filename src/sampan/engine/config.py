"""What an engine is told when it starts: where things live, and the defaults for what users don't say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_DATA_ROOT = Path("/var/lib/sampan")
DEFAULT_EXEC_ROOT = Path("/run/sampan")
DEFAULT_BRIDGE = "sampan0"

MIB = 1024 * 1024

RELOADABLE = frozenset(
    {
        "debug",
        "features",
        "insecure_registries",
        "labels",
        "live_restore",
        "max_concurrent_downloads",
        "max_concurrent_uploads",
        "max_download_attempts",
        "registry_mirrors",
        "shutdown_timeout",
    }
)
"""The fields that take effect on SIGHUP; all others need a new start."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A default resource limit of containers: soft and hard value of one RLIMIT (``nofile`` …)."""

    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class AddressPool:
    """Where new networks take their subnets from: subnets of ``/size`` out of ``base`` (CIDR)."""

    base: str
    size: int


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Everything that an engine is told. Field names are daemon.json's keys in Python's spelling.

    Sizes are bytes, times seconds. ``bip`` is the bridge's own address with its prefix ("" lets the engine
    choose a free one); ``live_restore`` lets containers run on while the engine is down.
    """

    data_root: Path = DEFAULT_DATA_ROOT
    exec_root: Path = DEFAULT_EXEC_ROOT
    debug: bool = False
    labels: tuple[str, ...] = ()
    features: Mapping[str, bool] = field(default_factory=dict)

    bridge: str = DEFAULT_BRIDGE
    bip: str = ""
    fixed_cidr: str = ""
    default_gateway: str = ""
    ipv6: bool = False
    bip6: str = ""
    fixed_cidr_v6: str = ""
    default_gateway_v6: str = ""
    default_network_opts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    host_gateway_ips: tuple[str, ...] = ()
    default_address_pools: tuple[AddressPool, ...] = ()
    mtu: int = 1500
    icc: bool = True
    ip: str = "0.0.0.0"
    ip_forward: bool = True
    ip_masq: bool = True
    allow_direct_routing: bool = False
    bridge_accept_fwmark: str = ""
    iptables: bool = True
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()

    log_driver: str = "json-file"
    log_opts: Mapping[str, str] = field(default_factory=dict)
    default_ulimits: Mapping[str, Limit] = field(default_factory=dict)
    default_shm_size: int = 64 * MIB
    default_cgroupns_mode: str = ""
    default_ipc_mode: str = "private"
    cgroup_parent: str = ""
    init: bool = False
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    live_restore: bool = True
    shutdown_timeout: int = 15
    storage_opts: tuple[str, ...] = ()
    build_cache_size: int = 20 << 30  # 0: only a prune takes anything
    cdi_spec_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")

    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5

    def cdi_directories(self) -> list[str]:
        """Where CDI devices are described; none when the feature ``cdi`` is off, or ``cdi-spec-dirs`` is [""]."""
        return [name for name in self.cdi_spec_dirs if name] if self.features.get("cdi", True) else []
