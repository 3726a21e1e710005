"""The mounts, devices, links and hidden paths of a container's plan."""

from __future__ import annotations

import os
import stat
from typing import Any

from sampan import errors
from sampan.engine import localdriver
from sampan.engine.containers import cgroups
from sampan.engine.containers import mounts as points
from sampan.engine.containers.context import Containers
from sampan.engine.containers.record import Container, MountPoint
from sampan.kernel import mountinfo, mounts
from sampan.runtime import devices
from sampan.runtime.config import HostConfig

_HARDENED = mounts.MS_NOSUID | mounts.MS_NOEXEC | mounts.MS_NODEV
_STANDARD = (
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
)
_LINKS = [
    ["/proc/self/fd", "/dev/fd"],
    ["/proc/self/fd/0", "/dev/stdin"],
    ["/proc/self/fd/1", "/dev/stdout"],
    ["/proc/self/fd/2", "/dev/stderr"],
    ["pts/ptmx", "/dev/ptmx"],
    ["/proc/kcore", "/dev/core"],
]
_PROPAGATION = {
    "shared": mounts.MS_SHARED,
    "slave": mounts.MS_SLAVE,
    "private": mounts.MS_PRIVATE,
}


def plan(containers: Containers, container: Container, cgroup_path: str) -> dict[str, Any]:
    """``mounts``, ``devices``, ``symlinks``, ``masked``, ``readonly_paths``, ``propagation``, ``host_mounts``."""
    host = container.host
    found = [
        *system_mounts(host, cgroup_path),
        *file_mounts(containers, container),
        *user_mounts(containers, container),
    ]
    return {
        "mounts": found,
        "devices": device_nodes(host),
        "symlinks": _LINKS,
        "masked": list(host.masked_paths or ()),
        "readonly_paths": [*(host.readonly_paths or ()), *_readonly_cgroup_root(host)],
        "propagation": _root_propagation(container),
        "host_mounts": any(point.type in ("bind", "volume") for point in container.mounts),
    }


def _readonly_cgroup_root(host: HostConfig) -> list[str]:
    """v1: the directory of the hierarchies is a tmpfs, made read-only once they are mounted in it."""
    return [] if _cgroups_writable(host) or cgroups.is_v2() else ["/sys/fs/cgroup"]


def _cgroups_writable(host: HostConfig) -> bool:
    """Whether the container may write to its control groups: ``--security-opt writable-cgroups[=bool]``."""
    for text in host.security_opt or ():
        key, mark, value = text.partition("=" if "=" in text else ":")
        if key == "writable-cgroups":
            return not mark or value.lower() in ("1", "t", "true")
    return host.privileged


def _root_propagation(container: Container) -> int:
    modes = {point.propagation for point in container.mounts}
    if modes & {"shared", "rshared"}:
        return mounts.MS_SHARED | mounts.MS_REC
    if modes & {"slave", "rslave"}:
        return mounts.MS_SLAVE | mounts.MS_REC
    return 0


def system_mounts(host: HostConfig, cgroup_path: str) -> list[list[Any]]:
    """/proc, /dev and below, /sys with the control groups."""
    pts = "newinstance,ptmxmode=0666,mode=0620,gid=5"
    sys_flags = _HARDENED if host.privileged else _HARDENED | mounts.MS_RDONLY
    group_flags = _HARDENED if _cgroups_writable(host) else _HARDENED | mounts.MS_RDONLY
    found: list[list[Any]] = [
        ["fs", "proc", "proc", "/proc", _HARDENED, ""],
        ["fs", "tmpfs", "tmpfs", "/dev", mounts.MS_NOSUID | mounts.MS_STRICTATIME, "mode=755,size=65536k"],
        ["fs", "devpts", "devpts", "/dev/pts", mounts.MS_NOSUID | mounts.MS_NOEXEC, pts],
        _sysfs(host, sys_flags),
        *_cgroup_mounts(cgroup_path, group_flags),
    ]
    if host.ipc_mode == "host":
        # A new mount in the host's namespace shows the host's queues, mounted there or not.
        found.append(["fs", "mqueue", "mqueue", "/dev/mqueue", _HARDENED, ""])
        found.append(_bind("/dev/shm", "/dev/shm", 0))
    elif host.ipc_mode != "none" and not host.ipc_mode.startswith("container:"):
        found.append(["fs", "mqueue", "mqueue", "/dev/mqueue", _HARDENED, ""])
        found.append(["fs", "tmpfs", "shm", "/dev/shm", _HARDENED, f"mode=1777,size={host.shm_size}"])
    else:
        found.append(["fs", "mqueue", "mqueue", "/dev/mqueue", _HARDENED, ""])
    return found


def _sysfs(host: HostConfig, flags: int) -> list[Any]:
    """A new sysfs shows the network namespace that it is made in; in the host's it must be a bind."""
    if host.network_mode == "host":
        return _bind("/sys", "/sys", flags)
    return ["fs", "sysfs", "sysfs", "/sys", flags, ""]


def _cgroup_mounts(path: str, flags: int) -> list[list[Any]]:
    """v2: the one tree. v1: the container's own group of each hierarchy, as Docker shows them."""
    if cgroups.is_v2():
        return [["fs", "cgroup2", "cgroup", "/sys/fs/cgroup", flags, ""]]
    top = ["fs", "tmpfs", "tmpfs", "/sys/fs/cgroup", _HARDENED, "mode=755"]
    return [
        top,
        *(
            _bind(f"{root}{path}", f"/sys/fs/cgroup/{name}", flags | mounts.MS_REC, make="dir")
            for name, root in cgroups.hierarchies().items()
        ),
    ]


def _bind(source: str, target: str, flags: int, *, recursive: bool = True, make: str = "") -> list[Any]:
    """``make`` is what a missing target becomes; like the source if it isn't said."""
    if not make:
        make = "file" if os.path.exists(source) and not os.path.isdir(source) else "dir"
    return ["bind", source, target, flags, recursive, mounts.MS_PRIVATE | mounts.MS_REC, make]


def file_mounts(containers: Containers, container: Container) -> list[list[Any]]:
    """The three files that the engine writes, unless the user mounts something there himself."""
    taken = {point.destination for point in container.mounts}
    source = containers.state_dir(container.id)
    if container.host.network_mode.startswith("container:"):
        source = containers.state_dir(
            containers.get(container.host.network_mode.removeprefix("container:")).id
        )
    flags = mounts.MS_RDONLY if container.host.readonly_rootfs else 0
    return [
        _bind(f"{source}/{name}", f"/etc/{name}", flags, make="file")
        for name in ("resolv.conf", "hostname", "hosts")
        if f"/etc/{name}" not in taken
    ]


def user_mounts(containers: Containers, container: Container) -> list[list[Any]]:
    """Volumes, binds, tmpfs and images, outer ones before those inside them."""
    found: list[tuple[str, list[Any]]] = []
    for point in container.mounts:
        found.append((point.destination, _point(containers, point)))
    for target, options in (container.host.tmpfs or {}).items():
        found.append((os.path.normpath(target), _tmpfs(os.path.normpath(target), options)))
    if container.host.ipc_mode.startswith("container:"):
        donor = containers.get(container.host.ipc_mode.removeprefix("container:"))
        found.append(("/dev/shm", ["from", f"/proc/{donor.state.pid}/ns/mnt", "/dev/shm", "/dev/shm"]))
    return [entry for _, entry in sorted(found, key=lambda item: item[0].count("/"))]


def _tmpfs(target: str, options: str) -> list[Any]:
    points.check_tmpfs_options(options)
    words = [word for word in options.split(",") if word]
    if "noexec" not in words and "exec" not in words:
        words.insert(0, "noexec")
    if not any(word.startswith("mode=") for word in words):
        words.append("mode=1777")
    flags, data = localdriver.parse_options(",".join(["nosuid", "nodev", *words]))
    return ["fs", "tmpfs", "tmpfs", target, flags, data]


def _point(containers: Containers, point: MountPoint) -> list[Any]:
    if point.type == "tmpfs":
        return _tmpfs(point.destination, point.tmpfs_options)
    if point.type == "image":
        return _image(containers, point)
    _check_propagation(point)
    flags = 0 if point.rw else mounts.MS_RDONLY
    if flags and point.recursive and point.read_only_recursive:
        flags |= mounts.MS_REC
    kind = point.propagation.removeprefix("r") or "private"
    propagation = _PROPAGATION[kind] | (mounts.MS_REC if point.propagation.startswith("r") else 0)
    # A volume is a directory; to look could take as long as its server is down.
    make = "dir" if point.type == "volume" else ""
    entry = _bind(point.source, point.destination, flags, recursive=point.recursive, make=make)
    entry[5] = propagation if point.propagation else mounts.MS_PRIVATE | mounts.MS_REC
    # The launch opens what is below the source itself: links in a volume are its users', not the host's.
    return [*entry, point.subpath] if point.subpath else entry


def _check_propagation(point: MountPoint) -> None:
    """Mounts come from, and go to, where the source's mount shares them: SystemFailure where it doesn't."""
    kind = point.propagation.removeprefix("r")
    if kind not in ("shared", "slave"):
        return
    mount = mountinfo.of(point.source)
    if "shared" not in mount.propagation and (kind == "shared" or "master" not in mount.propagation):
        wanted = "shared" if kind == "shared" else "shared or slave"
        raise errors.SystemFailure(
            f"path {point.source} is mounted on {mount.point} but it is not a {wanted} mount",
            hint=f"mount --make-rshared {mount.point}",
        )


def _image(containers: Containers, point: MountPoint) -> list[Any]:
    """An image mounted read-only, or a part of it."""
    lowers = containers.layers.lowers(point.image_layers[-1] if point.image_layers else None)
    return ["image", [str(path) for path in lowers], point.subpath, point.destination]


def device_nodes(host: HostConfig) -> list[list[Any]]:
    """The nodes in /dev: the standard ones, then those asked for; all of the host's when privileged."""
    nodes = [[f"/dev/{name}", "c", major, minor, 0o666, 0, 0] for name, major, minor in _STANDARD]
    asked = devices.host_devices() if host.privileged else []
    for mapping in host.devices or ():
        asked += devices.expand(mapping.path_on_host, mapping.path_in_container or mapping.path_on_host)
    known = {node[0] for node in nodes}
    for device in asked:
        if device.path not in known:
            nodes.append(
                [device.path, device.kind, device.major, device.minor, stat.S_IMODE(device.mode),
                 device.uid, device.gid]
            )  # fmt: skip
    return nodes
