"""Launch plans by hand and a root of busybox, for tests of the launch path without the engine."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sampan.kernel import mounts, namespaces

APPLETS = (
    "sh cat echo true false sleep ls id pwd env grep head wc seq dd stty tty kill hostname mount ps printf "
    "yes ip nohup sha256sum readlink touch chmod stat test trap usleep setsid tr"
)
ALL_NAMESPACES = (
    namespaces.CLONE_NEWNS
    | namespaces.CLONE_NEWPID
    | namespaces.CLONE_NEWUTS
    | namespaces.CLONE_NEWIPC
    | namespaces.CLONE_NEWNET
    | namespaces.CLONE_NEWCGROUP
)
DEFAULT_CAPS = 0xA80425FB
NO_FLAGS = mounts.MS_NOSUID | mounts.MS_NOEXEC | mounts.MS_NODEV


class Box:
    """Directories of one test's containers: a busybox layer, and per container state and run directories."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="smpa-"))
        self.layer = self.root / "layer"
        make_layer(self.layer)

    def plan(self, args: Sequence[str], **changes: Any) -> dict[str, Any]:
        """A plan like the engine's for ``busybox ARGS`` with network none."""
        name = secrets.token_hex(32)
        base = self.root / name[:12]
        for part in ("upper", "work", "state", "run"):
            (base / part).mkdir(parents=True)
        plan: dict[str, Any] = {
            "kind": "container",
            "id": name,
            "unshare": ALL_NAMESPACES,
            "rootfs": ["overlay", [str(self.layer)], str(base / "upper"), str(base / "work")],
            "mounts": [
                ["fs", "proc", "proc", "/proc", NO_FLAGS, ""],
                ["fs", "tmpfs", "tmpfs", "/dev", mounts.MS_NOSUID, "mode=755,size=65536k"],
                ["fs", "devpts", "devpts", "/dev/pts", mounts.MS_NOSUID | mounts.MS_NOEXEC,
                 "newinstance,ptmxmode=0666,mode=0620,gid=5"],
                ["fs", "sysfs", "sysfs", "/sys", NO_FLAGS | mounts.MS_RDONLY, ""],
                ["fs", "mqueue", "mqueue", "/dev/mqueue", NO_FLAGS, ""],
                ["fs", "tmpfs", "shm", "/dev/shm", NO_FLAGS, "mode=1777,size=67108864"],
            ],
            "devices": [[f"/dev/{n}", "c", 1, m, 0o666, 0, 0]
                        for n, m in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))]
            + [["/dev/tty", "c", 5, 0, 0o666, 0, 0]],
            "symlinks": [["/proc/self/fd", "/dev/fd"], ["pts/ptmx", "/dev/ptmx"],
                         ["/proc/self/fd/1", "/dev/stdout"]],
            "masked": ["/proc/kcore", "/proc/keys",
                        "/proc/timer_list", "/proc/scsi", "/proc/acpi", "/sys/firmware"],
            "readonly_paths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
            "hostname": "box",
            "caps": {"bounding": DEFAULT_CAPS, "effective": DEFAULT_CAPS, "permitted": DEFAULT_CAPS,
                     "inheritable": 0, "ambient": 0},
            "no_new_privs": False, "seccomp": None,
            "user": {"name": "", "groups": []}, "cwd": "/", "make_cwd": True,
            "args": list(args), "env": ["PATH=/bin:/usr/bin"], "default_home": True,
            "tty": False, "stdin": False, "stdin_once": False, "init": False, "umask": 0o022,
            "log": {"driver": "json-file", "path": str(base / "state/log"), "max_size": -1, "max_file": 1,
                    "compress": False},
            "state_dir": str(base / "state"), "run_dir": str(base / "run"),
        }  # fmt: skip
        plan.update(changes)
        return plan

    def exec_plan(self, args: Sequence[str], **changes: Any) -> dict[str, Any]:
        """A plan to run ``ARGS`` in a running container of :meth:`plan`."""
        plan = self.plan(args, kind="exec", log=None)
        for key in ("run_dir", "state_dir", "unshare", "mounts", "rootfs", "devices", "hostname"):
            del plan[key]
        plan.update(changes)
        return plan

    def remove(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.root)


def make_layer(path: Path) -> None:
    """A root of static busybox with some applets, passwd and group."""
    (path / "bin").mkdir(parents=True)
    (path / "etc").mkdir()
    (path / "tmp").mkdir(mode=0o1777)
    shutil.copy2("/bin/busybox", path / "bin/busybox")
    for applet in APPLETS.split():
        os.symlink("busybox", path / "bin" / applet)
    (path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/sh\nalice:x:1000:1001:A:/home/alice:/bin/sh\n"
    )
    (path / "etc/group").write_text(
        "root:x:0:\ndaemon:x:1:\nstaff:x:50:alice\nalice:x:1001:\nnogroup:x:65534:\n"
    )
