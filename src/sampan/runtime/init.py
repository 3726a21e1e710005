"""``--init`` as a program of its own: 200 bytes of machine code instead of an interpreter's two megabytes.

The sources are ``data/init-*.S``; a test assembles them and compares. The program has no memory but a page of
code and one of stack, makes seven system calls and none else: it reads its child's pid, waits for signals,
passes them on, reaps, and ends as the child did. Import-light.
"""

from __future__ import annotations

import os
import struct

from sampan.runtime import elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_STANDARD_INPUT = 0
# By machine: its number in ELF files, and the code up to the mask of signals.
_CODE = {
    "x86_64": (
        62,
        "b89d000000bf0f000000488d359f0000000f054883ec1031c031ff4889e6ba040000000f058b1c2441bdffffffffb83d"
        "00000048c7c7ffffffff4889e6ba010000004531d20f0585c07e2439d875df448b2c244489e841c1ed084181e5ff0000"
        "0083e07f74c8448da880000000ebbf4585ed780a4489efb8e70000000f05b880000000488d3d3600000031f631d241ba"
        "080000000f0583f811749385c07e8f89c689dfb83e0000000f05eb820f1f4000646f636b65722d696e6974000f1f4000",
    ),
    "aarch64": (
        183,
        "e81480d2e00180d2c1050010010000d4ff4300d1e80780d2000080d2e1030091820080d2010000d4f30340b914008012"
        "882080d200008092e1030091220080d2030080d2010000d41f0000712d0100541f00136be1feff54e10340b9343c0853"
        "2118007260feff5434000211f1ffff179400f837e003142ac80b80d2010000d4281180d260020010010080d2020080d2"
        "030180d2010000d41f440071a0fcff541f0000716dfcff54e103002ae003132a281080d2010000d4deffff171f2003d5"
        "646f636b65722d696e6974001f2003d5",
    ),
}


def program(machine: str, signals: Iterable[int]) -> bytes:
    """The program for a machine (as uname(2) names it) as an ELF file, waiting for ``signals``. elf(5).

    OSError: there is none for that machine.
    """
    if machine not in _CODE:
        raise OSError(f"no init for {machine}")
    number, code = _CODE[machine]
    mask = sum(1 << signal - 1 for signal in signals)
    text = bytes.fromhex(code) + mask.to_bytes(8, "little")
    return elf.executable(number, b"", text)


def make(signals: Iterable[int]) -> int:
    """A descriptor of the program for this machine. OSError: there is none, or it can't be made here."""
    return elf.sealed("docker-init", program(os.uname().machine, signals))


def become(file: int, child: int, arguments: list[bytes], environment: Mapping[str, str]) -> None:
    """Execute the program; its signals are blocked already. OSError: that isn't allowed here."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.write(writer, struct.pack("<i", child))
    os.dup2(reader, _STANDARD_INPUT)
    os.execve(file, arguments, environment)
