"""dockerd's flags and daemon.json keys: one table that both the command line and the file are read by.

What dockerd knows and sampan doesn't do is listed too, with the reason: it is refused with that reason,
never ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

STRING, BOOL, INT, LIST, SIZE, MAP, POOLS, ULIMITS, NETWORKS = (
    "string",
    "bool",
    "int",
    "list",
    "size",
    "map",
    "pools",
    "ulimits",
    "networks",
)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its long flag, its daemon.json key, how its value is read, where it goes."""

    flag: str
    kind: str
    help: str
    key: str = ""
    short: str = ""
    target: str = ""

    @property
    def file_key(self) -> str:
        """The key in daemon.json; "" for what only the command line may say."""
        return "" if self.key == "-" else self.key or self.flag

    @property
    def field(self) -> str:
        """The name of the field that it sets."""
        return self.target or (self.file_key or self.flag).replace("-", "_")


OPTIONS = (
    Option("config-file", STRING, "Daemon configuration file (default /etc/sampan/daemon.json)", key="-"),
    Option("validate", BOOL, "Validate the configuration and exit", key="-"),
    Option("version", BOOL, "Print version information and quit", key="-", short="v"),
    Option("help", BOOL, "Print usage", key="-", short="h"),
    Option("host", LIST, "Socket to serve on: unix://, tcp://, fd://", key="hosts", short="H"),
    Option("group", STRING, "Group of the unix socket (default docker)", short="G"),
    Option("pidfile", STRING, "Path of the PID file", short="p"),
    Option("data-root", STRING, "Root of the persistent state (default /var/lib/sampan)"),
    Option("exec-root", STRING, "Root of the run-time state (default /run/sampan)"),
    Option("debug", BOOL, "Debug mode: the most talkative log", short="D"),
    Option("log-level", STRING, "debug, info, warn, error or fatal (default info)", short="l"),
    Option("log-format", STRING, "text or json (default text)"),
    Option("label", LIST, "key=value label of the daemon", key="labels"),
    Option("feature", MAP, "Feature of the daemon, name=true", key="features"),
    Option("tls", BOOL, "TLS on tcp sockets; implied by --tlsverify"),
    Option("tlsverify", BOOL, "TLS, and only for clients with a certificate of the CA"),
    Option("tlscacert", STRING, "Certificates of the CA that signs clients"),
    Option("tlscert", STRING, "Certificate of this server"),
    Option("tlskey", STRING, "Key of this server"),
    Option(
        "bridge", STRING, "Bridge of the default network (default sampan0; none for no network)", short="b"
    ),
    Option("bip", STRING, "Address of the bridge, CIDR"),
    Option("fixed-cidr", STRING, "Part of the bridge's subnet that containers get"),
    Option("default-gateway", STRING, "Gateway of the default network, IPv4"),
    Option("ipv6", BOOL, "Give the default network IPv6, too"),
    Option("bip6", STRING, "IPv6 address of the bridge, CIDR"),
    Option("fixed-cidr-v6", STRING, "IPv6 subnet of the default network, or the part that containers get"),
    Option("default-gateway-v6", STRING, "Gateway of the default network, IPv6"),
    Option(
        "default-address-pool", POOLS, "Pool for new networks: base=CIDR,size=N", key="default-address-pools"
    ),
    Option(
        "default-network-opt",
        NETWORKS,
        "Option of new networks: driver=name=value",
        key="default-network-opts",
    ),
    Option(
        "host-gateway-ip", LIST, "What host-gateway stands for (default: the bridge)", key="host-gateway-ips"
    ),
    Option("mtu", INT, "MTU of the default network (default 1500)"),
    Option("icc", BOOL, "Containers of the default network reach each other (default true)"),
    Option("ip", STRING, "Host address for published ports (default 0.0.0.0)"),
    Option("ip-forward", BOOL, "Switch IPv4 forwarding on (default true)"),
    Option("allow-direct-routing", BOOL, "Published ports are reached at containers' own addresses, too"),
    Option(
        "bridge-accept-fwmark", STRING, "Packets with this mark (MARK[/MASK]) reach every port of containers"
    ),
    Option("ip-masq", BOOL, "Masquerade what leaves the bridge (default true)"),
    Option("iptables", BOOL, "Write packet filter rules, in an nftables table of our own (default true)"),
    Option("dns", LIST, "DNS server of containers"),
    Option("dns-opt", LIST, "Option for containers' resolv.conf", key="dns-opts"),
    Option("dns-search", LIST, "Search domain of containers"),
    Option("log-driver", STRING, "Log driver of containers (default json-file)"),
    Option("log-opt", MAP, "Option of the log driver, name=value", key="log-opts"),
    Option("default-ulimit", ULIMITS, "Limit of containers: nofile=1024:4096", key="default-ulimits"),
    Option("default-shm-size", SIZE, "Size of containers' /dev/shm (default 64m)"),
    Option("default-cgroupns-mode", STRING, "host or private"),
    Option("default-ipc-mode", STRING, "shareable or private (default private)"),
    Option("cgroup-parent", STRING, "Parent cgroup of all containers"),
    Option("init", BOOL, "Give every container a reaping first process"),
    Option("no-new-privileges", BOOL, "Set no-new-privileges on containers"),
    Option("seccomp-profile", STRING, "Seccomp profile: a path, builtin or unconfined"),
    Option("live-restore", BOOL, "Containers run on when the daemon stops (default true)"),
    Option("shutdown-timeout", INT, "Seconds that containers get to stop (default 15)"),
    Option(
        "storage-opt",
        LIST,
        "overlay2.size=SIZE: what a container may write unless told otherwise",
        key="storage-opts",
    ),
    Option("cdi-spec-dir", LIST, "Directory of CDI specifications of devices", key="cdi-spec-dirs"),
    Option("insecure-registry", LIST, "Registry without verified TLS", key="insecure-registries"),
    Option("registry-mirror", LIST, "Mirror of Docker Hub", key="registry-mirrors"),
    Option("http-proxy", STRING, "Proxy for http registries (default $HTTP_PROXY)", key="-"),
    Option("https-proxy", STRING, "Proxy for https registries (default $HTTPS_PROXY)", key="-"),
    Option("no-proxy", STRING, "Hosts that are reached without a proxy (default $NO_PROXY)", key="-"),
    Option("max-concurrent-downloads", INT, "Layers of a pull at a time (default 3)"),
    Option("max-concurrent-uploads", INT, "Layers of a push at a time (default 5)"),
    Option("max-download-attempts", INT, "Tries for a layer (default 5)"),
)

UNSUPPORTED = {
    "add-runtime": "sampan launches containers itself; other runtimes can't be added",
    "api-cors-header": "CORS headers were removed from the Engine API",
    "authorization-plugin": "authorization plugins aren't supported",
    "authorization-plugins": "authorization plugins aren't supported",
    "cluster-advertise": "sampan has no cluster store",
    "cluster-store": "sampan has no cluster store",
    "cluster-store-opts": "sampan has no cluster store",
    "containerd": "sampan needs no containerd",
    "containerd-namespace": "sampan needs no containerd",
    "containerd-plugins-namespace": "sampan needs no containerd",
    "cpu-rt-period": "real-time scheduling defaults aren't supported",
    "cpu-rt-runtime": "real-time scheduling defaults aren't supported",
    "cri-containerd": "sampan needs no containerd",
    "default-runtime": "sampan launches containers itself; there is only one runtime",
    "exec-opt": "the cgroup driver is chosen by the machine",
    "exec-opts": "the cgroup driver is chosen by the machine",
    "experimental": "there are no experimental features",
    "firewall-backend": "rules are nftables', in a table of our own",
    "init-path": "the first process of --init is built in",
    "ip-forward-no-drop": "the host's FORWARD policy is never changed",
    "ip6tables": "one table holds the rules for IPv4 and IPv6: see iptables",
    "metrics-addr": "there is no metrics endpoint",
    "network-control-plane-mtu": "sampan isn't a swarm node",
    "network-diagnostic-port": "sampan isn't a swarm node",
    "node-generic-resource": "sampan isn't a swarm node",
    "node-generic-resources": "sampan isn't a swarm node",
    "oom-score-adjust": "set it where the daemon is started (systemd's OOMScoreAdjust)",
    "raw-logs": "the log has no colours",
    "rootless": "sampand needs root",
    "runtimes": "sampan launches containers itself; other runtimes can't be added",
    "selinux-enabled": "SELinux labels aren't set",
    "storage-driver": "there is only overlay",
    "swarm-default-advertise-addr": "sampan isn't a swarm node",
    "userland-proxy": "published ports have a listener of sampan's own",
    "userland-proxy-path": "published ports have a listener of sampan's own",
    "userns-remap": "a user namespace for all containers isn't supported",
}
"""dockerd's other flags and keys, with the reason why they are refused."""

HARMLESS: dict[str, tuple[object, ...]] = {
    "default-runtime": ("runc",),
    "exec-opts": (["native.cgroupdriver=cgroupfs"],),
    "exec-opt": ("native.cgroupdriver=cgroupfs",),
    "experimental": (False,),
    "firewall-backend": ("nftables",),
    "ip-forward-no-drop": (True,),
    "ip6tables": (False, True),
    "raw-logs": (True,),
    "rootless": (False,),
    "runtimes": ({},),
    "selinux-enabled": (False,),
    "storage-driver": ("overlay2", "overlayfs"),
    "userland-proxy": (False, True),
}
"""Values of unsupported settings that say what sampan does anyway: these are accepted."""

PROXIES = ("http-proxy", "https-proxy", "no-proxy")
"""Flags that are keys of the object "proxies" in daemon.json."""

BUILD_GC = ("enabled", "defaultKeepStorage", "defaultMaxUsedSpace")
"""Keys of the object "builder", "gc" in daemon.json; the last two are one."""

BY_FLAG = {option.flag: option for option in OPTIONS}
BY_SHORT = {option.short: option for option in OPTIONS if option.short}
BY_KEY = {option.file_key: option for option in OPTIONS if option.file_key}
