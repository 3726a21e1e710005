"""Linux capabilities by name and number, and Docker's rules for ``--cap-add``, ``--cap-drop``, privileged.

Reference: capabilities(7).
"""

from __future__ import annotations

from sampan.errors import InvalidParameter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# In the kernel's order: the index is the capability's number (linux/capability.h).
NAMES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
_NUMBERS = {name: number for number, name in enumerate(NAMES)}

# What a container has when nothing is asked.
DEFAULT = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)


def mask(names: Iterable[str]) -> int:
    """The bit set of some capabilities. KeyError for names that :data:`NAMES` doesn't have."""
    bits = 0
    for name in names:
        bits |= 1 << _NUMBERS[name]
    return bits


def names_of(bits: int) -> list[str]:
    """The names in a bit set, in the kernel's order; bits newer than :data:`NAMES` have none."""
    return [name for number, name in enumerate(NAMES) if bits >> number & 1]


def available() -> int:
    """The bit set that this process may hand out: its bounding set, at most what the kernel knows."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapBnd:"):
                return int(line.split()[1], 16)
    raise RuntimeError("/proc/self/status has no CapBnd line")


def normalise(names: Sequence[str] | None, field: str) -> list[str]:
    """``net_admin`` → ``CAP_NET_ADMIN``; ``ALL`` stays.

    Raises InvalidParameter with dockerd's words: ``invalid CapAdd: unknown capability: "CAP_X"``.
    """
    result = []
    for name in names or ():
        full = name.upper()
        if full != "ALL" and not full.startswith("CAP_"):
            full = f"CAP_{full}"
        if full != "ALL" and full not in _NUMBERS:
            raise InvalidParameter(
                f'invalid {field}: unknown capability: "{full}"', hint="See capabilities(7) for the names."
            )
        result.append(full)
    return result


def granted(
    add: Sequence[str] | None,
    drop: Sequence[str] | None,
    *,
    privileged: bool = False,
    bounding: int | None = None,
) -> list[str]:
    """The capabilities of a container's first process, as Docker decides them.

    Adding ALL wins over dropping ALL. Capabilities that the engine itself lacks (``bounding``, by default
    :func:`available`) can't be given to anyone: they are left out, as Docker does for privileged ones.
    """
    usable = available() if bounding is None else bounding
    adds, drops = normalise(add, "CapAdd"), normalise(drop, "CapDrop")
    if privileged:
        bits = usable
    elif "ALL" in adds:
        bits = usable & ~mask(name for name in drops if name != "ALL")
    elif "ALL" in drops:
        bits = mask(adds)
    else:
        bits = mask(DEFAULT) & ~mask(drops) | mask(adds)
    return names_of(bits & usable)
