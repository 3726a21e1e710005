"""``linux.resources`` (config-linux.md, Control groups) as typed objects, and as cgroup files to write."""

from __future__ import annotations

from sampan.errors import InvalidParameter, Unsupported
from sampan.runtime.oci.document import INT64, UINT64, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Limits = list[tuple[str, str, str]]


class DeviceRule:
    """Allow or deny ``access`` (of ``rwm``) to devices; None numbers mean any."""

    __slots__ = ("access", "allow", "kind", "major", "minor")

    def __init__(self, node: Node) -> None:
        node.required("allow")
        self.allow = node.flag("allow")
        self.kind = node.choice("type", ("a", "c", "b"), "a")
        self.major = _any(node.number("major", -1))
        self.minor = _any(node.number("minor", -1))
        self.access = node.text("access") or "rwm"
        if not set(self.access) <= set("rwm"):
            raise InvalidParameter(f"{node.where('access')}: {self.access!r} isn't made of r, w and m")

    def words(self) -> str:
        """As cgroup v1 writes it: ``c 1:3 rwm``."""
        numbers = ":".join("*" if number is None else str(number) for number in (self.major, self.minor))
        return f"{self.kind} {numbers} {self.access}"


def _any(number: int | None) -> int | None:
    return None if number is None or number < 0 else number


class Throttle:
    """A rate or weight of one device."""

    __slots__ = ("device", "leaf_weight", "rate", "weight")

    def __init__(self, node: Node) -> None:
        self.device = f"{node.needed_number('major')}:{node.needed_number('minor')}"
        self.rate = node.number("rate", 0, UINT64)
        self.weight = node.number("weight", 0, 1000)
        self.leaf_weight = node.number("leafWeight", 0, 1000)


class Resources:
    """Limits; None everywhere means: leave as it is."""

    def __init__(self, node: Node) -> None:
        self.devices = node.objects("devices", DeviceRule)
        memory = node.node("memory")
        self.memory = memory.number("limit", -1, INT64)
        self.reservation = memory.number("reservation", -1, INT64)
        self.swap = memory.number("swap", -1, INT64)
        self.kernel_tcp = memory.number("kernelTCP", -1, INT64)
        self.swappiness = memory.number("swappiness", 0, 100)
        self.disable_oom_killer = memory.flag("disableOOMKiller")
        self.check_before_update = memory.flag("checkBeforeUpdate")
        # "kernel" is not recommended and gone from kernels; runc drops it as well, with a warning.
        self.ignored = [memory.where("kernel")] if (memory.number("kernel", -1, INT64) or 0) > 0 else []
        self._read_cpu(node.node("cpu"))
        self.pids = node.node("pids").number("limit", -1, INT64)
        self._read_block(node.node("blockIO"))
        self.huge = node.objects("hugepageLimits", _huge)
        network = node.node("network")
        self.net_class = network.number("classID")
        self.net_priorities = network.objects("priorities", _priority)
        self.rdma = node.members("rdma", _rdma)
        self.unified = node.mapping("unified")

    def _read_cpu(self, cpu: Node) -> None:
        self.shares = cpu.number("shares", 0, UINT64)
        self.quota = cpu.number("quota", -1, INT64)
        self.burst = cpu.number("burst", 0, UINT64)
        self.period = cpu.number("period", 0, UINT64)
        self.rt_runtime = cpu.number("realtimeRuntime", -1, INT64)
        self.rt_period = cpu.number("realtimePeriod", 0, UINT64)
        self.cpus = cpu.text("cpus")
        self.mems = cpu.text("mems")
        self.idle = cpu.number("idle", 0, 1)

    def _read_block(self, block: Node) -> None:
        self.weight = block.number("weight", 0, 1000)
        self.leaf_weight = block.number("leafWeight", 0, 1000)
        self.weight_devices = block.objects("weightDevice", Throttle)
        self.throttles = {
            name: block.objects(field, Throttle)
            for name, field in (
                ("read_bps", "throttleReadBpsDevice"),
                ("write_bps", "throttleWriteBpsDevice"),
                ("read_iops", "throttleReadIOPSDevice"),
                ("write_iops", "throttleWriteIOPSDevice"),
            )
        }

    def limited(self) -> bool:
        """Whether anything but devices is asked for."""
        return bool(self.unified) or bool(v1(self)) or self.pids is not None


def _huge(node: Node) -> tuple[str, int]:
    return node.needed_text("pageSize"), node.needed_number("limit", 0, UINT64)


def _priority(node: Node) -> tuple[str, int]:
    return node.needed_text("name"), node.needed_number("priority")


def _rdma(node: Node) -> str:
    found = []
    for field, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
        value = node.number(field)
        if value is not None:
            found.append(f"{word}={value}")
    if not found:
        raise InvalidParameter(f"{node.path}: hcaHandles or hcaObjects is required")
    return " ".join(found)


def _set(kind: str, name: str, value: int | str | None) -> Limits:
    return [] if value is None or value == "" else [(kind, name, str(value))]


def _positive(kind: str, name: str, value: int | None) -> Limits:
    """0 is what Go programs send for "unset"."""
    return [(kind, name, str(value))] if value else []


def v1(wanted: Resources) -> Limits:
    """``(controller, file, value)`` for cgroup v1, in an order that the kernel takes; without pids."""
    if wanted.unified:
        raise Unsupported("linux.resources.unified: this machine has cgroup v1")
    found: Limits = [
        *_memory_v1(wanted),
        *_positive("cpu", "cpu.shares", wanted.shares),
        *_positive("cpu", "cpu.cfs_period_us", wanted.period),
        *_positive("cpu", "cpu.cfs_quota_us", wanted.quota),
        *_positive("cpu", "cpu.cfs_burst_us", wanted.burst),
        *_positive("cpu", "cpu.rt_period_us", wanted.rt_period),
        *_positive("cpu", "cpu.rt_runtime_us", wanted.rt_runtime),
        *_set("cpu", "cpu.idle", wanted.idle or None),
        *_set("cpuset", "cpuset.cpus", wanted.cpus),
        *_set("cpuset", "cpuset.mems", wanted.mems),
        *_block_v1(wanted),
        *(("hugetlb", f"hugetlb.{size}.limit_in_bytes", str(limit)) for size, limit in wanted.huge),
        *_positive("net_cls", "net_cls.classid", wanted.net_class),
        *(("net_prio", "net_prio.ifpriomap", f"{name} {level}") for name, level in wanted.net_priorities),
        *(("rdma", "rdma.max", f"{device} {limits}") for device, limits in wanted.rdma.items()),
    ]
    return found


def _memory_v1(wanted: Resources) -> Limits:
    found = _positive("memory", "memory.limit_in_bytes", wanted.memory)
    swap = _positive("memory", "memory.memsw.limit_in_bytes", wanted.swap)
    # Memory may never exceed memory and swap together: an unlimited sum goes first.
    found = swap + found if wanted.swap == -1 else found + swap
    found += _positive("memory", "memory.soft_limit_in_bytes", wanted.reservation)
    found += _positive("memory", "memory.kmem.tcp.limit_in_bytes", wanted.kernel_tcp)
    found += _set("memory", "memory.swappiness", wanted.swappiness)
    if wanted.disable_oom_killer:
        found.append(("memory", "memory.oom_control", "1"))
    return found


def _block_v1(wanted: Resources) -> Limits:
    found: Limits = _positive("blkio", "blkio.weight|blkio.bfq.weight", wanted.weight)
    found += _positive("blkio", "blkio.leaf_weight", wanted.leaf_weight)
    for item in wanted.weight_devices:
        if item.weight:
            name = "blkio.weight_device|blkio.bfq.weight_device"
            found.append(("blkio", name, f"{item.device} {item.weight}"))
        if item.leaf_weight:
            found.append(("blkio", "blkio.leaf_weight_device", f"{item.device} {item.leaf_weight}"))
    for name, items in wanted.throttles.items():
        found += [("blkio", f"blkio.throttle.{name}_device", f"{t.device} {t.rate or 0}") for t in items]
    return found


def v2(wanted: Resources) -> Limits:
    """``(controller, file, value)`` for cgroup v2; without pids. Unsupported for what only v1 has."""
    _refuse_v1_only(wanted)
    found: Limits = [
        *_memory_v2(wanted),
        *_cpu_v2(wanted),
        *_set("cpuset", "cpuset.cpus", wanted.cpus),
        *_set("cpuset", "cpuset.mems", wanted.mems),
        *_block_v2(wanted),
        *(("hugetlb", f"hugetlb.{size}.max", str(limit)) for size, limit in wanted.huge),
        *(("rdma", "rdma.max", f"{device} {limits}") for device, limits in wanted.rdma.items()),
    ]
    for name, value in wanted.unified.items():
        if "/" in name or name.startswith("."):
            raise InvalidParameter(f"linux.resources.unified: {name!r} isn't a file of a cgroup")
        found += [(name.partition(".")[0], name, line) for line in value.splitlines() or [""]]
    return found


def _refuse_v1_only(wanted: Resources) -> None:
    asked: dict[str, Any] = {
        "memory.kernelTCP": wanted.kernel_tcp,
        "memory.swappiness": wanted.swappiness,
        "memory.disableOOMKiller": wanted.disable_oom_killer,
        "cpu.realtimeRuntime": wanted.rt_runtime,
        "cpu.realtimePeriod": wanted.rt_period,
        "blockIO.leafWeight": wanted.leaf_weight,
        "network.classID": wanted.net_class,
        "network.priorities": wanted.net_priorities,
    }
    for name, value in asked.items():
        if value:
            raise Unsupported(f"linux.resources.{name}: cgroup v2 has nothing like it")


def _memory_v2(wanted: Resources) -> Limits:
    found: Limits = []
    if wanted.memory:
        found.append(("memory", "memory.max", _or_max(wanted.memory)))
    if wanted.swap:
        if wanted.swap > 0 and not (wanted.memory or 0) > 0:
            raise InvalidParameter("linux.resources.memory.swap: it needs a memory limit beside it")
        swap = wanted.swap if wanted.swap < 0 else wanted.swap - (wanted.memory or 0)
        if swap < -1 or (swap < 0 < wanted.swap):
            raise InvalidParameter("linux.resources.memory.swap: it is memory and swap, below the limit")
        found.append(("memory", "memory.swap.max", _or_max(swap)))
    if wanted.reservation:
        found.append(("memory", "memory.low", _or_max(wanted.reservation)))
    return found


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)


def cpu_weight(shares: int) -> int:
    """cgroup v2's weight (1 to 10000) for v1's shares (2 to 262144), linearly as runc and crun do."""
    return 1 + (min(max(2, shares), 262144) - 2) * 9999 // 262142


def _cpu_v2(wanted: Resources) -> Limits:
    found: Limits = []
    if wanted.idle:
        found.append(("cpu", "cpu.idle", "1"))
    elif wanted.shares:
        found.append(("cpu", "cpu.weight", str(cpu_weight(wanted.shares))))
    if wanted.quota or wanted.period:
        quota = "max" if not wanted.quota or wanted.quota < 0 else str(wanted.quota)
        found.append(("cpu", "cpu.max", f"{quota} {wanted.period or 100_000}"))
    return found + _positive("cpu", "cpu.max.burst", wanted.burst)


def _block_v2(wanted: Resources) -> Limits:
    found: Limits = []
    if wanted.weight:
        # The BFQ scheduler's own file takes blkio's range, the general one 1 to 10000.
        scaled = 1 + (wanted.weight - 10) * 9999 // 990
        found.append(("io", "io.bfq.weight|io.weight", f"{wanted.weight}|{scaled}"))
    for item in wanted.weight_devices:
        if item.leaf_weight:
            raise Unsupported("linux.resources.blockIO.weightDevice: cgroup v2 has no leafWeight")
        found.append(("io", "io.bfq.weight", f"{item.device} {item.weight or 0}"))
    words = {"read_bps": "rbps", "write_bps": "wbps", "read_iops": "riops", "write_iops": "wiops"}
    for name, items in wanted.throttles.items():
        found += [("io", "io.max", f"{t.device} {words[name]}={t.rate or 'max'}") for t in items]
    return found
