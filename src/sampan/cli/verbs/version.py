"""``version``: the client's and the engine's."""

from __future__ import annotations

import sys

from sampan import __version__
from sampan.cli.command import CLI, Command
from sampan.client.engine import API_VERSION
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Options


def version(cli: CLI, options: Options, arguments: list[str]) -> int:
    """Print both; the client's own even when no engine answers."""
    if options.flag("short"):
        cli.print(f"Sampan version {__version__}")
        return 0
    failure: SampanError | None = None
    server: dict[str, Any] | None = None
    try:
        cli.client.negotiate()
        server = cli.client.call("GET", "/version")
    except SampanError as error:
        failure = error
    document = {"Client": _client(cli, server is not None), "Server": server}
    template = options.text("format")
    if template:
        from sampan.cli import template as templates

        cli.print(templates.render("{{json .}}" if template == "json" else template, document))
    else:
        cli.write(_text(document))
    if failure is not None:
        raise failure
    return 0


def _client(cli: CLI, connected: bool) -> dict[str, Any]:
    import os

    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    own = f"{API_VERSION[0]}.{API_VERSION[1]}"
    return {
        "Platform": {"Name": "Sampan"},
        "Version": __version__,
        "ApiVersion": cli.client.version if connected else own,
        "DefaultAPIVersion": own,
        "PythonVersion": ".".join(map(str, sys.version_info[:3])),
        "Os": "linux",
        "Arch": machine,
        "Context": _context(cli),
    }


def _context(cli: CLI) -> str:
    from sampan.cli import connect

    return connect.context_name(cli.settings, cli.config)


def _text(document: dict[str, Any]) -> str:
    client, server = document["Client"], document["Server"]
    api = client["ApiVersion"]
    if api != client["DefaultAPIVersion"]:
        api += f" (downgraded from {client['DefaultAPIVersion']})"
    lines = [
        "Client: Sampan",
        f" Version:           {client['Version']}",
        f" API version:       {api}",
        f" Python version:    {client['PythonVersion']}",
        f" OS/Arch:           {client['Os']}/{client['Arch']}",
        f" Context:           {client['Context']}",
    ]
    if server:
        name = (server.get("Platform") or {}).get("Name") or ""
        lines += ["", f"Server: {name}".rstrip() if name else "Server:"]
        for component in server.get("Components") or [{"Name": "Engine", "Version": server.get("Version")}]:
            lines += _component(component)
    return "\n".join(lines) + "\n"


_TITLES = (
    ("ApiVersion", "API version"),
    ("GoVersion", "Go version"),
    ("PythonVersion", "Python version"),
    ("GitCommit", "Git commit"),
    ("BuildTime", "Built"),
    ("Experimental", "Experimental"),
)


def _component(component: dict[str, Any]) -> list[str]:
    details = component.get("Details") or {}
    lines = [f" {component.get('Name')}:", f"  {'Version:':<18}{component.get('Version') or ''}"]
    if "ApiVersion" not in details:
        return lines + [f"  {key + ':':<18}{value}" for key, value in details.items()]
    for key, title in _TITLES:
        if key not in details:
            continue
        value = details[key]
        if key == "ApiVersion" and details.get("MinAPIVersion"):
            value = f"{value} (minimum version {details['MinAPIVersion']})"
        lines.append(f"  {title + ':':<18}{value}")
        if key == "GitCommit" and "BuildTime" not in details:
            continue
    if details.get("Os"):
        lines.insert(-1, f"  {'OS/Arch:':<18}{details['Os']}/{details.get('Arch', '')}")
    return lines


VERSION = Command(
    version,
    "[OPTIONS]",
    "Show the client's and the engine's versions",
    (0, 0),
    (
        ("format", "f", "string", "", "Format the output with a Go template, or 'json'"),
        ("short", "", "bool", False, "Print the client's version only"),
    ),
)
