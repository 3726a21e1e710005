"""Filling in a user namespace's id maps: user_namespaces(7), newuidmap(1)."""

from __future__ import annotations

import os

from sampan.errors import SystemFailure
from sampan.kernel import process
from sampan.runtime.steps import write_file

_SETUID = 1 << 7


def write_maps(pid: int, maps: tuple[str, str]) -> None:
    """Give the new user namespace of ``pid`` its uid and gid maps (lines ``inside outside size``).

    Without CAP_SETUID only the caller's own id can be mapped by itself; more goes through newuidmap and
    newgidmap, which know what /etc/subuid and /etc/subgid allow. OSError, SystemFailure.
    """
    uids, gids = maps
    if process.get_capabilities()[0] & _SETUID:
        write_file(f"/proc/{pid}/uid_map", uids.encode())
        write_file(f"/proc/{pid}/gid_map", gids.encode())
    elif _is_own(uids, os.geteuid()) and _is_own(gids, os.getegid()):
        write_file(f"/proc/{pid}/setgroups", b"deny")
        write_file(f"/proc/{pid}/uid_map", uids.encode())
        write_file(f"/proc/{pid}/gid_map", gids.encode())
    else:
        _by_helper("newuidmap", pid, uids)
        _by_helper("newgidmap", pid, gids)


def _is_own(text: str, own: int) -> bool:
    lines = text.split("\n")[:-1]
    return len(lines) == 1 and lines[0].split()[1:] == [str(own), "1"]


def _by_helper(name: str, pid: int, text: str) -> None:
    import shutil

    path = shutil.which(name)
    if path is None:
        raise SystemFailure(
            f"{name} isn't installed, and without it only one id can be mapped",
            hint="Install it (Debian's package: uidmap).",
        )
    child = os.posix_spawn(path, [name, str(pid), *text.split()], os.environ)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise SystemFailure(
            f"{name} refused the id mappings ({status})", hint="See /etc/subuid and /etc/subgid."
        )
