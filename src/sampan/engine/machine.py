"""Facts about the machine: what ``docker info`` shows of kernel, memory, file systems."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from sampan.kernel import mountinfo


def kernel_version() -> str:
    """``uname -r``."""
    return os.uname().release


def architecture() -> str:
    """The machine's name as the kernel has it (``x86_64``)."""
    return os.uname().machine


_GO_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
    "i386": "386",
}


def go_architecture() -> str:
    """The machine's name as Go and image manifests have it (``amd64``)."""
    machine = architecture()
    return _GO_ARCHITECTURES.get(machine, machine)


def python_version() -> str:
    """The interpreter's name and version."""
    return f"{platform.python_implementation()} {platform.python_version()}"


def operating_system() -> tuple[str, str]:
    """Name and version of the distribution, os-release(5): ("Debian GNU/Linux 12 (bookworm)", "12")."""
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        fields = dict(line.partition("=")[::2] for line in lines if "=" in line)
        values = {name: value.strip().strip("\"'") for name, value in fields.items()}
        return values.get("PRETTY_NAME", "Linux"), values.get("VERSION_ID", "")
    return "Linux", ""


def memory_total() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def open_files() -> int:
    """How many file descriptors this process has open."""
    return len(os.listdir("/proc/self/fd")) - 1


def ipv4_forwarding() -> bool:
    """Whether the kernel forwards IPv4."""
    return _read("/proc/sys/net/ipv4/ip_forward") == "1"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


_FILE_SYSTEMS = {
    "ext4": "extfs",
    "ext3": "extfs",
    "ext2": "extfs",
    "overlay": "overlayfs",
    "tmpfs": "tmpfs",
    "xfs": "xfs",
    "btrfs": "btrfs",
    "zfs": "zfs",
}


def file_system(path: Path) -> str:
    """The kind of file system that ``path`` lies on, by Docker's names (``extfs``, ``xfs``)."""
    kind = mountinfo.of(path).fstype
    return _FILE_SYSTEMS.get(kind, kind)
