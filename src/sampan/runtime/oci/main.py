"""The entry point of ``sampan-runtime``: an OCI runtime with runc's command line, for containerd, podman, conmon.

It starts in some milliseconds: what a command doesn't need isn't imported (no msgspec, json, argparse).
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAKES_PROCESSES = frozenset(("create", "run", "exec"))


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line; its exit code."""
    arguments = list(sys.argv[1:] if words is None else words)
    if not _MAKES_PROCESSES.isdisjoint(arguments):
        # Before anything else is loaded, since all is loaded again.
        from sampan.runtime.oci import shield

        shield.enter(arguments)
    from sampan.runtime.oci import commandline

    return commandline.run(arguments)
