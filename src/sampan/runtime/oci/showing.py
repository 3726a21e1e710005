"""``state``, ``list`` and ``ps``."""

from __future__ import annotations

import os
import sys

from sampan import jsontext
from sampan.errors import InvalidParameter, SystemFailure
from sampan.runtime.oci import store
from sampan.runtime.oci.running import one_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.runtime.oci.context import Context


def say(text: str) -> None:
    """Print, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def state(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``state ID``: JSON as runtime.md has it."""
    found = store.load(context.root, one_id(rest, "state")).state()
    say(jsontext.dumps(found, 2, escape=False) + "\n")
    return 0


def _format(options: dict[str, Any]) -> str:
    found = options["format"] or "table"
    if found not in ("table", "json"):
        raise InvalidParameter("invalid format option", hint="Known are table and json.")
    return str(found)


def listing(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``list``."""
    containers = store.load_all(context.root)
    if options["quiet"]:
        say("".join(f"{container.id}\n" for container in containers))
        return 0
    states = [container.state() for container in containers]
    if _format(options) == "json":
        say(jsontext.dumps(states, escape=False) + "\n")
        return 0
    rows: list[tuple[str, ...]] = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
    for found in states:
        rows.append(tuple(str(found[key]) for key in ("id", "pid", "status", "bundle", "created", "owner")))
    widths = [max(len(row[column]) for row in rows) + 3 for column in range(len(rows[0]))]
    for row in rows:
        say("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    return 0


def processes(context: Context, options: dict[str, Any], rest: list[str]) -> int:
    """``ps ID [PS OPTIONS]``: pids as JSON, or those lines of ps(1) that are about the container."""
    if not rest:
        raise InvalidParameter('sampan-runtime: "ps" requires a container id')
    container = store.load(context.root, rest[0])
    pids = container.group.pids() or ([container.pid] if container.alive() else [])
    if _format(options) == "json":
        say(jsontext.dumps(pids) + "\n")
        return 0
    lines = _ps(rest[1:] or ["-ef"])
    column = lines[0].split().index("PID") if lines and "PID" in lines[0].split() else -1
    if column < 0:
        raise SystemFailure("ps: its output has no PID column", hint="Leave it in with -o pid,…")
    wanted = {str(pid) for pid in pids}
    kept = [
        line for line in lines[1:] if line.split()[column : column + 1] and line.split()[column] in wanted
    ]
    say("\n".join([lines[0], *kept]) + "\n")
    return 0


def _ps(words: list[str]) -> list[str]:
    output = os.memfd_create("ps", os.MFD_CLOEXEC)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, output, 1)]
        child = os.posix_spawnp("ps", ["ps", *words], os.environ, file_actions=actions)
        if os.waitpid(child, 0)[1]:
            raise SystemFailure(f"ps {' '.join(words)} failed", hint="What it said stands above.")
        return os.pread(output, os.fstat(output).st_size, 0).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        raise SystemFailure("ps isn't installed", hint="Use --format json.") from None
    finally:
        os.close(output)
