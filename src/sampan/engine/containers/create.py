"""``docker create``: check, name, merge, resolve mounts, reserve; then make what must exist, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sampan import errors, gojson
from sampan.engine import names
from sampan.engine.containers import cgroups, checks, copyup, merge, mounts
from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container, MountPoint, State
from sampan.engine.containers.registry import new_id
from sampan.images.manifest import parse_platform
from sampan.runtime.config import ContainerConfig, CreateRequest, HostConfig, LogConfig, with_defaults
from sampan.storage.removal import remove_tree

if TYPE_CHECKING:
    from sampan.images.store import Image

_LINK_WARNING = (
    "Links on the default bridge network are deprecated and will be removed in a future release. "
    "Use a custom network instead."
)


async def create(
    containers: Containers, request: CreateRequest, *, name: str = "", platform: str = ""
) -> tuple[Container, list[str]]:
    """Make a container from an image: the record and the warnings for the user.

    NotFound for a missing image, InvalidParameter for what is malformed, Conflict for a taken name.
    """
    if request.is_empty():
        raise errors.InvalidParameter("config cannot be empty in order to create a container")
    user, host = request.container_config(), request.host_config or HostConfig()
    image = _image(containers, user.image, platform) if user.image else None
    container, warnings = _record(containers, user, host, image, name)
    endpoints = request.networking_config and request.networking_config.endpoints_config
    container.networks = dict(endpoints or {})
    warnings += _resolve_links(containers, container)
    warnings += containers.networks.check(container.config, container.host, request.networking_config)
    container.mounts = mounts.collect(container.config, container.host, containers.get)
    _check_volumes(containers, container)
    bounded = containers.quotas.wanted(container.host.storage_opt)
    if container.config.working_dir or container.mounts or bounded:
        await _make(containers, container)
    else:
        _make_plain(containers, container)
    containers.publish(container, "create")
    return container, warnings


def _image(containers: Containers, reference: str, platform: str) -> Image:
    """The image to run, of the asked platform (NotFound)."""
    if not platform:
        return containers.images.get(reference)
    shown = reference if ":" in reference.rpartition("/")[2] else f"{reference}:latest"
    return containers.images.get(reference, parse_platform(platform), shown)


def _record(
    containers: Containers, user: ContainerConfig, host: HostConfig, image: Image | None, name: str
) -> tuple[Container, list[str]]:
    base = gojson.convert(image.config, ContainerConfig) if image is not None else ContainerConfig()
    # Merging first: a command or user that the image lacks is an error of the whole.
    config = merge.merge(user, base)
    warnings = checks.check_create(config, host)
    if config.working_dir:
        config.working_dir = posixpath.normpath("/" + config.working_dir.lstrip("/"))
    if config.network_disabled:
        host.network_mode = "none"
    _check_donors(containers, host)
    identity = new_id()
    chosen = names.check(name) if name else names.generate(containers.registry.taken)
    containers.registry.check_free(chosen)
    path, args = merge.command(config)
    container = Container(
        id=identity,
        name=chosen,
        created_ns=time.time_ns(),
        image=image.id if image is not None else "",
        path=path,
        args=args,
        config=config,
        host=complete_host(containers, host),
        state=State(),
        chain=image.layers[-1] if image is not None and image.layers else "",
    )
    _name_donors_by_id(containers, container.host)
    _set_hostname(containers, container)
    return container, warnings


def complete_host(containers: Containers, host: HostConfig) -> HostConfig:
    """``host`` with the defaults of the engine, as inspect shows it."""
    settings = containers.config
    default_log = LogConfig(type=settings.log_driver, config=dict(settings.log_opts))
    return with_defaults(
        host,
        cgroup_v2=cgroups.is_v2(),
        log=default_log,
        ipc_mode=settings.default_ipc_mode,
        shm_size=settings.default_shm_size,
    )


def _set_hostname(containers: Containers, container: Container) -> None:
    config, mode = container.config, container.host.network_mode
    if config.hostname:
        return
    if mode == "host" or container.host.uts_mode == "host":
        config.hostname = os.uname().nodename
    elif mode.startswith("container:"):
        try:
            config.hostname = containers.get(mode.removeprefix("container:")).config.hostname
        except (errors.NotFound, errors.InvalidParameter):
            # The start says that this container is missing, as Docker does.
            config.hostname = ""
    else:
        config.hostname = container.short_id


def _check_donors(containers: Containers, host: HostConfig) -> None:
    """Containers whose pid or ipc namespace is to be joined must exist already."""
    for mode in (host.pid_mode, host.ipc_mode):
        if mode.startswith("container:"):
            try:
                containers.get(mode.removeprefix("container:"))
            except errors.NotFound as missing:
                raise errors.InvalidParameter(missing.message) from None


def _name_donors_by_id(containers: Containers, host: HostConfig) -> None:
    """``container:NAME`` becomes ``container:ID``: that container may get another name."""
    for field in ("pid_mode", "ipc_mode", "network_mode"):
        kind, colon, reference = getattr(host, field).partition(":")
        if kind == "container" and reference:
            # The start says that one is missing, as Docker does.
            with contextlib.suppress(errors.NotFound, errors.InvalidParameter):
                setattr(host, field, f"{kind}{colon}{containers.get(reference).id}")


def _resolve_links(containers: Containers, container: Container) -> list[str]:
    """Replace link targets by ids; InvalidParameter when one is missing."""
    for spec in container.host.links or ():
        target, _, alias = spec.partition(":")
        if not target:
            raise errors.InvalidParameter("empty string specified for links")
        try:
            child = containers.get(target)
        except errors.NotFound as missing:
            raise errors.InvalidParameter(
                f"could not get container for {target}: {missing.message}"
            ) from None
        container.links[alias or target.removeprefix("/")] = child.id
    return [_LINK_WARNING] if container.links and container.host.network_mode in ("default", "bridge") else []


def _check_volumes(containers: Containers, container: Container) -> None:
    """Names and drivers of volumes that don't exist yet: refused before anything is made."""
    for point in container.mounts:
        if point.type == "volume":
            driver, options = _volume_options(container, point)
            containers.volumes.check(point.name, driver, options)
        elif point.type == "image":
            image = containers.images.get(point.source)
            point.image_layers = list(image.layers)
            point.source = image.id


def _volume_options(container: Container, point: MountPoint) -> tuple[str, dict[str, str] | None]:
    for mount in container.host.mounts or ():
        if mount.target == point.destination and mount.volume_options and mount.volume_options.driver_config:
            return point.driver, mount.volume_options.driver_config.options
    return point.driver, None


async def _make(containers: Containers, container: Container) -> None:
    """Make directories and volumes. The row comes first: what a crash leaves behind is named in it."""
    for point in container.mounts:
        if point.type == "volume" and not point.name:
            point.name, point.anonymous = new_id(), True
    with containers.db.transaction():
        containers.leases.hold(f"container:{container.id}", layers=_chains(container))
        containers.registry.begin(container)
    try:
        with ExitStack() as undo:
            undo.callback(_unmake, containers, container)
            _make_volumes(containers, container)
            await asyncio.to_thread(prepare_directories, containers, container)
            containers.registry.finish(container)
            undo.pop_all()
    except OSError as problem:
        raise _failed(problem) from problem


def _make_plain(containers: Containers, container: Container) -> None:
    """Three directories and a row: less than the way to a thread and back.

    Directories that a crash leaves without a row are removed at the next start.
    """
    try:
        with containers.db.transaction():
            containers.leases.hold(f"container:{container.id}", layers=_chains(container))
            prepare_directories(containers, container)
            containers.registry.add(container)
    except BaseException as problem:
        containers.registry.drop(container)
        with contextlib.suppress(OSError):
            remove_tree(str(containers.state_dir(container.id)))
        if isinstance(problem, OSError):
            raise _failed(problem) from problem
        raise


def _failed(problem: OSError) -> errors.SystemFailure:
    what = f"{problem.filename}: " if problem.filename else ""
    reason = os.strerror(problem.errno or 0).lower()
    return errors.SystemFailure(f"creating the container failed: {what}{reason}")


def _chains(container: Container) -> list[str]:
    chains = [container.chain] if container.chain else []
    return chains + [point.image_layers[-1] for point in container.mounts if point.image_layers]


def _make_volumes(containers: Containers, container: Container) -> None:
    for point in container.mounts:
        if point.type != "volume":
            continue
        driver, options = _volume_options(container, point)
        labels = _volume_labels(container, point)
        volume = containers.volumes.create(
            point.name,
            driver=driver,
            options=options,
            labels=labels,
            user=container.id,
            anonymous=point.anonymous,
        )
        point.source = volume.mountpoint


def _volume_labels(container: Container, point: MountPoint) -> dict[str, str] | None:
    for mount in container.host.mounts or ():
        if mount.target == point.destination and mount.volume_options:
            return mount.volume_options.labels
    return None


def prepare_directories(containers: Containers, container: Container) -> None:
    """Make the container's directories with their bound, its working directory, its volumes' first content."""
    state = containers.state_dir(container.id)
    state.mkdir(mode=0o710, parents=True)
    lowers = containers.lowers(container)
    upper, work = containers.layers.make_upper(container.chain or None, state)
    size = containers.quotas.wanted(container.host.storage_opt)
    if size:
        containers.quotas.bound("containers", container.id, size, (upper, work))
    pending = [point for point in container.mounts if copyup.wanted(point)]
    if container.config.working_dir or pending:
        copyup.populate(lowers, upper, work, container.config.working_dir, pending)


def _unmake(containers: Containers, container: Container) -> None:
    """Undo a creation that failed half-way, or that a crash interrupted."""
    for point in container.mounts:
        if point.type == "volume" and point.name:
            containers.volumes.release(point.name, container.id)
            if point.anonymous and point.name in containers.volumes:
                containers.volumes.discard(point.name)
    containers.leases.release(f"container:{container.id}")
    with containers.db.transaction() as tx:
        containers.registry.forget(container, tx)
        containers.cleaner.add(tx, "tree", str(containers.state_dir(container.id)))
        if containers.quotas.release("containers", container.id, tx):
            containers.cleaner.add(tx, "project", container.id)
    containers.registry.drop(container)
    containers.cleaner.wake()


def undo_unfinished(containers: Containers) -> None:
    """Remove what creations left behind that a crash interrupted."""
    for container in containers.registry.unfinished():
        _unmake(containers, container)
