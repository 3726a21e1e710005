"""``--gpus`` and CDI devices: what the requests of a container mean for its launch, found anew at each start.

There is one driver, CDI (``cdi.py``). A request for GPUs is one for devices of kind ``nvidia.com/gpu`` or
``amd.com/gpu``, whichever has a specification here; dockerd 29 does the same.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sampan import errors
from sampan.engine import localdriver
from sampan.engine.containers import cdi
from sampan.kernel import mounts
from sampan.kernel.bpf import DeviceRule
from sampan.runtime.config import DeviceRequest

_GPUS = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
"""Drivers that may be named, in the order in which they are looked for, and the kind of their devices."""
_ABILITIES = frozenset(
    ("gpu", *_GPUS, "compute", "compat32", "graphics", "utility", "video", "display", "ngx")
)
_FAILED = "CDI device injection failed: "
_HOOK = "createContainer"


@dataclass
class Granted:
    """What is added to a container's plan, in the plan's form; hooks are ``[path, args, env, timeout]``."""

    env: list[str] = field(default_factory=list)
    nodes: list[list[Any]] = field(default_factory=list)
    rules: list[DeviceRule] = field(default_factory=list)
    mounts: list[list[Any]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    hooks: list[list[Any]] = field(default_factory=list)

    def add_to(self, plan: dict[str, Any], state_dir: Path) -> None:
        """Change ``plan``; later entries take the place of earlier ones with the same name or path."""
        names = {entry.partition("=")[0] for entry in self.env}
        plan["env"] = [entry for entry in plan["env"] if entry.partition("=")[0] not in names] + self.env
        paths = {node[0] for node in self.nodes}
        plan["devices"] = [node for node in plan["devices"] if node[0] not in paths] + self.nodes
        targets = {_target(entry) for entry in self.mounts}
        kept = [entry for entry in plan["mounts"] if _target(entry) not in targets]
        plan["mounts"] = kept + sorted(self.mounts, key=lambda entry: _target(entry).count("/"))
        plan["host_mounts"] = plan["host_mounts"] or bool(self.mounts)
        user = plan["user"]
        plan["user"] = {**user, "groups": [*user["groups"], *self.groups]}
        if self.hooks:
            plan["hooks"] = [self.hooks, self._bundle(plan, state_dir)]

    def _bundle(self, plan: dict[str, Any], state_dir: Path) -> str:
        """Hooks look up the root in their bundle's config.json; the state that they get on stdin."""
        bundle = state_dir / "bundle"
        bundle.mkdir(mode=0o700, exist_ok=True)
        config = {
            "ociVersion": "1.2.0",
            "root": {"path": plan["run_dir"]},
            "process": {"args": plan["args"], "cwd": plan["cwd"], "env": plan["env"]},
            "hostname": plan["hostname"] or "",
        }
        (bundle / "config.json").write_text(json.dumps(config))
        state = {"ociVersion": "1.2.0", "id": plan["id"], "status": "creating", "bundle": str(bundle)}
        return json.dumps(state)


def _target(entry: list[Any]) -> str:
    """Where an entry of a plan's mounts goes."""
    return str(entry[2] if entry[0] == "bind" else entry[3])


def grant(requests: Sequence[DeviceRequest], directories: Sequence[str]) -> Granted:
    """Look up what ``requests`` ask for in the CDI specifications of ``directories``.

    SystemFailure in dockerd's words when there is no such driver or device, or it can't be given.
    """
    found = cdi.find(directories)
    names = [name for request in requests for name in _names(request, found, directories)]
    unknown = [name for name in names if name not in found.devices]
    if unknown:
        raise errors.SystemFailure(
            f"{_FAILED}unresolvable CDI devices {', '.join(unknown)}", hint=_why(found, directories)
        )
    granted = Granted()
    files: set[Path] = set()
    for name in names:
        device = found.devices[name]
        if device.file not in files and device.common is not None:
            _apply(granted, device.common)
        files.add(device.file)
        _apply(granted, device.own)
    return granted


def _why(found: cdi.Found, directories: Sequence[str]) -> str:
    where = " and ".join(directories)
    known = ", ".join(sorted(found.devices)[:8])
    present = f"The specifications in {where} have {known}."
    return _unusable(found) or (present if known else f"There are no specifications in {where}.")


def _unusable(found: cdi.Found) -> str:
    problems = "; ".join(found.problems[:5])
    return f"Specifications that can't be used: {problems}" if problems else ""


def _names(request: DeviceRequest, found: cdi.Found, directories: Sequence[str]) -> list[str]:
    """The full names of the devices that are asked for."""
    if request.driver == "cdi" and directories:
        for what, given in (("count", request.count), ("options", request.options)):
            if given:
                raise errors.SystemFailure(f"unexpected {what} in CDI device request")
        return request.device_ids or []
    kind = _kind(request, found, directories)
    if request.count and request.device_ids:
        raise errors.SystemFailure("cannot set both Count and DeviceIDs on device request")
    if request.count < 0:
        return [f"{kind}=all"]
    return [f"{kind}={number}" for number in request.device_ids or range(request.count)]


def _kind(request: DeviceRequest, found: cdi.Found, directories: Sequence[str]) -> str:
    """The kind of devices that stands for GPUs."""
    asked = request.capabilities or []
    able = any(_ABILITIES.issuperset(words) for words in asked)
    present = [driver for driver, kind in _GPUS.items() if _has(found, kind)]
    if able and directories and not request.driver:
        if present:
            return _GPUS[present[0]]
        raise errors.SystemFailure(
            "failed to discover GPU vendor from CDI: no known GPU vendor found", hint=_gpu_hint(found)
        )
    if able and request.driver in present:
        return _GPUS[request.driver]
    shown = " ".join(f"[{' '.join(words)}]" for words in asked)
    raise errors.SystemFailure(
        f"could not select device driver {json.dumps(request.driver)} with capabilities: [{shown}]",
        hint=_gpu_hint(found) if able else "",
    )


def _has(found: cdi.Found, kind: str) -> bool:
    return any(name.startswith(f"{kind}=") for name in found.devices)


def _gpu_hint(found: cdi.Found) -> str:
    return _unusable(found) or (
        "GPUs are found by CDI specifications of nvidia.com/gpu or amd.com/gpu: "
        "nvidia-ctk cdi generate --format=json --output=/etc/cdi/nvidia.json"
    )


def _apply(granted: Granted, edits: cdi.Edits) -> None:
    for what, given in (("network devices", edits.net_devices), ("Intel RDT", edits.intel_rdt)):
        if given:
            raise errors.SystemFailure(f"{_FAILED}edits of {what} are not supported")
    for entry in edits.env or ():
        name = entry.partition("=")[0]
        granted.env = [other for other in granted.env if other.partition("=")[0] != name] + [entry]
    for node in edits.device_nodes or ():
        _add_node(granted, node)
    granted.mounts += [_mount(mount) for mount in edits.mounts or ()]
    granted.groups += [str(group) for group in edits.additional_gids or () if group]
    for hook in edits.hooks or ():
        if hook.hook_name != _HOOK:
            raise errors.SystemFailure(
                f"{_FAILED}a hook {hook.hook_name} ({hook.path}) is not supported", hint=f"Only {_HOOK} is."
            )
        granted.hooks.append([hook.path, hook.args or [hook.path], hook.env or [], hook.timeout])


def _add_node(granted: Granted, node: cdi.DeviceNode) -> None:
    kind, major, minor = node.type, node.major, node.minor
    if not kind or (not major and kind != "p"):
        path = node.host_path or node.path
        real, major, minor = _look(path)
        if kind and real != kind.replace("u", "c"):
            text = f"CDI device ({json.dumps(node.path)}, {json.dumps(path)}), host type mismatch ({kind}, {real})"
            raise errors.SystemFailure(_FAILED + text)
        kind = real
    mode = 0o666 if node.file_mode is None else stat.S_IMODE(node.file_mode)
    granted.nodes = [other for other in granted.nodes if other[0] != node.path]
    granted.nodes.append([node.path, kind, major, minor, mode, node.uid or 0, node.gid or 0])
    if kind != "p":
        granted.rules.append(
            DeviceRule(True, kind.replace("u", "c"), major, minor, node.permissions or "rwm")
        )


def _look(path: str) -> tuple[str, int, int]:
    try:
        status = os.stat(path)
    except OSError as problem:
        reason = os.strerror(problem.errno or 0).lower()
        text = f"failed to stat CDI host device {json.dumps(path)}: {reason}"
        raise errors.SystemFailure(_FAILED + text) from None
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b", stat.S_IFIFO: "p"}
    kind = kinds.get(stat.S_IFMT(status.st_mode))
    if kind is None:
        raise errors.SystemFailure(f"{_FAILED}{json.dumps(path)} is not a device node")
    return kind, os.major(status.st_rdev), os.minor(status.st_rdev)


def _mount(mount: cdi.Mount) -> list[Any]:
    flags, data = localdriver.parse_options(",".join(mount.options or ()))
    if mount.type in ("", "none", "bind"):
        if data:
            raise errors.SystemFailure(
                f"{_FAILED}unknown options of the mount {mount.container_path}: {data}"
            )
        recursive = not flags & mounts.MS_BIND or bool("rbind" in (mount.options or ()))
        propagation = flags & mounts.PROPAGATION or mounts.MS_PRIVATE
        plain = flags & ~(mounts.PROPAGATION | mounts.MS_BIND | mounts.MS_REC)
        make = "dir" if os.path.isdir(mount.host_path) else "file"
        return ["bind", mount.host_path, mount.container_path, plain, recursive,
                propagation | (mounts.MS_REC if recursive else 0), make]  # fmt: skip
    return ["fs", mount.type, mount.host_path, mount.container_path, flags, data]
