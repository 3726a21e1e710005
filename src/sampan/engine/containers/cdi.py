"""Devices that vendors describe in files: the Container Device Interface, versions 0.3 to 1.1 of its SPEC.md.

A specification of kind ``vendor.com/class`` names devices, each with what it changes in a container, and what
any of them changes. The directories are read anew at each start; a later one's device takes the place of an
earlier one's, a name twice in one directory is nobody's. JSON is read by ourselves, YAML where PyYAML is installed.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

_VERSION = re.compile(r"(0\.[3-8]|1\.[01])\.\d+\Z")
_VENDOR = re.compile(r"[A-Za-z]([A-Za-z0-9._-]*[A-Za-z0-9])?\Z")
_CLASS = re.compile(r"[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?\Z")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:-]*[A-Za-z0-9])?\Z")
_LARGEST = 16 << 20


class _Object(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A part of a specification. What we don't know would be left out of the container in silence: refused."""


class DeviceNode(_Object):
    """A node in the container's /dev; what isn't said is read from the host's at ``host_path``."""

    path: str
    host_path: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


class Mount(_Object):
    """A mount of something of the host's; ``options`` are those of mount(8)."""

    host_path: str
    container_path: str
    options: list[str] | None = None
    type: str = ""


class Hook(_Object):
    """A program of the host's that runs while the container is made."""

    hook_name: str
    path: str
    args: list[str] | None = None
    env: list[str] | None = None
    timeout: int | None = None


class Edits(_Object):
    """What a device changes in a container."""

    env: list[str] | None = None
    device_nodes: list[DeviceNode] | None = None
    net_devices: list[Any] | None = None
    hooks: list[Hook] | None = None
    mounts: list[Mount] | None = None
    intel_rdt: dict[str, Any] | None = None
    additional_gids: list[int] | None = None


class _Device(_Object):
    name: str
    annotations: dict[str, str] | None = None
    container_edits: Edits = msgspec.field(default_factory=Edits)


class _Specification(_Object):
    cdi_version: str
    kind: str
    devices: list[_Device]
    annotations: dict[str, str] | None = None
    container_edits: Edits | None = None


@dataclass(frozen=True)
class Device:
    """A device that was found: its own edits, and those of its specification, which are applied once."""

    own: Edits
    common: Edits | None
    file: Path


@dataclass
class Found:
    """Devices by their full names, ``vendor.com/class=name``, and what is wrong with files."""

    devices: dict[str, Device] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def find(directories: Sequence[str]) -> Found:
    """All devices of the specifications in ``directories``; a file that can't be read is a problem, no error."""
    found = Found()
    for directory in directories:
        here: dict[str, Device | None] = {}
        for path in _files(directory):
            try:
                specification = _read(path)
            except (OSError, ValueError) as problem:
                found.problems.append(f"{path}: {problem}")
                continue
            for device in specification.devices:
                name = f"{specification.kind}={device.name}"
                if name in here:
                    found.problems.append(f"{path}: {name} is defined twice in {directory}")
                    here[name] = None
                else:
                    here[name] = Device(device.container_edits, specification.container_edits, path)
        for name, made in here.items():
            found.devices.pop(name, None)
            if made is not None:
                found.devices[name] = made
    return found


def _files(directory: str) -> Iterator[Path]:
    try:
        entries = sorted(Path(directory).iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.suffix in (".json", ".yaml") and entry.is_file():
            yield entry


def _read(path: Path) -> _Specification:
    """OSError; ValueError with what is wrong."""
    with open(path, "rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"larger than {_LARGEST >> 20} MiB")
    try:
        document = msgspec.json.decode(data) if path.suffix == ".json" else _yaml(data)
        found = msgspec.convert(document, _Specification)
    except (msgspec.DecodeError, msgspec.ValidationError) as problem:
        raise ValueError(str(problem)) from None
    _check(found)
    return found


def _yaml(data: bytes) -> Any:
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise ValueError(
            "YAML is read where PyYAML is installed (pip install pyyaml); JSON always is"
        ) from None
    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as problem:
        raise ValueError(" ".join(str(problem).split())) from None


def _check(found: _Specification) -> None:
    if not _VERSION.match(found.cdi_version):
        raise ValueError(f"unknown version {found.cdi_version!r} of the specification")
    vendor, slash, kind = found.kind.partition("/")
    if not (slash and _VENDOR.match(vendor) and _CLASS.match(kind)):
        raise ValueError(f"invalid kind {found.kind!r}")
    names = [device.name for device in found.devices]
    for name in names:
        if not _NAME.match(name) or names.count(name) > 1:
            raise ValueError(f"invalid or repeated device name {name!r}")
    for edits in (found.container_edits, *(device.container_edits for device in found.devices)):
        _check_edits(edits or Edits())


def _check_edits(edits: Edits) -> None:
    for entry in edits.env or ():
        if not entry.partition("=")[0] or "=" not in entry:
            raise ValueError(f"invalid environment variable {entry!r}")
    for node in edits.device_nodes or ():
        if not node.path.startswith("/") or node.type not in ("", "c", "b", "u", "p"):
            raise ValueError(f"invalid device node {node.path!r} of type {node.type!r}")
        if not set(node.permissions) <= set("rwm"):
            raise ValueError(f"invalid permissions {node.permissions!r} of {node.path}")
    for mount in edits.mounts or ():
        if not (mount.host_path.startswith("/") and mount.container_path.startswith("/")):
            raise ValueError(f"mount paths must be absolute: {mount.host_path!r}, {mount.container_path!r}")
    for hook in edits.hooks or ():
        if not hook.path.startswith("/") or (hook.timeout is not None and hook.timeout <= 0):
            raise ValueError(f"invalid hook {hook.path!r}")
