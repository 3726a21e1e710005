"""Rows: logs."""

from __future__ import annotations

from rows import row, timed

from engine import Engine


@row("json-file log, 200 MB written", "MB/s", "≥ 200 MB/s", 2, "higher")
def log_write(e: Engine) -> float:
    # Out of a file: busybox's yes and head together don't make 200 MB/s.
    make = f"yes {'x' * 99} | head -c 20000000 > /lines"
    e.docker("run", "--name", "writer", "busybox", "sh", "-c", make)
    e.docker("commit", "writer", "lines")
    e.docker("rm", "writer")
    command = ["cat", *["/lines"] * 10]
    milliseconds = timed(lambda: e.docker("run", "--name", "logger", "-d", "lines", *command))
    milliseconds += timed(lambda: e.docker("wait", "logger"))
    e.docker("rm", "-f", "logger")
    return 200 / (milliseconds / 1000)


@row("docker logs of 60 MB", "ms", "≤ 0.3 ×", 2)
def log_read(e: Engine) -> float:
    e.docker("run", "--name", "logger", "-d", "busybox", "sh", "-c", f"yes {'x' * 99} | head -c 60000000")
    e.docker("wait", "logger")
    value = timed(lambda: e.docker("logs", "logger"))
    e.docker("rm", "-f", "logger")
    return value
