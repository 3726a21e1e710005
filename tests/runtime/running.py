"""Running a plan to its end through a supervisor, with everything it printed."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sampan.runtime import directly, entering, identity
from sampan.runtime.supervisor import AttachEnd, Process, Supervisor
from tests import frames
from tests.runtime.plans import Box


@asynccontextmanager
async def supervised() -> AsyncIterator[tuple[Supervisor, Box]]:
    """A supervisor and a box, both gone afterwards, with every container that a failed test left running."""
    box = Box()
    supervisor = Supervisor()
    await supervisor.start()
    try:
        yield supervisor, box
    finally:
        for process in list(supervisor._processes):
            await process.abort()
        await supervisor.close()
        box.remove()


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that another process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        await asyncio.sleep(0.01)


async def read_all(sock: socket.socket) -> bytes:
    """Everything until the monitor ends the connection."""
    loop = asyncio.get_running_loop()
    parts = []
    while part := await loop.sock_recv(sock, 1 << 18):
        parts.append(part)
    sock.close()
    return b"".join(parts)


def unframe(data: bytes) -> dict[int, bytes]:
    """Docker's multiplexed frames as {stream: bytes}; fails on a broken frame."""
    streams = {1: b"", 2: b""}
    for stream, text in frames.frames(data):
        streams[stream] += text
    return streams


def by_itself(box: Box, target: Process, plan: dict[str, Any]) -> bytes | None:
    """The program by which the monitor of ``target`` may start the exec ``plan``, which gets its namespaces."""
    plan["nsflags"] = entering.namespaces_of(target.pid)
    root = os.open(box.layer, os.O_PATH | os.O_DIRECTORY)
    try:
        ids = identity.resolve(plan["user"]["name"], plan["user"]["groups"], root)
    finally:
        os.close(root)
    return directly.program(plan, ids)


async def start(supervisor: Supervisor, plan: dict[str, Any]) -> Process:
    """Launch and proceed at once."""
    process = await supervisor.launch(plan)
    await process.proceed()
    return process


async def finish(
    supervisor: Supervisor, plan: dict[str, Any], stdin: bytes | None = None
) -> tuple[int, bytes, bytes]:
    """(exit code, stdout, stderr) of a plan; with a tty all is stdout."""
    end, ours = AttachEnd.pair(stdin=stdin is not None)
    if plan["kind"] == "exec":
        raise ValueError("execs need their container")
    process = await supervisor.launch(plan, [end])
    await process.proceed()
    feeding = asyncio.create_task(feed(ours.dup(), stdin)) if stdin is not None else None
    data = await read_all(ours)
    if feeding:
        await feeding
    result = await process.wait()
    if plan["tty"]:
        return result.code, data, b""
    streams = unframe(data)
    return result.code, streams[1], streams[2]


async def feed(sock: socket.socket, data: bytes) -> None:
    """Send ``data``, then half-close."""
    try:
        await asyncio.get_running_loop().sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass
    finally:
        sock.close()


def records(path: str | Path) -> list[dict[str, str]]:
    """The records of a json-file log."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def logged(path: str | Path, stream: str = "stdout") -> str:
    """The text of one stream in a json-file log."""
    return "".join(r["log"] for r in records(path) if r["stream"] == stream)
