"""``linux.resources`` (config-linux.md, Control groups) as limits and device rules.

Every command loads this module, few read resources: what they take is imported where it is needed.
"""

from __future__ import annotations

from sampan.errors import InvalidParameter, Unsupported
from sampan.runtime.oci.document import INT64, UINT64, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.kernel.bpf import DeviceRule


def _rule(node: Node) -> DeviceRule:
    from sampan.kernel.bpf import DeviceRule

    node.required("allow")
    access = node.text("access") or "rwm"
    if not set(access) <= set("rwm"):
        raise InvalidParameter(f"{node.where('access')}: {access!r} isn't made of r, w and m")
    kind = node.choice("type", ("a", "c", "b"), "a")
    major, minor = (_any(node.number(name, -1)) for name in ("major", "minor"))
    return DeviceRule(node.flag("allow"), kind, major, minor, access)


def _any(number: int | None) -> int | None:
    return None if number is None or number < 0 else number


class Resources:
    """What a container may use: ``limits``, its ``pids`` apart (None: as they are), and ``devices``."""

    def __init__(self, node: Node) -> None:
        from sampan.runtime.cgroups.limits import Limits

        self.devices = node.objects("devices", _rule)
        memory = node.node("memory")
        self.check_before_update = memory.flag("checkBeforeUpdate")
        # "kernel" is not recommended and gone from kernels; runc drops it as well, with a warning.
        self.ignored = [memory.where("kernel")] if (memory.number("kernel", -1, INT64) or 0) > 0 else []
        # Written later than the rest: 0 lets nobody in.
        self.pids = node.node("pids").number("limit", -1, INT64)
        self.limits = Limits()
        self._read_memory(memory)
        self._read_cpu(node.node("cpu"))
        self._read_block(node.node("blockIO"))
        self.limits.huge = node.objects("hugepageLimits", _huge)
        network = node.node("network")
        self.limits.net_class = network.number("classID")
        self.limits.net_priorities = network.objects("priorities", _priority)
        self.limits.rdma = node.members("rdma", _rdma)
        self.limits.unified = node.mapping("unified")

    def _read_memory(self, memory: Node) -> None:
        found = self.limits
        found.memory = memory.number("limit", -1, INT64)
        found.reservation = memory.number("reservation", -1, INT64)
        found.swap = memory.number("swap", -1, INT64)
        found.kernel_tcp = memory.number("kernelTCP", -1, INT64)
        found.swappiness = memory.number("swappiness", 0, 100)
        found.disable_oom_killer = memory.flag("disableOOMKiller")

    def _read_cpu(self, cpu: Node) -> None:
        found = self.limits
        found.shares = cpu.number("shares", 0, UINT64)
        found.quota = cpu.number("quota", -1, INT64)
        found.burst = cpu.number("burst", 0, UINT64)
        found.period = cpu.number("period", 0, UINT64)
        found.rt_runtime = cpu.number("realtimeRuntime", -1, INT64)
        found.rt_period = cpu.number("realtimePeriod", 0, UINT64)
        found.cpus = cpu.text("cpus")
        found.mems = cpu.text("mems")
        found.idle = cpu.number("idle", 0, 1)

    def _read_block(self, block: Node) -> None:
        found = self.limits
        found.weight = block.number("weight", 0, 1000)
        found.leaf_weight = block.number("leafWeight", 0, 1000)
        weights = block.objects("weightDevice", _weights)
        found.weight_devices = [(device, weight) for device, weight, _ in weights if weight]
        found.leaf_weight_devices = [(device, leaf) for device, _, leaf in weights if leaf]
        found.read_bps = block.objects("throttleReadBpsDevice", _rate)
        found.write_bps = block.objects("throttleWriteBpsDevice", _rate)
        found.read_iops = block.objects("throttleReadIOPSDevice", _rate)
        found.write_iops = block.objects("throttleWriteIOPSDevice", _rate)

    def limited(self) -> bool:
        """Whether anything but devices is asked for."""
        from sampan.runtime.cgroups.limits import v1

        return bool(self.limits.unified) or bool(v1(self.limits)) or self.pids is not None

    def check(self, *, v2: bool) -> None:
        """Unsupported for what this version of cgroups hasn't, InvalidParameter for what it can't take."""
        if v2:
            self._refuse_v1_only()
            self._check_swap()
            for name in self.limits.unified:
                if "/" in name or name.startswith("."):
                    raise InvalidParameter(f"linux.resources.unified: {name!r} isn't a file of a cgroup")
        elif self.limits.unified:
            raise Unsupported("linux.resources.unified: this machine has cgroup v1")

    def _refuse_v1_only(self) -> None:
        asked: dict[str, Any] = {
            "memory.kernelTCP": self.limits.kernel_tcp,
            "memory.swappiness": self.limits.swappiness,
            "memory.disableOOMKiller": self.limits.disable_oom_killer,
            "cpu.realtimeRuntime": self.limits.rt_runtime,
            "cpu.realtimePeriod": self.limits.rt_period,
            "blockIO.leafWeight": self.limits.leaf_weight,
            "blockIO.weightDevice.leafWeight": self.limits.leaf_weight_devices,
            "network.classID": self.limits.net_class,
            "network.priorities": self.limits.net_priorities,
        }
        for name, value in asked.items():
            if value:
                raise Unsupported(f"linux.resources.{name}: cgroup v2 has nothing like it")

    def _check_swap(self) -> None:
        memory, swap = self.limits.memory or 0, self.limits.swap or 0
        if swap > 0 and memory <= 0:
            raise InvalidParameter("linux.resources.memory.swap: it needs a memory limit beside it")
        if 0 < swap < memory:
            raise InvalidParameter("linux.resources.memory.swap: it is memory and swap, below the limit")


def _device(node: Node) -> str:
    return f"{node.needed_number('major')}:{node.needed_number('minor')}"


def _rate(node: Node) -> tuple[str, int]:
    return _device(node), node.number("rate", 0, UINT64) or 0


def _weights(node: Node) -> tuple[str, int | None, int | None]:
    return _device(node), node.number("weight", 0, 1000), node.number("leafWeight", 0, 1000)


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
