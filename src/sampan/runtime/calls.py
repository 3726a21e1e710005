"""A program that makes system calls one after the other, from a table: a hundred bytes of machine code.

The sources are ``data/calls-*.S``; a test assembles them and compares. The program has no memory but the
table, the data that its calls point at and, for what the kernel is to write, :data:`BUFFER`. A call that fails
leads to the end of the table, or past as many entries as its entry says. Import-light.
"""

from __future__ import annotations

import os
import struct

from sampan.runtime import elf

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

BUFFER, BUFFER_SIZE = elf.ROOM, 4096
FAIL = -1
"""In the place of a number of entries: a failure is one of the whole."""
_NAMES = ("write", "close", "fcntl", "openat", "chdir", "getcwd", "umask", "fchown", "setgroups", "setresuid",
          "setresgid", "capset", "prctl", "setns", "prlimit64", "execve", "exit_group", "close_range",
          "faccessat2", "rt_sigaction")  # fmt: skip
_COMPARE = 0xFFFFFFFF  # no system call, see the sources
_NOTHING = (0,) * 6
# By machine: its number in ELF files, the code, its numbers of system calls in the order of the names above.
_CODE = {
    "x86_64": (
        62,
        "488d1d410000008b03488b7b10488b7318488b53204c8b53284c8b43304c8b4b3885c0780d0f054885c0780b4883c340"
        "ebd540383774f5488b4b0848c1e1064801cbebc30f1f4000",
        (1, 3, 72, 257, 80, 79, 95, 93, 116, 117, 119, 126, 157, 308, 302, 59, 231, 436, 439, 13),
    ),
    "aarch64": (
        183,
        "13020010680240f9600641a9620e42a9641643a9a800f837010000d4c000f8b773020191f8ffff17020040395f00016b"
        "80ffff54620640f9731a028bf2ffff17",
        (64, 57, 25, 56, 49, 17, 166, 55, 159, 147, 149, 91, 167, 268, 261, 221, 94, 436, 439, 134),
    ),
}


def known() -> bool:
    """Whether there is such a program for this machine."""
    return os.uname().machine in _CODE


class Calls:
    """The table and its data while they are written."""

    def __init__(self, machine: str = "") -> None:
        """``machine`` as uname(2) names it, this one's if empty. KeyError: there is no program for it."""
        self._machine, self._code, numbers = _CODE[machine or os.uname().machine]
        self._numbers = dict(zip(_NAMES, numbers, strict=True))
        self._data = bytearray()
        self._words: list[int] = []  # of the entries, eight each

    def put(self, data: bytes) -> int:
        """The address at which ``data`` will be, a multiple of eight."""
        address = elf.START + len(self._data)
        self._data += data
        self._data += bytes(-len(self._data) % 8)
        return address

    def text(self, text: str) -> int:
        """The address of ``text`` as a C string. ValueError if it has a NUL."""
        raw = text.encode("utf-8", "surrogateescape")
        if b"\0" in raw:
            raise ValueError("embedded null byte")
        return self.put(raw + b"\0")

    def texts(self, texts: Iterable[str]) -> int:
        """The address of an array of C strings as execve(2) takes it. ValueError as for :meth:`text`."""
        addresses = [self.text(text) for text in texts]
        return self.put(struct.pack(f"<{len(addresses) + 1}Q", *addresses, 0))

    def call(self, name: str, *arguments: int, failed: int = FAIL) -> None:
        """Call ``name``; if it fails go on ``failed`` entries further, 1 being the next one.

        The arguments are words of 64 bits without a sign.
        """
        self._words += (self._numbers[name], failed, *arguments, *_NOTHING[len(arguments) :])

    def require(self, address: int, byte: int) -> None:
        """Fail unless ``byte`` is at ``address``."""
        self._words += (_COMPARE, FAIL, address, byte, *_NOTHING[2:])

    def program(self, channel: int, farewell: bytes, code: int) -> bytes:
        """The ELF file; a failure writes ``farewell`` to descriptor ``channel`` and exits with ``code``."""
        address, words = self.put(farewell), self._words
        end = len(words) // 8
        for index in range(end):
            if words[8 * index + 1] == FAIL:
                words[8 * index + 1] = end - index
        self.call("write", channel, address, len(farewell), failed=1)
        self.call("exit_group", code, failed=0)
        table = struct.pack(f"<{len(words)}Q", *words)
        return elf.executable(
            self._machine, bytes(self._data), bytes.fromhex(self._code) + table, BUFFER_SIZE
        )
