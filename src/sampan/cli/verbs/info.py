"""``info``: the engine's state and settings."""

from __future__ import annotations

from sampan import __version__
from sampan.cli import connect, units
from sampan.cli.command import CLI, Command
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


def info(cli: CLI, options: Options, arguments: list[str]) -> int:
    """The client's part stands there even when no engine answers."""
    failure: SampanError | None = None
    found: dict[str, Any] = {}
    try:
        found = cli.client.call("GET", "/info")
    except SampanError as error:
        failure = error
    client = {
        "Version": __version__,
        "Context": connect.context_name(cli.settings, cli.config),
        "Debug": cli.settings.debug,
        "Plugins": [],
    }
    if form := options.text("format"):
        from sampan.cli import template

        text = "{{json .}}" if form == "json" else form
        cli.print(template.render(text, {**found, "ClientInfo": client}))
    else:
        lines = ["Client:", f" Version:    {__version__}", f" Context:    {client['Context']}"]
        lines += [f" Debug Mode: {_shown(client['Debug'])}", "", "Server:"]
        cli.write("\n".join(lines + (_server(found) if found else [])) + "\n")
        for warning in found.get("Warnings") or []:
            cli.complain(warning)
    if failure is not None:
        raise failure
    return 0


def _shown(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _server(found: dict[str, Any]) -> list[str]:
    lines = [f" Containers: {found['Containers']}"]
    lines += [f"  {state}: {found[f'Containers{state}']}" for state in ("Running", "Paused", "Stopped")]
    lines += [f" Images: {found['Images']}", f" Server Version: {found['ServerVersion']}"]
    lines.append(f" Storage Driver: {found['Driver']}")
    lines += [f"  {key}: {value}" for key, value in found.get("DriverStatus") or []]
    lines += _lines(found, _FIRST)
    plugins = found.get("Plugins") or {}
    lines.append(" Plugins:")
    lines += [f"  {kind}: {' '.join(plugins.get(kind) or [])}" for kind in ("Volume", "Network", "Log")]
    lines += _block("CDI spec directories", found.get("CDISpecDirs"))
    lines.append(f" Swarm: {(found.get('Swarm') or {}).get('LocalNodeState', 'inactive')}")
    lines.append(f" Runtimes: {' '.join(sorted(found.get('Runtimes') or {}))}")
    lines += _lines(found, _SECOND)
    for key, title in (("ContainerdCommit", "containerd"), ("RuncCommit", "runc"), ("InitCommit", "init")):
        if (found.get(key) or {}).get("ID"):
            lines.append(f" {title} version: {found[key]['ID']}")
    lines += _security(found.get("SecurityOptions") or [])
    lines += _lines(found, _THIRD)
    lines.append(f" Total Memory: {units.binary_size(found.get('MemTotal', 0))}")
    lines += _lines(found, _FOURTH)
    lines += _block("Labels", found.get("Labels"))
    lines.append(f" Experimental: {_shown(found.get('ExperimentalBuild', False))}")
    registry = found.get("RegistryConfig") or {}
    insecure = [
        name for name, entry in (registry.get("IndexConfigs") or {}).items() if not entry.get("Secure", True)
    ]
    lines += _block("Insecure Registries", [*insecure, *(registry.get("InsecureRegistryCIDRs") or [])])
    lines += _block("Registry Mirrors", registry.get("Mirrors"))
    return [*lines, f" Live Restore Enabled: {_shown(found.get('LiveRestoreEnabled', False))}", ""]


_FIRST = (
    ("LoggingDriver", "Logging Driver"),
    ("CgroupDriver", "Cgroup Driver"),
    ("CgroupVersion", "Cgroup Version"),
)
_SECOND = (("DefaultRuntime", "Default Runtime"), ("InitBinary", "Init Binary"))
_THIRD = (
    ("KernelVersion", "Kernel Version"),
    ("OperatingSystem", "Operating System"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("NCPU", "CPUs"),
)
_FOURTH = (
    ("Name", "Name"),
    ("ID", "ID"),
    ("DockerRootDir", "Docker Root Dir"),
    ("Debug", "Debug Mode"),
    ("HttpProxy", "HTTP Proxy"),
    ("HttpsProxy", "HTTPS Proxy"),
    ("NoProxy", "No Proxy"),
)


def _lines(found: dict[str, Any], rows: tuple[tuple[str, str], ...]) -> list[str]:
    return [f" {title}: {_shown(found[key])}" for key, title in rows if found.get(key) not in (None, "")]


def _block(title: str, entries: list[str] | None) -> list[str]:
    return [f" {title}:", *(f"  {entry}" for entry in entries)] if entries else []


def _security(entries: list[str]) -> list[str]:
    lines = [" Security Options:"] if entries else []
    for entry in entries:
        fields = dict(field.partition("=")[::2] for field in entry.split(","))
        lines.append(f"  {fields.pop('name', entry)}")
        lines += [f"   {key.capitalize()}: {value}" for key, value in fields.items()]
    return lines


INFO = Command(
    info,
    "[OPTIONS]",
    "Show the engine's state and settings",
    (0, 0),
    (("format", "f", "string", "", "Format with a Go template, or 'json'"),),
)
