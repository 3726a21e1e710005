"""Small static programs as ELF files: one segment of read-only data and code. elf(5). Import-light."""

from __future__ import annotations

import fcntl
import os
import struct

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
ADDRESS = 0x400000
_PAGE = 0x10000  # the largest that aarch64 has
_ROOM = 0x10000000  # where the writable memory begins, far above any file
_HEADER, _SEGMENT = 64, 56
_STACK = 0x6474E551  # PT_GNU_STACK
START = ADDRESS + _HEADER + 3 * _SEGMENT
"""Where the data begin, in memory."""
ROOM = _ROOM
"""Where the writable memory begins, of a program that has some."""


def executable(machine: int, data: bytes, code: bytes, room: int = 0) -> bytes:
    """The file of a program for ``machine`` (e_machine), which starts at the first byte of ``code``.

    ``data`` comes before it, at :data:`START`; its length is a multiple of 8. ``room`` are bytes of zeroes that
    it may write to, at :data:`ROOM`.
    """
    size = START - ADDRESS + len(data) + len(code)
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    segments = [
        struct.pack("<IIQQQQQQ", 1, 5, 0, ADDRESS, ADDRESS, size, size, _PAGE),
        struct.pack("<IIQQQQQQ", _STACK, 6, 0, 0, 0, 0, 0, 16),
        struct.pack("<IIQQQQQQ", 1 if room else 0, 6, 0, _ROOM, _ROOM, 0, room, _PAGE),
    ]
    head = struct.pack(
        "<16sHHIQQQIHHHHHH",
        ident, 2, machine, 1, START + len(data), _HEADER, 0, 0, _HEADER, _SEGMENT, len(segments), 64, 0, 0,
    )  # fmt: skip
    return head + b"".join(segments) + data + code


def sealed(name: str, program: bytes) -> int:
    """A descriptor of ``program`` that nobody can change, not even by /proc/<pid>/exe. OSError."""
    file = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(file, program)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    return file
