"""The names under which ps shows a zygote, a monitor and an init of ours: comm and the argument area.

The argument area is the memory of the strings given to execve; it is written over in place, padded with
NUL, as the kernel shows all of it (proc_pid_cmdline(5)). The zygote is started with a long last argument
to have room.
"""

from __future__ import annotations

import ctypes

from sampan.kernel import process

ROOM = " " * 400


class Title:
    """The argument area of this process and of those forked from it. Made where /proc is the host's."""

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        self._start, self._end = int(fields[45]), int(fields[46])  # fields 48 and 49 of proc_pid_stat(5)

    def show(self, name: str, command_line: str) -> None:
        """Show ``name`` as comm (15 bytes) and ``command_line`` (NUL separates arguments), cut to fit."""
        process.set_name(name)
        size = self._end - self._start
        raw = command_line.encode("utf-8", "surrogateescape")[: size - 1]
        ctypes.memmove(self._start, raw.ljust(size, b"\0"), size)
