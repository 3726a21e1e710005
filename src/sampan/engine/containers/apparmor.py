"""AppArmor: the profile that containers get when none is named, loaded when the first one needs it.

What it forbids is what a root process in a container could still do to the host: writing kernel settings
below /proc and /sys, mounting, and signals or traces across the border. apparmor.d(5).
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

from sampan import errors

DEFAULT = "sampan-default"
_ENABLED = Path("/sys/module/apparmor/parameters/enabled")
_LOADED = Path("/sys/kernel/security/apparmor/profiles")
_PROFILE = f"""\
profile {DEFAULT} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,
  deny mount,

  signal (receive) peer=unconfined,
  signal (send, receive) peer={DEFAULT},
  ptrace (trace, read, tracedby, readby) peer={DEFAULT},

  # /proc: nothing of the machine's, and only those settings that belong to the container's namespaces.
  deny /proc/{{acpi,asound,bus,fs,irq,scsi,tty}}/** wklx,
  deny /proc/{{kcore,kmem,mem,sysrq-trigger,timer_list}} rwklx,
  deny /proc/sys/{{abi,crypto,debug,dev,fs,sunrpc,user,vm}}/** wklx,
  deny /proc/sys/kernel/{{[^ms]*,mo*,s[^eh]*}} wklx,
  deny /proc/sys/kernel/*/** wklx,

  # /sys: all but the control groups, which the mount itself guards.
  deny /sys/{{block,bus,class,dev,devices,hypervisor,kernel,module,power}}/** wklx,
  deny /sys/fs/{{[^c]*,c[^g]*}}/** wklx,
  deny /sys/{{firmware,kernel/security,devices/virtual/powercap}}/** rwklx,
}}
"""


def enabled() -> bool:
    """Whether the kernel enforces AppArmor."""
    try:
        return _ENABLED.read_text().strip() == "Y"
    except OSError:
        return False


@functools.cache
def supported() -> bool:
    """Whether containers get the default profile: the kernel has AppArmor, and its parser is installed."""
    return enabled() and _LOADED.exists() and shutil.which("apparmor_parser", path=_path()) is not None


def _path() -> str:
    return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def chosen(named: str, *, privileged: bool) -> str:
    """The profile of a container for which ``named`` was asked; "" when it has none."""
    if named:
        return named
    return DEFAULT if supported() and not privileged else ""


def ensure_default() -> None:
    """Load the default profile unless it is loaded. SystemFailure with the parser's words."""
    if f"{DEFAULT} (" in _LOADED.read_text():
        return
    done = subprocess.run(
        [shutil.which("apparmor_parser", path=_path()) or "apparmor_parser", "--skip-cache", "--replace"],
        input=_PROFILE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise errors.SystemFailure(
            f"AppArmor enabled on system but the {DEFAULT} profile could not be loaded: "
            f"{(done.stderr or done.stdout).strip()}",
            hint="--security-opt apparmor=unconfined runs without it.",
        )
