"""``docker ps``: which containers a client wants to see, and one line of facts for each."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from sampan.engine.containers import sizes
from sampan.engine.containers.context import Containers
from sampan.engine.containers.filters import Selection
from sampan.engine.containers.inspect import mount_document
from sampan.engine.containers.record import Container, State
from sampan.engine.containers.timestamps import human_duration


async def list_containers(
    containers: Containers,
    selection: Selection,
    *,
    all_: bool = False,
    limit: int = 0,
    size: bool = False,
    version: tuple[int, int] = (1, 55),
) -> list[dict[str, Any]]:
    """The documents of ``GET /containers/json``, newest first.

    ``limit`` above 0 takes that many of all; otherwise only running ones, unless ``all_`` or a filter on
    the state asks for others.
    """
    everything = all_ or limit > 0 or selection.implies_all
    chosen = []
    for container in sorted(containers, key=lambda c: c.created_ns, reverse=True):
        if not everything and not container.running and container.state.status != "restarting":
            continue
        if selection.matches(container):
            chosen.append(container)
        if 0 < limit <= len(chosen):
            break
    names = link_aliases(containers)
    return [await document(containers, c, names.get(c.id, ()), size=size, version=version) for c in chosen]


def link_aliases(containers: Containers) -> dict[str, list[str]]:
    """Names that containers have as link targets: ``/parent/alias`` by the child's id."""
    found: dict[str, list[str]] = {}
    for parent in containers:
        for alias, child in parent.links.items():
            found.setdefault(child, []).append(f"/{parent.name}/{alias}")
    return found


async def document(
    containers: Containers,
    container: Container,
    aliases: Iterable[str],
    *,
    size: bool,
    version: tuple[int, int],
) -> dict[str, Any]:
    """One container of the list."""
    settings = containers.networks.settings(container.id)
    found: dict[str, Any] = {
        "Id": container.id,
        "Names": [f"/{container.name}", *aliases],
        "Image": shown_image(containers, container),
        "ImageID": container.image,
        "Command": command_line(container),
        "Created": container.created_ns // 1_000_000_000,
        "Ports": ports(settings, container),
    }
    if size:
        found["SizeRw"], found["SizeRootFs"] = await sizes.both(containers, container)
    found |= {
        "Labels": container.config.labels or {},
        "State": container.state.status,
        "Status": status_text(container),
        "HostConfig": {"NetworkMode": container.host.network_mode},
        "NetworkSettings": {"Networks": settings.get("Networks") or {}},
        "Mounts": [mount_document(point) for point in container.mounts],
    }
    if container.host.annotations and version >= (1, 46):
        found["HostConfig"]["Annotations"] = dict(container.host.annotations)
    if version >= (1, 52):
        found["Health"] = {
            "Status": container.health.status if container.health else "none",
            "FailingStreak": container.health.failing_streak if container.health else 0,
        }
    return found


def shown_image(containers: Containers, container: Container) -> str:
    """The reference that the user wrote, or the id once it leads to another image."""
    return containers.shown_image(container.config.image, container.image)


def command_line(container: Container) -> str:
    """The command as one line; arguments with blanks in quotes, as Docker has it (not for a shell)."""
    words = [container.path, *container.args]
    return " ".join(f"'{word}'" if " " in word else word for word in words)


def ports(settings: dict[str, Any], container: Container) -> list[dict[str, Any]]:
    """``Ports``: published ones with their host side, exposed ones without."""
    found: list[dict[str, Any]] = []
    for key, bindings in (settings.get("Ports") or {}).items():
        number, _, protocol = key.partition("/")
        for binding in bindings or ():
            found.append(
                {
                    "IP": binding["HostIp"],
                    "PrivatePort": int(number),
                    "PublicPort": int(binding["HostPort"] or 0),
                    "Type": protocol or "tcp",
                }
            )
        if not bindings:
            found.append({"PrivatePort": int(number), "Type": protocol or "tcp"})
    return sorted(found, key=lambda p: (p["PrivatePort"], p["Type"], p.get("PublicPort", 0), p.get("IP", "")))


def status_text(container: Container) -> str:
    """The words of the STATUS column."""
    state, now = container.state, time.time_ns()
    if state.status in ("running", "paused"):
        up = f"Up {human_duration((now - state.started_ns) / 1e9)}"
        if state.status == "paused":
            return f"{up} (Paused)"
        return up + health_text(container)
    if state.status == "restarting":
        return f"Restarting ({state.exit_code}) {human_duration((now - state.finished_ns) / 1e9)} ago"
    return stopped_text(state, now)


def stopped_text(state: State, now: int) -> str:
    """STATUS of a container without a process."""
    if state.status == "removing":
        return "Removal In Progress"
    if state.status == "dead":
        return "Dead"
    if not state.started_ns:
        return "Created"
    if not state.finished_ns:
        return ""
    return f"Exited ({state.exit_code}) {human_duration((now - state.finished_ns) / 1e9)} ago"


def health_text(container: Container) -> str:
    """`` (healthy)`` and the like."""
    health = container.health
    if health is None:
        return ""
    return " (health: starting)" if health.status == "starting" else f" ({health.status})"
