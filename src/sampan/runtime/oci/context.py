"""What the global options say, for every command."""

from __future__ import annotations

import os

from sampan.errors import InvalidParameter, Unsupported
from sampan.runtime.oci.logs import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_ROOT = "/run/sampan-runtime"


class Context:
    """State directory, log, and whether rights to cgroups may be missing."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.log = Log(options["log"], _form(options["log-format"]), debug=options["debug"])
        self.root: str = os.path.abspath(options["root"] or _default_root())
        self.rootless = _rootless(options["rootless"])
        self._systemd: bool = options["systemd-cgroup"]

    def refuse_systemd(self) -> None:
        """Unsupported if cgroups were to be made by systemd."""
        if self._systemd:
            raise Unsupported(
                "--systemd-cgroup: cgroups managed by systemd aren't supported",
                hint="Let the caller manage them by files (podman --cgroup-manager=cgroupfs, SystemdCgroup=false).",
            )


def _form(name: str) -> str:
    if name not in ("", "text", "json"):
        raise InvalidParameter(f'invalid log-format: "{name}"')
    return name or "text"


def _default_root() -> str:
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    return f"{own}/sampan-runtime" if own and os.geteuid() else DEFAULT_ROOT


def _rootless(word: str) -> bool:
    if word in ("", "auto"):
        return os.geteuid() != 0 or not _maps_all()
    if word not in ("true", "false"):
        raise InvalidParameter(f'invalid value "{word}" for --rootless: true, false or auto')
    return word == "true"


def _maps_all() -> bool:
    """Whether this user namespace is the first one, which has all ids. user_namespaces(7)."""
    try:
        with open("/proc/self/uid_map", encoding="utf-8") as file:
            return file.read().split() == ["0", "0", "4294967295"]
    except OSError:
        return True
