"""From ``-v``, ``--mount``, ``--volumes-from``, ``VOLUME`` and ``--tmpfs`` to mount points; makes nothing.

The grammar and the words of refusal are Docker's; statuses too, odd as some are (a bad ``-v`` is a 500, a
bad ``--mount`` a 400).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable

from sampan import errors
from sampan.engine.containers.record import Container, MountPoint
from sampan.runtime.config import ContainerConfig, HostConfig, Mount

PROPAGATIONS = frozenset(("shared", "slave", "private", "rshared", "rslave", "rprivate"))
_CONSISTENCY = frozenset(("consistent", "cached", "delegated", "default"))
_MODE_GROUPS = (
    frozenset(("rw", "ro")),
    frozenset(("z", "Z")),
    PROPAGATIONS,
    frozenset(("nocopy",)),
    frozenset(("consistent", "cached", "delegated")),
)
_TMPFS_FLAG_WORDS = """
    ro rw nosuid suid nodev dev noexec exec sync async dirsync remount mand nomand atime noatime
    diratime nodiratime bind rbind unbindable runbindable private rprivate shared rshared slave
    rslave relatime norelatime strictatime nostrictatime
"""
_TMPFS_FLAGS = frozenset(_TMPFS_FLAG_WORDS.split())
_TMPFS_VALUES = frozenset(("mode", "uid", "gid", "nr_inodes", "nr_blocks", "size", "mpol", "inode64", "huge"))


class _Invalid(Exception):
    """What is wrong with one mount; the caller adds which mount and chooses the status."""


def valid_mode(mode: str) -> bool:
    """Whether ``ro,z,rshared…`` is a mode that Docker takes: known words, at most one of a kind."""
    if not mode:
        return True
    seen = set()
    for word in mode.split(","):
        kind = next((index for index, group in enumerate(_MODE_GROUPS) if word in group), None)
        if kind is None or kind in seen:
            return False
        seen.add(kind)
    return True


def parse_bind(raw: str, volume_driver: str = "") -> MountPoint:
    """A ``-v`` specification ``[source:]destination[:mode]`` as a mount point.

    SystemFailure (500, as dockerd has it) when it is malformed. A source that is no absolute path names a
    volume; whether its name is allowed is for the volume store to say.
    """
    source, destination, mode = _split_bind(raw)
    if not valid_mode(mode):
        raise errors.SystemFailure(f"invalid mode: {mode}", hint="known: rw, ro, z, Z, rshared …, nocopy")
    words = mode.split(",")
    kind = "bind" if source.startswith("/") else "volume"
    propagation = next((word for word in words if word in PROPAGATIONS), "")
    try:
        _check_target(destination)
        if kind == "volume" and propagation:
            raise _Invalid("field BindOptions must not be specified")
        if kind == "bind" and "nocopy" in words:
            raise _Invalid("field VolumeOptions must not be specified")
    except _Invalid as problem:
        raise errors.SystemFailure(
            f"invalid volume specification: '{raw}': invalid mount config for type \"{kind}\": {problem}"
        ) from None
    point = MountPoint(
        type="bind" if kind == "bind" else "volume",
        destination=posixpath.normpath(destination),
        mode=mode,
        rw="ro" not in words,
        no_copy="nocopy" in words,
    )
    if kind == "bind":
        point.source = posixpath.normpath(source)
        point.propagation = propagation or "rprivate"
        point.create_source = True
    else:
        point.name, point.driver = source, volume_driver or "local"
        point.mode = mode or ("z" if source else "")
    return point


def _split_bind(raw: str) -> tuple[str, str, str]:
    parts = raw.split(":", 3)
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and valid_mode(parts[1])):
        raise errors.SystemFailure(f"invalid volume specification: '{raw}'")
    if len(parts) == 1:
        return "", parts[0], ""
    return parts[0], parts[1], parts[2] if len(parts) == 3 else ""


def _check_target(target: str) -> None:
    if not target:
        raise _Invalid("field Target must not be empty")
    _check_path(target)


def _check_path(target: str) -> None:
    if not target.startswith("/"):
        raise _Invalid(f"invalid mount path: '{target}' mount path must be absolute")
    if posixpath.normpath(target).lstrip("/") == "":
        raise _Invalid("invalid specification: destination can't be '/'")


def parse_mount(mount: Mount, *, exists: Callable[[str], bool] = os.path.lexists) -> MountPoint:
    """An entry of ``HostConfig.Mounts`` as a mount point. InvalidParameter (400) when it is malformed."""
    try:
        parse = _PARSERS.get(mount.type)
        if parse is None:
            raise _Invalid("mount type unknown")
        _check_target(mount.target)
        if mount.consistency and mount.consistency not in _CONSISTENCY:
            raise _Invalid(f"invalid consistency: {mount.consistency}")
        _check_options(mount)
        point = parse(mount, exists)
    except _Invalid as problem:
        raise errors.InvalidParameter(f'invalid mount config for type "{mount.type}": {problem}') from None
    point.destination = posixpath.normpath(mount.target)
    point.rw = not mount.read_only
    return point


def _check_options(mount: Mount) -> None:
    """Options of another type are refused, never ignored."""
    given = {
        "bind": ("BindOptions", mount.bind_options),
        "volume": ("VolumeOptions", mount.volume_options),
        "tmpfs": ("TmpfsOptions", mount.tmpfs_options),
        "image": ("ImageOptions", mount.image_options),
    }
    for kind, (name, value) in given.items():
        if value is not None and kind != mount.type:
            raise _Invalid(f"field {name} must not be specified")
    if mount.cluster_options is not None:
        raise _Invalid("field ClusterOptions must not be specified")


def _parse_bind_mount(mount: Mount, exists: Callable[[str], bool]) -> MountPoint:
    if not mount.source:
        raise _Invalid("field Source must not be empty")
    if not mount.source.startswith("/"):
        raise _Invalid(f"invalid mount path: '{mount.source}' mount path must be absolute")
    options = mount.bind_options
    propagation = options.propagation if options else ""
    if propagation and propagation not in PROPAGATIONS:
        raise _Invalid(f"invalid propagation mode: {propagation}")
    point = MountPoint(type="bind", destination=mount.target, source=posixpath.normpath(mount.source))
    point.propagation = propagation or "rprivate"
    if options:
        if options.read_only_non_recursive and options.read_only_force_recursive:
            raise _Invalid("ReadOnlyNonRecursive and ReadOnlyForceRecursive must not both be set")
        if (options.read_only_non_recursive or options.read_only_force_recursive) and not mount.read_only:
            raise _Invalid(
                "mount source must be read-only to set ReadOnlyNonRecursive or ReadOnlyForceRecursive"
            )
        point.recursive = not options.non_recursive
        point.read_only_recursive = not options.read_only_non_recursive
        point.create_source = options.create_mountpoint
    if not point.create_source and not exists(mount.source):
        raise _Invalid(f"bind source path does not exist: {mount.source}")
    return point


def _parse_volume_mount(mount: Mount, exists: Callable[[str], bool]) -> MountPoint:
    options = mount.volume_options
    subpath = options.subpath if options else ""
    if not mount.source:
        if mount.read_only:
            raise _Invalid("must not set ReadOnly mode when using anonymous volumes")
        if subpath:
            raise _Invalid("must not set Subpath when using anonymous volumes")
    _check_subpath(subpath, "volume")
    driver = options.driver_config if options else None
    return MountPoint(
        type="volume",
        destination=mount.target,
        name=mount.source,
        driver=(driver.name if driver else "") or "local",
        mode="z",
        no_copy=bool(options and options.no_copy),
        subpath=subpath,
    )


def _check_subpath(subpath: str, kind: str) -> None:
    if subpath and (subpath.startswith("/") or ".." in subpath.split("/")):
        raise _Invalid(f"subpath must be a relative path within the {kind}")


def _parse_tmpfs_mount(mount: Mount, exists: Callable[[str], bool]) -> MountPoint:
    if mount.source:
        raise _Invalid("field Source must not be specified")
    options = mount.tmpfs_options
    words: list[str] = ["ro"] if mount.read_only else []
    if options:
        if options.size_bytes < 0:
            raise _Invalid("invalid tmpfs size")
        words += [f"mode={options.mode:o}"] if options.mode else []
        words += [f"size={options.size_bytes}"] if options.size_bytes else []
        words += ["=".join(pair) for pair in options.options or ()]
        try:
            check_tmpfs_options(",".join(words))
        except errors.SampanError as problem:
            raise _Invalid(problem.message) from None
    return MountPoint(type="tmpfs", destination=mount.target, tmpfs_options=",".join(words))


def _parse_image_mount(mount: Mount, exists: Callable[[str], bool]) -> MountPoint:
    if not mount.source:
        raise _Invalid("field Source must not be empty")
    subpath = mount.image_options.subpath if mount.image_options else ""
    _check_subpath(subpath, "image")
    return MountPoint(type="image", destination=mount.target, source=mount.source, subpath=subpath)


_PARSERS = {
    "bind": _parse_bind_mount,
    "volume": _parse_volume_mount,
    "tmpfs": _parse_tmpfs_mount,
    "image": _parse_image_mount,
}


def check_tmpfs_options(options: str) -> None:
    """SystemFailure with Docker's words for an option that a tmpfs mount doesn't have."""
    for word in filter(None, options.split(",")):
        key, has_value, _ = word.partition("=")
        if word not in _TMPFS_FLAGS and not (has_value and key in _TMPFS_VALUES):
            raise errors.SystemFailure(f'invalid tmpfs option "{word}"')


def check_tmpfs(host: HostConfig) -> None:
    """InvalidParameter for a ``--tmpfs`` destination that is relative or the root."""
    for target in host.tmpfs or ():
        try:
            _check_path(target)
        except _Invalid as problem:
            raise errors.InvalidParameter(str(problem)) from None


def split_volumes_from(spec: str) -> tuple[str, str]:
    """``container[:mode]`` of ``--volumes-from``; InvalidParameter for an unknown mode."""
    name, _, mode = spec.partition(":")
    if not name:
        raise errors.InvalidParameter(f"invalid volumes-from specification: {spec}")
    words = mode.split(",") if mode else []
    if not valid_mode(mode) or any(word in PROPAGATIONS or word == "nocopy" for word in words):
        raise errors.InvalidParameter(f"invalid mode: {mode}")
    return name, mode


def inherited(donor: Container, mode: str) -> Iterable[MountPoint]:
    """The mount points that ``--volumes-from donor:mode`` brings."""
    for point in donor.mounts:
        if point.type not in ("bind", "volume"):
            continue
        copy = MountPoint(**{name: getattr(point, name) for name in MountPoint.__struct_fields__})
        # The donor's anonymous volume belongs to the donor: it isn't removed with this container.
        copy.anonymous = False
        copy.no_copy = True
        if mode:
            copy.rw = point.rw and "ro" not in mode.split(",")
            copy.mode = mode
        yield copy


def collect(
    config: ContainerConfig,
    host: HostConfig,
    find: Callable[[str], Container],
    *,
    exists: Callable[[str], bool] = os.path.lexists,
) -> list[MountPoint]:
    """All mount points of a new container, in Docker's order of precedence; volumes still without source.

    ``find`` looks a container up by name (for ``--volumes-from``). InvalidParameter for duplicates.
    """
    check_tmpfs(host)
    points: dict[str, MountPoint] = {}
    for spec in host.volumes_from or ():
        name, mode = split_volumes_from(spec)
        try:
            donor = find(name)
        except errors.NotFound as missing:
            raise errors.InvalidParameter(missing.message, hint=missing.hint) from None
        points.update((point.destination, point) for point in inherited(donor, mode))
    taken = {posixpath.normpath(target) for target in host.tmpfs or ()}
    explicit = [parse_bind(raw, host.volume_driver) for raw in host.binds or ()]
    explicit += [parse_mount(mount, exists=exists) for mount in host.mounts or ()]
    for point in explicit:
        if point.destination in taken:
            raise errors.InvalidParameter(f"Duplicate mount point: {point.destination}")
        taken.add(point.destination)
        points[point.destination] = point
    for target in config.volumes or ():
        destination = posixpath.normpath(target)
        if destination not in points and destination not in taken:
            points[destination] = _anonymous(target, host.volume_driver)
    return list(points.values())


def _anonymous(target: str, driver: str) -> MountPoint:
    try:
        _check_target(target)
    except _Invalid as problem:
        raise errors.InvalidParameter(str(problem)) from None
    return MountPoint(type="volume", destination=posixpath.normpath(target), driver=driver or "local")
