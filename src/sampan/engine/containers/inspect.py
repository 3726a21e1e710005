"""``docker inspect`` of a container, in the shape that each API version expects."""

from __future__ import annotations

from typing import Any

from sampan import gojson
from sampan.engine.containers import apparmor, sizes
from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container, Health, MountPoint, State
from sampan.engine.containers.timestamps import rfc3339

# Since 1.52 these appear only below each network.
_LEGACY_NETWORK = (
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
)


async def inspect(
    containers: Containers, reference: str, version: tuple[int, int], *, size: bool = False
) -> dict[str, Any]:
    """The document of ``GET /containers/{id}/json`` for a client of this API version."""
    container = containers.get(reference)
    document = base(containers, container)
    if size:
        document["SizeRw"], document["SizeRootFs"] = await sizes.both(containers, container)
    document |= {
        "Mounts": [mount_document(point) for point in container.mounts],
        "Config": gojson.encode(container.config),
        "NetworkSettings": containers.networks.settings(container.id),
    }
    fit_version(document, version)
    return document


def base(containers: Containers, container: Container) -> dict[str, Any]:
    """What all versions have, in today's order."""
    state_dir = containers.state_dir(container.id)
    host = gojson.encode(container.host)
    host["Links"] = link_names(containers, container) or container.host.links
    return {
        "Id": container.id,
        "Created": rfc3339(container.created_ns),
        "Path": container.path,
        "Args": container.args,
        "State": state_document(container.state, container.health),
        "Image": container.image,
        "ResolvConfPath": str(state_dir / "resolv.conf"),
        "HostnamePath": str(state_dir / "hostname"),
        "HostsPath": str(state_dir / "hosts"),
        "LogPath": log_path(containers, container),
        "Name": f"/{container.name}",
        "RestartCount": container.restart_count,
        "Driver": container.driver,
        "Platform": container.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": apparmor_profile(container),
        "ExecIDs": containers.exec_ids(container) or None,
        "HostConfig": host,
        "GraphDriver": graph_document(containers, container),
    }


def apparmor_profile(container: Container) -> str:
    """The profile that the container runs under, where the machine has AppArmor."""
    named = ""
    for text in container.host.security_opt or ():
        key, _, value = text.replace(":", "=", 1).partition("=")
        named = value if key == "apparmor" else named
    if not apparmor.enabled():
        return named
    return apparmor.chosen(named, privileged=container.host.privileged) or "unconfined"


def link_names(containers: Containers, container: Container) -> list[str] | None:
    """Links as ``/child:/parent/alias``."""
    found = [
        f"/{containers.get(identity).name}:/{container.name}/{alias}"
        for alias, identity in container.links.items()
        if identity in containers.registry
    ]
    return found or None


def log_path(containers: Containers, container: Container) -> str:
    """Where the log is, for the drivers that write a file of Docker's kind."""
    kind = container.host.log_config.type
    return str(containers.log_path(container.id)) if kind in ("", "json-file") else ""


def state_document(state: State, health: Health | None) -> dict[str, Any]:
    """``State``: a restarting container counts as running, as with Docker."""
    status = state.status
    document: dict[str, Any] = {
        "Status": status,
        "Running": status in ("running", "paused", "restarting"),
        "Paused": status == "paused",
        "Restarting": status == "restarting",
        "OOMKilled": state.oom_killed,
        "Dead": status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started_ns),
        "FinishedAt": rfc3339(state.finished_ns),
    }
    if health is not None:
        document["Health"] = health_document(health)
    return document


def health_document(health: Health) -> dict[str, Any]:
    """``State.Health``."""
    return {
        "Status": health.status,
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": rfc3339(result.start_ns),
                "End": rfc3339(result.end_ns),
                "ExitCode": result.exit_code,
                "Output": result.output,
            }
            for result in health.log
        ],
    }


def graph_document(containers: Containers, container: Container) -> dict[str, Any]:
    """``GraphDriver``: where the layers are, as the overlay2 driver tells it."""
    state = containers.state_dir(container.id)
    merged = f"/proc/{container.state.pid}/root" if container.running else ""
    data: dict[str, Any] = {
        "ID": container.id,
        "LowerDir": ":".join(str(path) for path in containers.lowers(container)),
        "MergedDir": merged,
        "UpperDir": str(state / "upper"),
        "WorkDir": str(state / "work"),
    }
    return {"Data": data, "Name": container.driver}


def mount_document(point: MountPoint) -> dict[str, Any]:
    """One entry of ``Mounts``; Name and Driver only where they mean something."""
    document: dict[str, Any] = {"Type": point.type}
    if point.type == "volume":
        document["Name"] = point.name
    document["Source"] = point.source
    document["Destination"] = point.destination
    if point.type == "volume":
        document["Driver"] = point.driver
    return document | {"Mode": point.mode, "RW": point.rw, "Propagation": point.propagation}


def fit_version(document: dict[str, Any], version: tuple[int, int]) -> None:
    """Take out what the client's API version doesn't have, or no longer has."""
    if version >= (1, 52):
        document["Storage"] = {"RootFS": {"Snapshot": {"Name": document["Driver"]}}}
        del document["GraphDriver"]
        for name in _LEGACY_NETWORK:
            document["NetworkSettings"].pop(name, None)
    host, config = document["HostConfig"], document["Config"]
    if version < (1, 44):
        health = config.get("Healthcheck")
        if health:
            health.pop("StartInterval", None)
    if version < (1, 41):
        host.pop("CgroupnsMode", None)
    if version < (1, 40):
        for name in ("Capabilities", "KernelMemoryTCP", "DeviceRequests"):
            host.pop(name, None)
