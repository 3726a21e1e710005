"""The names under which ps shows a zygote, a monitor and an init of ours: comm and the argument area.

The argument area is the memory of the strings given to execve; it is written over in place, padded with
NUL, as the kernel shows all of it (proc_pid_cmdline(5)). The zygote is started with a long last argument
to have room.
"""

from __future__ import annotations

import os

ROOM = " " * 400


class Title:
    """The argument area of this process and of those forked from it. Made where /proc is the host's."""

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        self._start, self._end = int(fields[45]), int(fields[46])  # fields 48 and 49 of proc_pid_stat(5)

    def show(self, name: bytes, command_line: bytes) -> None:
        """Show ``name`` as comm (15 bytes) and ``command_line`` (NUL separates arguments), cut to fit.

        Through /proc/self, by three plain calls: a monitor is to touch as little memory as it can.
        """
        size = self._end - self._start
        try:
            comm = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
            os.write(comm, name)
            os.close(comm)
            memory = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
            os.pwrite(memory, command_line[: size - 1].ljust(size, b"\0"), self._start)
            os.close(memory)
        except OSError:
            return  # no /proc in here: then nobody reads it either
