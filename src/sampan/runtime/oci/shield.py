"""Execute this program again from a file that nobody can write to, before it comes near a container.

Until execve(2) a container's process is this interpreter, and its file is behind ``/proc/<pid>/exe``: a
program in the container could open that for writing and so change the host's Python (CVE-2019-5736). From a
read-only copy of the mount it can't; where mounts may not be copied, a sealed copy in memory serves.
"""

from __future__ import annotations

import fcntl
import os
import sys

from sampan.kernel import mounts

_BOOT = "import sys; sys.path[:] = {path!r}\nfrom sampan.runtime.oci.main import main\nsys.exit(main())"
_ST_RDONLY = 1
_COMM = b"sampan-runtime"
_MEMORY = "/memfd:"
_F_ADD_SEALS = 1033
_SEAL_ALL = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write


def enter(arguments: list[str]) -> None:
    """Return if the interpreter's file is safe already; else execute it again, with the same arguments."""
    if _is_safe():
        with open("/proc/self/comm", "wb") as comm:
            comm.write(_COMM)
        return
    interpreter = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    boot = _BOOT.format(path=sys.path)
    words = [interpreter, "-I", "-S", "-X", "utf8", "-c", boot, *arguments]
    os.execve(_protected(interpreter), words, os.environ)


def _is_safe() -> bool:
    if os.statvfs("/proc/self/exe").f_flag & _ST_RDONLY:
        return True
    return os.readlink("/proc/self/exe").startswith(_MEMORY)


def _protected(path: str) -> int:
    """A descriptor to execute, close-on-exec."""
    try:
        tree = mounts.open_tree(-1, path, mounts.OPEN_TREE_CLONE)
        mounts.set_attributes(tree, add=mounts.MOUNT_ATTR_RDONLY)
    except OSError:
        return _sealed(path)
    return tree


def _sealed(path: str) -> int:
    """A copy in memory that can't be changed any more. memfd_create(2), fcntl(2)."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    copy = os.memfd_create("sampan-runtime", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    while os.sendfile(copy, source, None, 1 << 30):
        pass
    os.close(source)
    fcntl.fcntl(copy, _F_ADD_SEALS, _SEAL_ALL)
    return copy
