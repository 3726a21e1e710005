"""What a client asks of one build, whichever door it came through."""

from __future__ import annotations

import platform as _platform
import re
from dataclasses import dataclass, field
from typing import Any

from sampan.errors import InvalidParameter

_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
    "riscv64": ("riscv64", ""),
    "loongarch64": ("loong64", ""),
}
_ALIASES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "i386": "386"}
_KNOWN = {name for name, _ in _MACHINES.values()} | {"mips64le", "mips64", "wasm"}
PREDEFINED_ARGS = tuple(
    name
    for stem in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (stem, stem.lower())
)
"""Build arguments that need no ARG line and leave no trace (reference, "Predefined ARGs")."""


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and architecture, as ``os/arch[/variant]``."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def native() -> Platform:
    """The platform of this machine."""
    name, variant = _MACHINES.get(_platform.machine(), (_platform.machine(), ""))
    return Platform("linux", name, variant)


def parse_platform(text: str) -> Platform:
    """``linux/arm64/v8``, ``arm64`` or ``linux``. Raises InvalidParameter with containerd's words."""
    parts = text.lower().split("/")
    if not 1 <= len(parts) <= 3 or not all(re.fullmatch(r"[a-z0-9_.-]+", part) for part in parts):
        raise InvalidParameter(f'"{text}": invalid argument')
    here = native()
    if len(parts) == 1:
        name = _ALIASES.get(parts[0], parts[0])
        if name == "linux":
            return here
        if name not in _KNOWN:
            raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
        return Platform("linux", name)
    system, name = parts[0], _ALIASES.get(parts[1], parts[1])
    if system != "linux" or name not in _KNOWN:
        raise InvalidParameter(f'"{text}": unknown operating system or architecture: invalid argument')
    variant = parts[2] if len(parts) == 3 else ""
    return Platform("linux", name, "" if (name, variant) in (("arm64", "v8"), ("amd64", "v1")) else variant)


@dataclass(slots=True)
class BuildOptions:
    """One build's options. Texts are as the client gave them; checked where they are used.

    ``args``: build arguments, None for one that was named without a value. ``host``: HostConfig fields
    (Docker's JSON names) for RUN. ``secrets``: contents by id; never stored, logged or hashed in clear.
    ``ssh``: the name of the connection that lends the client's agents. ``epoch``: SOURCE_DATE_EPOCH in seconds,
    or None.
    """

    tags: list[str] = field(default_factory=list)
    dockerfile: str = ""
    remote: str = ""
    target: str = ""
    args: dict[str, str | None] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    no_cache: bool = False
    no_cache_filter: tuple[str, ...] = ()
    pull: bool = False
    cache_from: list[str] = field(default_factory=list)
    network: str = ""
    host: dict[str, Any] = field(default_factory=dict)
    platform: str = ""
    squash: bool = False
    outputs: list[dict[str, Any]] = field(default_factory=list)
    secrets: dict[str, bytes] = field(default_factory=dict)
    auth: dict[str, Any] = field(default_factory=dict)
    check: bool = False
    ssh: str = ""

    @property
    def epoch(self) -> int | None:
        """SOURCE_DATE_EPOCH of the build arguments, in seconds."""
        text = self.args.get("SOURCE_DATE_EPOCH")
        if not text:
            return None
        if not re.fullmatch(r"\d{1,11}", text):
            raise InvalidParameter(f"invalid SOURCE_DATE_EPOCH: {text}")
        return int(text)
