"""``stats``: what containers use, once or again and again."""

from __future__ import annotations

from sampan.cli import table, terminal, units
from sampan.cli.command import CLI, MANY, Command
from sampan.cli.errors import text_of
from sampan.cli.verbs.ps import FORMAT_HELP
from sampan.client.engine import path_of
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


class Sample(table.Row):
    """One container's figures at one moment; ``data`` is the API's object, or None before the first."""

    def __init__(self, name: str, data: dict[str, Any] | None, *, full: bool) -> None:
        super().__init__(data, full=full)
        self.asked = name


def cpu_percent(data: dict[str, Any]) -> float:
    """Processor time since the sample before, 100 for one whole CPU."""
    now, before = data["cpu_stats"], data.get("precpu_stats") or {}
    used = now["cpu_usage"]["total_usage"] - (before.get("cpu_usage") or {}).get("total_usage", 0)
    whole = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    if used <= 0 or whole <= 0:
        return 0.0
    cpus = now.get("online_cpus") or len(now["cpu_usage"].get("percpu_usage") or []) or 1
    return float(used / whole * cpus * 100)


def memory(data: dict[str, Any]) -> int:
    """Bytes in use without the page cache that can go at any time."""
    figures = data.get("memory_stats") or {}
    usage, parts = int(figures.get("usage") or 0), figures.get("stats") or {}
    for key in ("total_inactive_file", "inactive_file"):  # cgroup v1, v2
        if key in parts and parts[key] < usage:
            return usage - int(parts[key])
    return usage


def network(data: dict[str, Any]) -> tuple[int, int]:
    """Bytes received and sent on all interfaces."""
    all_of = (data.get("networks") or {}).values()
    return sum(one["rx_bytes"] for one in all_of), sum(one["tx_bytes"] for one in all_of)


def block(data: dict[str, Any]) -> tuple[int, int]:
    """Bytes read from and written to disks."""
    entries = (data.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    read = sum(entry["value"] for entry in entries if entry["op"][:1] in "rR")
    written = sum(entry["value"] for entry in entries if entry["op"][:1] in "wW")
    return read, written


def _memory_percent(row: Any) -> str:
    limit = (row.data.get("memory_stats") or {}).get("limit") or 0
    return f"{memory(row.data) / limit * 100 if limit else 0.0:.2f}%"


def _memory_usage(row: Any) -> str:
    limit = (row.data.get("memory_stats") or {}).get("limit") or 0
    return f"{units.binary_size(memory(row.data))} / {units.binary_size(limit)}"


def _pair(values: tuple[int, int]) -> str:
    return " / ".join(units.size(value, 3) for value in values)


def _known(function: Any, unknown: str) -> Any:
    return lambda row: function(row) if row.data is not None else unknown


Sample.FIELDS = {
    "BlockIO": _known(lambda row: _pair(block(row.data)), "-- / --"),
    "CPUPerc": _known(lambda row: f"{cpu_percent(row.data):.2f}%", "--"),
    "Container": lambda row: row.asked,
    "ID": _known(lambda row: row.data["id"] if row.full else row.data["id"][:12], "--"),
    "MemPerc": _known(_memory_percent, "--"),
    "MemUsage": _known(_memory_usage, "-- / --"),
    "Name": _known(lambda row: row.data["name"].lstrip("/"), "--"),
    "NetIO": _known(lambda row: _pair(network(row.data)), "--"),
    "PIDs": _known(lambda row: str((row.data.get("pids_stats") or {}).get("current", 0)), "--"),
}
TITLES = {
    "BlockIO": "BLOCK I/O",
    "CPUPerc": "CPU %",
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "MemPerc": "MEM %",
    "MemUsage": "MEM USAGE / LIMIT",
    "Name": "NAME",
    "NetIO": "NET I/O",
    "PIDs": "PIDS",
}
DEFAULT = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")


def stats(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Named ones, or all that run (with ``-a`` all there are)."""
    while True:
        names = arguments or _all(cli, options)
        rows = _samples(cli, names, full=options.flag("no-trunc"), strict=bool(arguments))
        once = options.flag("no-stream")
        if not once and terminal.is_terminal(1):
            cli.write("\x1b[H\x1b[J")
        table.show(
            cli,
            rows,
            titles=TITLES,
            default=DEFAULT,
            form=options.text("format"),
            config_key="statsFormat",
        )
        if once:
            return 0


def _all(cli: CLI, options: Options) -> list[str]:
    found = cli.client.call("GET", "/containers/json", {"all": options.flag("all")}) or []
    return [item["Id"][:12] for item in found]


def _samples(cli: CLI, names: list[str], *, full: bool, strict: bool) -> list[Sample]:
    """All at once: a sample takes the engine a second, as it compares two."""
    if not names:
        import time

        time.sleep(0.5)
        return []
    from concurrent.futures import ThreadPoolExecutor

    cli.client.negotiate()
    with ThreadPoolExecutor(min(64, len(names))) as pool:
        results = list(pool.map(lambda name: _one(cli, name), names))
    rows = []
    for name, result in zip(names, results, strict=True):
        if not isinstance(result, SampanError):
            rows.append(Sample(name, result, full=full))
        elif strict:
            raise result
        elif getattr(result, "status", 0) != 404:  # it may have been removed since the list was made
            cli.complain(text_of(result))
    return rows


def _one(cli: CLI, name: str) -> dict[str, Any] | SampanError:
    client = cli.new_client()
    try:
        found: dict[str, Any] = client.call("GET", path_of("containers", name) + "/stats", {"stream": 0})
        return found
    except SampanError as error:
        return error
    finally:
        client.close()


STATS = Command(
    stats,
    "[OPTIONS] [CONTAINER...]",
    "Show containers' use of processor, memory, network, disk",
    (0, MANY),
    (
        ("all", "a", "bool", False, "Show stopped ones too"),
        ("format", "", "string", "", FORMAT_HELP),
        ("no-stream", "", "bool", False, "Show it once"),
        ("no-trunc", "", "bool", False, "Show ids in full"),
    ),
)
