"""Limits by their meaning, and the control files and values that say them to v1 and v2."""

from __future__ import annotations

import errno
import os

from sampan.runtime.cgroups.files import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Devices = Sequence[tuple[str, int]]  # ("major:minor", value)
    Files = Sequence[tuple[str, str]]  # (name, value)

_NONE = ("-1", "max", "0")
_SHARES = (2, 262144)  # the range of v1's cpu.shares
_PERIOD = 100_000  # microseconds, the kernel's own


class Limits:
    """What a group is limited to; None, 0 and "" leave a limit as it is. Bytes, microseconds, weights of v1.

    -1 takes limits of memory, CPU quota and pids away. ``swap`` is memory and swap together.
    """

    memory: int | None = None
    swap: int | None = None
    reservation: int | None = None
    kernel_tcp: int | None = None
    swappiness: int | None = None  # 0 is a value
    disable_oom_killer: bool = False
    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    rt_runtime: int | None = None
    rt_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None
    pids: int | None = None
    weight: int | None = None
    leaf_weight: int | None = None
    weight_devices: Devices = ()
    leaf_weight_devices: Devices = ()
    weights_matter: bool = True  # False: without effect where the kernel knows no weights
    read_bps: Devices = ()
    write_bps: Devices = ()
    read_iops: Devices = ()
    write_iops: Devices = ()
    huge: Sequence[tuple[str, int]] = ()  # (size of a page, bytes)
    net_class: int | None = None
    net_priorities: Sequence[tuple[str, int]] = ()  # (interface, priority)
    rdma: Mapping[str, str] = {}
    unified: Mapping[str, str] = {}


class Setting:
    """A controller's ``files``, ``(name, value)``: each that the kernel has is written.

    One must be there, unless the value means no limit or the setting is ``optional``.
    """

    __slots__ = ("controller", "files", "optional")

    def __init__(self, controller: str, files: Files, *, optional: bool = False) -> None:
        self.controller = controller
        self.files = files
        self.optional = optional

    def write(self, directory: str | None) -> None:
        """Write it in a group's ``directory``, None if its controller isn't mounted. LimitMissing, LimitRefused."""
        present = [pair for pair in self.files if directory and os.path.exists(f"{directory}/{pair[0]}")]
        for name, value in present:
            try:
                write(f"{directory}/{name}", value)
            except OSError as error:
                # A weight for a device whose scheduler knows none.
                if not (self.optional and error.errno == errno.EOPNOTSUPP):
                    raise LimitRefused(error.errno or 0, f"{directory}/{name}", value) from None
        if not present and not self.optional and self.files[0][1] not in _NONE:
            raise LimitMissing(self.controller, directory, self.files)


class LimitRefused(OSError):
    """The kernel takes no such value for the control file ``path``."""

    def __init__(self, code: int, path: str, value: str) -> None:
        super().__init__(code, f"{os.path.basename(path)} = {value}: {os.strerror(code)}")
        self.path = path
        self.value = value


class LimitMissing(OSError):
    """The kernel has none of the control files ``names``; ``directory`` is None if not even the controller."""

    def __init__(self, controller: str, directory: str | None, files: Files) -> None:
        self.controller = controller
        self.directory = directory
        self.names = "|".join(name for name, _ in files)
        self.values = "|".join(dict.fromkeys(value for _, value in files))
        super().__init__(errno.ENOENT, f"{self.names} = {self.values}: this kernel has no such limit")


def _set(controller: str, name: str, value: int | str | None) -> list[Setting]:
    return [Setting(controller, [(name, str(value))])] if value else []


def _each(controller: str, name: str, lines: Iterable[str]) -> list[Setting]:
    return [Setting(controller, [(name, line)]) for line in lines]


def v1(wanted: Limits, *, sum_first: bool = False) -> list[Setting]:
    """For v1, in an order that the kernel takes; with ``sum_first`` memory and swap before memory alone."""
    return [
        *_memory_v1(wanted, sum_first),
        *_set("cpu", "cpu.shares", wanted.shares),
        *_set("cpu", "cpu.rt_period_us", wanted.rt_period),
        *_set("cpu", "cpu.rt_runtime_us", wanted.rt_runtime),
        *_set("cpu", "cpu.cfs_period_us", wanted.period),
        *_set("cpu", "cpu.cfs_quota_us", wanted.quota),
        *_set("cpu", "cpu.cfs_burst_us", wanted.burst),
        *_set("cpu", "cpu.idle", wanted.idle),
        *_set("cpuset", "cpuset.cpus", wanted.cpus),
        *_set("cpuset", "cpuset.mems", wanted.mems),
        *_block_v1(wanted),
        *_pids(wanted),
        *(Setting("hugetlb", [(f"hugetlb.{size}.limit_in_bytes", str(most))]) for size, most in wanted.huge),
        *_set("net_cls", "net_cls.classid", wanted.net_class),
        *_each(
            "net_prio", "net_prio.ifpriomap", (f"{name} {level}" for name, level in wanted.net_priorities)
        ),
        *_rdma(wanted),
    ]


def _memory_v1(wanted: Limits, sum_first: bool) -> list[Setting]:
    memory = _set("memory", "memory.limit_in_bytes", wanted.memory)
    swap = _set("memory", "memory.memsw.limit_in_bytes", wanted.swap)
    found = swap + memory if sum_first else memory + swap
    found += _set("memory", "memory.soft_limit_in_bytes", wanted.reservation)
    found += _set("memory", "memory.kmem.tcp.limit_in_bytes", wanted.kernel_tcp)
    if wanted.swappiness is not None:
        found += _set("memory", "memory.swappiness", str(wanted.swappiness))
    if wanted.disable_oom_killer:
        found += _set("memory", "memory.oom_control", "1")
    return found


def _block_v1(wanted: Limits) -> list[Setting]:
    optional = not wanted.weights_matter
    found: list[Setting] = []
    if wanted.weight:
        value = str(wanted.weight)
        found.append(
            Setting("blkio", [("blkio.weight", value), ("blkio.bfq.weight", value)], optional=optional)
        )
    for device, weight in wanted.weight_devices:
        value = f"{device} {weight}"
        files = [("blkio.weight_device", value), ("blkio.bfq.weight_device", value)]
        found.append(Setting("blkio", files, optional=optional))
    found += _set("blkio", "blkio.leaf_weight", wanted.leaf_weight)
    leaves = (f"{device} {weight}" for device, weight in wanted.leaf_weight_devices)
    found += _each("blkio", "blkio.leaf_weight_device", leaves)
    for name in ("read_bps", "write_bps", "read_iops", "write_iops"):
        rates = (f"{device} {rate}" for device, rate in getattr(wanted, name))
        found += _each("blkio", f"blkio.throttle.{name}_device", rates)
    return found


def _pids(wanted: Limits) -> list[Setting]:
    return _set("pids", "pids.max", wanted.pids and _or_max(wanted.pids))


def _rdma(wanted: Limits) -> list[Setting]:
    return _each("rdma", "rdma.max", (f"{device} {most}" for device, most in wanted.rdma.items()))


def v2(wanted: Limits) -> list[Setting]:
    """For v2. What only v1 has is left out: refusing it or warning is up to the caller."""
    found = [
        *_memory_v2(wanted),
        *_cpu_v2(wanted),
        *_set("cpuset", "cpuset.cpus", wanted.cpus),
        *_set("cpuset", "cpuset.mems", wanted.mems),
        *_block_v2(wanted),
        *_pids(wanted),
        *(Setting("hugetlb", [(f"hugetlb.{size}.max", str(most))]) for size, most in wanted.huge),
        *_rdma(wanted),
    ]
    for name, value in wanted.unified.items():
        found += _each(name.partition(".")[0], name, value.splitlines() or [""])
    return found


def _memory_v2(wanted: Limits) -> list[Setting]:
    found = _set("memory", "memory.max", wanted.memory and _or_max(wanted.memory))
    if wanted.swap:
        swap = wanted.swap if wanted.swap < 0 else max(0, wanted.swap - (wanted.memory or 0))
        found += _set("memory", "memory.swap.max", _or_max(swap))
    return found + _set("memory", "memory.low", wanted.reservation and _or_max(wanted.reservation))


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)


def cpu_weight(shares: int) -> int:
    """cgroup v2's weight (1 to 10000) for v1's shares (2 to 262144), linearly as runc and crun do."""
    least, most = _SHARES
    return 1 + (min(max(least, shares), most) - least) * 9999 // (most - least)


def _cpu_v2(wanted: Limits) -> list[Setting]:
    found: list[Setting] = []
    if wanted.idle:
        found += _set("cpu", "cpu.idle", wanted.idle)
    elif wanted.shares:
        found += _set("cpu", "cpu.weight", cpu_weight(wanted.shares))
    if wanted.quota or wanted.period:
        quota = _or_max(wanted.quota or -1)
        found += _set("cpu", "cpu.max", f"{quota} {wanted.period or _PERIOD}")
    return found + _set("cpu", "cpu.max.burst", wanted.burst)


def _block_v2(wanted: Limits) -> list[Setting]:
    optional = not wanted.weights_matter
    found: list[Setting] = []
    if wanted.weight:
        files = [("io.bfq.weight", str(wanted.weight)), ("io.weight", str(_io_weight(wanted.weight)))]
        found.append(Setting("io", files, optional=optional))
    for device, weight in wanted.weight_devices:
        files = [("io.bfq.weight", f"{device} {weight}"), ("io.weight", f"{device} {_io_weight(weight)}")]
        found.append(Setting("io", files, optional=optional))
    for name, word in (
        ("read_bps", "rbps"),
        ("write_bps", "wbps"),
        ("read_iops", "riops"),
        ("write_iops", "wiops"),
    ):
        rates = (f"{device} {word}={rate or 'max'}" for device, rate in getattr(wanted, name))
        found += _each("io", "io.max", rates)
    return found


def _io_weight(weight: int) -> int:
    """The BFQ scheduler's own file takes blkio's range, 10 to 1000; the general one 1 to 10000."""
    return 1 + (weight - 10) * 9999 // 990
