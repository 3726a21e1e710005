"""The runtime's machine code: assembled from its source, and executed also for other machines."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from sampan.runtime import init

MACHINES = ("x86_64", "aarch64")
_SOURCES = Path(init.__file__).parent / "data"


def assembled(name: str, machine: str, folder: Path) -> bytes:
    """The code of ``data/name-machine.S``; skips where there is no assembler for it."""
    prefix = "" if machine == platform.machine() else f"{machine}-linux-gnu-"
    if not shutil.which(f"{prefix}as"):
        pytest.skip(f"no assembler for {machine}")
    made, code = folder / "o", folder / "bin"
    subprocess.run([f"{prefix}as", "-o", made, _SOURCES / f"{name}-{machine}.S"], check=True)
    subprocess.run([f"{prefix}objcopy", "-O", "binary", "-j", ".text", made, code], check=True)
    return code.read_bytes()


def command(program: bytes, machine: str, folder: Path) -> list[str]:
    """How to run a program of ``machine``, emulated if that isn't this one; skips where it can't be."""
    path = folder / "program"
    path.write_bytes(program)
    path.chmod(0o755)
    if machine == platform.machine():
        return [str(path)]
    emulator = shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")
    if not emulator:
        pytest.skip(f"nothing executes programs of {machine} here")
    return [emulator, str(path)]
