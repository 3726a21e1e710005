"""Which engine the command line talks to."""

from __future__ import annotations

import os

from sampan.cli.errors import CLIError
from sampan.client import endpoint as endpoints

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.cli.command import Settings
    from sampan.client.config import Config
    from sampan.client.endpoint import Endpoint


def context_name(settings: Settings, config: Config) -> str:
    """The chosen context's name; ``default`` means address flags and environment."""
    if settings.context:
        return settings.context
    if settings.host or endpoints.environment_url(settings.environ):
        return "default"
    return settings.environ.get("DOCKER_CONTEXT") or config.text("currentContext") or "default"


def choose(settings: Settings, config: Config) -> Endpoint:
    """The engine's address with its certificates. Raises ClientError, CLIError."""
    if settings.context and settings.host:
        raise CLIError("conflicting options: either specify --host or --context, not both")
    name = context_name(settings, config)
    if name != "default":
        from sampan.client.contexts import ContextStore

        return ContextStore(config.folder).get(name).endpoint()
    url = settings.host or endpoints.environment_url(settings.environ) or endpoints.default_url()
    endpoint = endpoints.parse(url)
    if endpoint.scheme == "tcp":
        _add_tls(endpoint, settings, config, explicit=url)
    return endpoint


def named(text: str, settings: Settings, config: Config) -> Endpoint:
    """Another engine: an address (ssh://, tcp://, unix://) or a context's name. ClientError, CLIError."""
    if "://" not in text:
        from sampan.client.contexts import ContextStore

        return ContextStore(config.folder).get(text).endpoint()
    endpoint = endpoints.parse(text)
    if endpoint.scheme == "tcp":
        _add_tls(endpoint, settings, config, explicit=text)
    return endpoint


def _add_tls(endpoint: Endpoint, settings: Settings, config: Config, *, explicit: str) -> None:
    environ = settings.environ
    verify = settings.tls_verify
    if verify is None:
        verify = bool(environ.get("DOCKER_TLS_VERIFY")) or None
    wanted = bool(settings.tls) or verify is not None or bool(environ.get("DOCKER_TLS"))
    if not wanted or (settings.tls is False and not verify):
        return
    folder = environ.get("DOCKER_CERT_PATH") or config.folder
    paths = {
        kind: settings.tls_files[kind] or os.path.join(folder, f"{kind}.pem")
        for kind in ("ca", "cert", "key")
    }
    endpoint.tls = endpoints.TLSFiles(paths["ca"], paths["cert"], paths["key"], verify=bool(verify))
    if not _has_port(explicit):
        endpoint.port = 2376


def _has_port(url: str) -> bool:
    tail = url.rpartition("]")[2] if "]" in url else url.rpartition("/")[2]
    return tail.rpartition(":")[2].isdigit()
