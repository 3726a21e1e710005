"""Creating a container: the request, pulling a missing image, warnings, the id file."""

from __future__ import annotations

import os

from sampan.cli import container_config, trust
from sampan.cli.errors import CLIError
from sampan.client.errors import APIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.command import CLI
    from sampan.cli.flags import Options

PULLS = ("always", "missing", "never")


def create(cli: CLI, options: Options, image: str, words: list[str]) -> tuple[str, dict[str, Any]]:
    """Create a container; returns its id and the request. Raises CLIError, APIError."""
    pull = options.text("pull")
    if pull not in PULLS:
        raise CLIError(
            f'invalid pull option: \'{pull}\': must be one of "always", "missing" or "never"', exit_code=125
        )
    trust.check(cli, options)
    request = container_config.build(options, image, words, cli.config.proxies(cli.client.endpoint.url))
    if options.flag("use-api-socket"):
        _api_socket(cli, request)
    if request.get("Tty"):
        from sampan.cli import terminal

        request["HostConfig"]["ConsoleSize"] = list(terminal.size(1))
    cidfile = options.text("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise CLIError(
            f"container ID file found, make sure the other container isn't running or delete {cidfile}"
        )
    platform = options.text("platform")
    if pull == "always":
        _pull(cli, image, platform, quiet=options.flag("quiet"))
    answer = _send(cli, options, request, image, platform)
    for warning in answer.get("Warnings") or []:
        cli.complain(f"WARNING: {warning}")
    identifier = str(answer["Id"])
    if cidfile:
        with open(cidfile, "w", encoding="ascii") as file:
            file.write(identifier)
    return identifier, request


def _send(cli: CLI, options: Options, request: dict[str, Any], image: str, platform: str) -> dict[str, Any]:
    query = {"name": options.text("name") or None, "platform": platform or None}
    _notes(cli, request["HostConfig"])
    try:
        answer = cli.client.call("POST", "/containers/create", query, json=request)
    except APIError as error:
        # The image is missing only if the engine says so; other 404s are about networks, volumes, links.
        missing = error.status == 404 and "no such image" in error.message.lower()
        if not missing or options.text("pull") != "missing":
            raise
        if not options.flag("quiet"):
            cli.complain(f"Unable to find image '{_familiar(image)}' locally")
        _pull(cli, image, platform, quiet=options.flag("quiet"))
        answer = cli.client.call("POST", "/containers/create", query, json=request)
    found: dict[str, Any] = answer
    return found


def _notes(cli: CLI, host: dict[str, Any]) -> None:
    if host.get("OomKillDisable") and not host.get("Memory"):
        cli.complain(
            "WARNING: Disabling the OOM killer on containers without setting a '-m/--memory' limit "
            "may be dangerous."
        )
    for address in host.get("Dns", ()):
        if address.startswith("127.") or address == "::1":
            cli.complain(f"WARNING: Localhost DNS setting (--dns={address}) may fail in containers.")


def _familiar(image: str) -> str:
    from sampan.cli import names

    return names.familiar(image)


def _pull(cli: CLI, image: str, platform: str, *, quiet: bool) -> None:
    from sampan.cli import pulling

    pulling.pull(cli, image, platform=platform, quiet=quiet, descriptor=2)


def _api_socket(cli: CLI, request: dict[str, Any]) -> None:
    endpoint = cli.client.endpoint
    if endpoint.scheme != "unix":
        raise CLIError(
            "flag --use-api-socket requires a unix socket", hint=f"This engine is at {endpoint.url}."
        )
    request["HostConfig"].setdefault("Binds", []).append(f"{endpoint.address}:/var/run/docker.sock")
    request.setdefault("Env", []).append("DOCKER_HOST=unix:///var/run/docker.sock")
