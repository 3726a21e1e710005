"""``config.json`` of a bundle as typed objects: config.md and config-linux.md of the runtime specification.

Fields that sampan can't honour are refused here by name (:class:`sampan.errors.Unsupported`), malformed
ones with InvalidParameter; what the specification doesn't know is ignored, as it demands.
"""

from __future__ import annotations

from sampan.errors import InvalidParameter, Unsupported
from sampan.runtime.hooks import Hook
from sampan.runtime.oci.document import INT64, UINT64, Node
from sampan.runtime.oci.resources import Resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION_LOW = "1.0.0"
VERSION = "1.3.0"

NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
RLIMITS = (
    *("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS"),
    *("LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"),
)  # in the order of their numbers, getrlimit(2)
_POLICIES = (
    "SCHED_OTHER",
    "SCHED_FIFO",
    "SCHED_RR",
    "SCHED_BATCH",
    "SCHED_ISO",
    "SCHED_IDLE",
    "SCHED_DEADLINE",
)
POLICY_NUMBERS = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_IDLE": 5}
PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}


def refuse(node: Node, name: str, why: str) -> None:
    """Unsupported when the field has a value that asks for something."""
    if node.has(name):
        raise Unsupported(f"{node.where(name)}: {why}")


class Mapping:
    """A range of ids: ``size`` ids from ``container`` on are ``host`` and following on the host."""

    __slots__ = ("container", "host", "size")

    def __init__(self, node: Node) -> None:
        self.container = node.needed_number("containerID")
        self.host = node.needed_number("hostID")
        self.size = node.needed_number("size", 1)


class Mount:
    """An entry of ``mounts``."""

    __slots__ = ("destination", "gid_mappings", "kind", "options", "path", "source", "uid_mappings")

    def __init__(self, node: Node) -> None:
        self.path = node.path
        destination = node.needed_text("destination")
        # Relative ones are deprecated, and mean below the root (config.md, Mounts).
        self.destination = destination if destination.startswith("/") else f"/{destination}"
        self.kind = node.text("type")
        self.source = node.text("source")
        self.options = node.texts("options")
        self.uid_mappings = node.objects("uidMappings", Mapping)
        self.gid_mappings = node.objects("gidMappings", Mapping)
        if bool(self.uid_mappings) != bool(self.gid_mappings):
            raise InvalidParameter(f"{node.path}: uidMappings and gidMappings go together")


class User:
    """``process.user``."""

    __slots__ = ("gid", "groups", "uid", "umask")

    def __init__(self, node: Node) -> None:
        self.uid = node.number("uid") or 0
        self.gid = node.number("gid") or 0
        self.groups = node.numbers("additionalGids")
        self.umask = node.number("umask", 0, 0o7777)


class Rlimit:
    """An entry of ``process.rlimits``; ``number`` as in setrlimit(2)."""

    __slots__ = ("hard", "number", "soft")

    def __init__(self, node: Node) -> None:
        name = node.needed_text("type")
        short = name.removeprefix("RLIMIT_")
        if short == name or short not in RLIMITS:
            raise InvalidParameter(f"{node.where('type')}: {name!r} isn't a resource limit; see getrlimit(2)")
        self.number = RLIMITS.index(short)
        self.soft = _limit(node.needed_number("soft", 0, UINT64))
        self.hard = _limit(node.needed_number("hard", 0, UINT64))


def _limit(value: int) -> int:
    """RLIM_INFINITY is -1 in Python."""
    return -1 if value == UINT64 else value


class Scheduler:
    """``process.scheduler``; ``policy`` as in sched(7)."""

    __slots__ = ("nice", "policy", "priority", "reset_on_fork")

    def __init__(self, node: Node) -> None:
        name = node.choice("policy", _POLICIES)
        if name not in POLICY_NUMBERS:
            node.required("policy")
            raise Unsupported(f"{node.where('policy')}: {name} isn't supported")
        self.policy = POLICY_NUMBERS[name]
        self.nice = node.number("nice", -20, 19)
        self.priority = node.number("priority", 0, 99) or 0
        flags = node.texts("flags")
        for flag in flags:
            if flag != "SCHED_FLAG_RESET_ON_FORK":
                raise Unsupported(f"{node.where('flags')}: {flag} isn't supported")
        self.reset_on_fork = bool(flags)
        for field in ("runtime", "deadline", "period"):
            if node.number(field, 0, UINT64):
                raise Unsupported(f"{node.where(field)}: only SCHED_DEADLINE has it, which isn't supported")


class IOPriority:
    """``process.ioPriority``: class name and level 0 to 7."""

    __slots__ = ("io_class", "level")

    def __init__(self, node: Node) -> None:
        node.required("class")
        classes = ("IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE")
        self.io_class = node.choice("class", classes)
        self.level = node.number("priority", 0, 7) or 0


class Process:
    """``process``; also the whole of the file given to ``exec --process``."""

    def __init__(self, node: Node) -> None:
        self.terminal = node.flag("terminal")
        self.console_size = node.object("consoleSize", _size)
        self.user = User(node.node("user"))
        self.args = node.texts("args")
        if not self.args:
            raise InvalidParameter(f"{node.where('args')}: at least the program is required")
        self.env = node.texts("env")
        self.cwd = node.needed_text("cwd")
        if not self.cwd.startswith("/"):
            raise InvalidParameter(f"{node.where('cwd')}: {self.cwd!r} isn't an absolute path")
        self.capabilities = node.object("capabilities", _capabilities)
        self.rlimits = node.objects("rlimits", Rlimit)
        numbers = [limit.number for limit in self.rlimits]
        if len(set(numbers)) < len(numbers):
            raise InvalidParameter(f"{node.where('rlimits')}: the same limit is there twice")
        self.no_new_privileges = node.flag("noNewPrivileges")
        self.apparmor = node.text("apparmorProfile")
        self.oom_score_adj = node.number("oomScoreAdj", -1000, 1000)
        self.scheduler = node.object("scheduler", Scheduler)
        self.io_priority = node.object("ioPriority", IOPriority)
        affinity = node.node("execCPUAffinity")
        self.first_cpus = affinity.text("initial")
        self.final_cpus = affinity.text("final")
        if node.text("selinuxLabel"):
            raise Unsupported(f"{node.where('selinuxLabel')}: SELinux labels aren't supported")


def _size(node: Node) -> tuple[int, int]:
    """Rows and columns."""
    return node.needed_number("height", 0, 0xFFFF), node.needed_number("width", 0, 0xFFFF)


def _capabilities(node: Node) -> dict[str, list[str]]:
    return {name: node.texts(name) for name in CAPABILITY_SETS}


def hook(node: Node) -> Hook:
    """A hook of a configuration."""
    path = node.needed_text("path")
    if not path.startswith("/"):
        raise InvalidParameter(f"{node.where('path')}: {path!r} isn't an absolute path")
    return Hook(path, node.texts("args"), node.texts("env"), node.number("timeout", 1, INT64))


class Device:
    """An entry of ``linux.devices``."""

    __slots__ = ("gid", "kind", "major", "minor", "mode", "path", "uid")

    def __init__(self, node: Node) -> None:
        node.required("type")
        self.kind = node.choice("type", ("c", "b", "u", "p"))
        self.path = node.needed_text("path")
        if not self.path.startswith("/"):
            raise InvalidParameter(f"{node.where('path')}: {self.path!r} isn't an absolute path")
        if self.kind != "p":
            node.required("major")
            node.required("minor")
        self.major = node.number("major", 0) or 0
        self.minor = node.number("minor", 0) or 0
        mode = node.number("fileMode")
        self.mode = 0o666 if mode is None else mode & 0o7777
        self.uid = node.number("uid") or 0
        self.gid = node.number("gid") or 0


class Namespace:
    """An entry of ``linux.namespaces``; without ``path`` a new one."""

    __slots__ = ("kind", "path")

    def __init__(self, node: Node) -> None:
        node.required("type")
        self.kind = node.choice("type", NAMESPACES)
        self.path = node.text("path")
        if self.path and not self.path.startswith("/"):
            raise InvalidParameter(f"{node.where('path')}: {self.path!r} isn't an absolute path")


class Linux:
    """``linux``."""

    def __init__(self, node: Node) -> None:
        self.namespaces = {found.kind: found for found in node.objects("namespaces", Namespace)}
        if len(self.namespaces) < len(node.objects("namespaces", Namespace)):
            raise InvalidParameter(f"{node.where('namespaces')}: the same type is there twice")
        self.uid_mappings = node.objects("uidMappings", Mapping)
        self.gid_mappings = node.objects("gidMappings", Mapping)
        self.time_offsets = node.members("timeOffsets", _offset)
        self.devices = node.objects("devices", Device)
        self.cgroups_path = node.text("cgroupsPath")
        self.resources = Resources(node.node("resources"))
        self.rootfs_propagation = node.choice(
            "rootfsPropagation",
            ("shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"),
        )
        self.seccomp = node.raw("seccomp")
        self.sysctl = node.mapping("sysctl")
        self.masked_paths = node.texts("maskedPaths")
        self.readonly_paths = node.texts("readonlyPaths")
        personality = node.node("personality")
        self.personality = personality.choice("domain", tuple(PERSONALITIES))
        refuse(personality, "flags", "no flag of personality(2) is supported")
        if node.text("mountLabel"):
            raise Unsupported(f"{node.where('mountLabel')}: SELinux labels aren't supported")
        refuse(node, "intelRdt", "Intel RDT isn't supported")
        refuse(node, "memoryPolicy", "NUMA memory policies aren't supported")
        if node.raw("netDevices"):
            raise Unsupported(f"{node.where('netDevices')}: moving network devices isn't supported")


def _offset(node: Node) -> tuple[int, int]:
    """Seconds and nanoseconds."""
    return node.number("secs", -INT64, INT64) or 0, node.number("nanosecs", 0, 999_999_999) or 0


class Spec:
    """The whole of ``config.json``; ``raw`` is what it was read from."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        node = Node(raw)
        self.version = node.needed_text("ociVersion")
        _check_version(self.version)
        node.required("root")
        root = node.node("root")
        self.root = root.needed_text("path")
        self.readonly = root.flag("readonly")
        self.mounts = node.objects("mounts", Mount)
        if not node.has("process"):
            raise InvalidParameter("process: this field is required")
        self.process = Process(node.node("process"))
        self.hostname = node.text("hostname")
        self.domainname = node.text("domainname")
        hooks = node.node("hooks")
        self.hooks = {name: hooks.objects(name, hook) for name in HOOKS}
        self.annotations = node.mapping("annotations")
        node.required("linux")
        self.linux = Linux(node.node("linux"))
        self._check()

    def _check(self) -> None:
        """What concerns more than one field."""
        linux, spaces = self.linux, self.linux.namespaces
        if "mount" not in spaces or spaces["mount"].path:
            raise Unsupported(
                "linux.namespaces: a container without a new mount namespace isn't supported",
                hint='Add {"type": "mount"}.',
            )
        for field, value in (("hostname", self.hostname), ("domainname", self.domainname)):
            if value and "uts" not in spaces:
                raise InvalidParameter(f"{field}: it can't be set without a uts namespace")
        new_user = "user" in spaces and not spaces["user"].path
        if new_user and not (linux.uid_mappings and linux.gid_mappings):
            raise InvalidParameter("linux.uidMappings, linux.gidMappings: a new user namespace needs both")
        if (linux.uid_mappings or linux.gid_mappings) and "user" not in spaces:
            raise InvalidParameter("linux.uidMappings: there is no user namespace to map ids in")
        if linux.time_offsets and ("time" not in spaces or spaces["time"].path):
            raise InvalidParameter("linux.timeOffsets: there is no new time namespace")
        for clock in linux.time_offsets:
            if clock not in ("monotonic", "boottime"):
                raise InvalidParameter(f"linux.timeOffsets: {clock!r} isn't monotonic or boottime")
        _check_sysctl(self)


_IPC_SYSCTL = ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")


def _check_sysctl(spec: Spec) -> None:
    """Only parameters of the container's own namespaces: others would change the host."""
    spaces = spec.linux.namespaces
    for name in spec.linux.sysctl:
        key = name.replace("/", ".")
        if key.startswith("net."):
            needed = "network"
        elif key.startswith("fs.mqueue.") or key.removeprefix("kernel.") in _IPC_SYSCTL:
            needed = "ipc"
        elif key in ("kernel.domainname", "kernel.hostname"):
            needed = "uts"
        else:
            raise InvalidParameter(f'linux.sysctl: "{name}" is not in a separate kernel namespace')
        if needed not in spaces:
            raise InvalidParameter(f'linux.sysctl: "{name}" is not allowed without a {needed} namespace')


def _check_version(version: str) -> None:
    """Accept 1.x.y, also of later minor versions: those only add (config.md, Specification version)."""
    numbers = version.partition("-")[0].partition("+")[0].split(".")
    if len(numbers) != 3 or not all(part.isdecimal() for part in numbers):
        raise InvalidParameter(f"ociVersion: {version!r} isn't a version")
    if numbers[0] != "1":
        raise Unsupported(
            f"ociVersion: {version} isn't supported, only {VERSION_LOW} to {VERSION} and other 1.x"
        )
