"""``update``: limits and restart policy of existing containers."""

from __future__ import annotations

from sampan.cli.command import CLI, MANY, Command
from sampan.cli.container_config import restart_policy
from sampan.cli.container_options import CONTAINER_OPTIONS
from sampan.cli.each import one_by_one
from sampan.cli.errors import CLIError
from sampan.client.engine import path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.flags import Options

_NUMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "kernel-memory": "KernelMemory",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "pids-limit": "PidsLimit",
}
_TEXTS = {"cpuset-cpus": "CpusetCpus", "cpuset-mems": "CpusetMems"}


def update(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Only what is given changes."""
    if not options.given:
        raise CLIError("you must provide one or more flags when using this command")
    request: dict[str, object] = {
        key: options.number(flag) for flag, key in _NUMBERS.items() if flag in options.given
    }
    request.update({key: options.text(flag) for flag, key in _TEXTS.items() if flag in options.given})
    if "restart" in options.given:
        request["RestartPolicy"] = restart_policy(options.text("restart"))
    warnings: list[str] = []

    def one(name: str) -> None:
        answer = cli.client.call("POST", f"{path_of('containers', name)}/update", json=request)
        warnings.extend((answer or {}).get("Warnings") or [])

    code = one_by_one(cli, arguments, one)
    for warning in warnings:
        cli.print(warning)
    return code


UPDATE = Command(
    update,
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Change limits and restart policy of containers",
    (1, MANY),
    tuple(
        (name, short, kind, "" if name == "restart" else default, text)
        for name, short, kind, default, text in CONTAINER_OPTIONS
        if name in {*_NUMBERS, *_TEXTS, "restart"}
    ),
)
