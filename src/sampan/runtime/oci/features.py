"""``features``: what this runtime can do. features.md, features-linux.md."""

from __future__ import annotations

from sampan import __version__, jsontext
from sampan.kernel import archcalls
from sampan.kernel import seccomp as compiler
from sampan.runtime import capabilities, filters
from sampan.runtime.oci import options as mount_options
from sampan.runtime.oci.showing import say
from sampan.runtime.oci.spec import HOOKS, NAMESPACES, VERSION, VERSION_LOW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.oci.context import Context


def features(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``features``: JSON; the same on every machine, as the specification wants."""
    flags = sorted(archcalls.SECCOMP_FLAGS)
    found = {
        "ociVersionMin": VERSION_LOW,
        "ociVersionMax": VERSION,
        "hooks": list(HOOKS),
        "mountOptions": mount_options.names(),
        "linux": {
            "namespaces": sorted(NAMESPACES),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": sorted(filters.ACTIONS),
                "operators": sorted(compiler.COMPARISONS),
                "archs": sorted(compiler.ARCHITECTURES),
                "knownFlags": flags,
                "supportedFlags": flags,
            },
            "apparmor": {"enabled": True},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": False},
        },
        "annotations": {"io.github.sampan.version": __version__},
    }
    say(jsontext.dumps(found, 2) + "\n")
    return 0
