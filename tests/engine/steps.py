"""One container from create to its output, over the Engine API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests import frames
from tests.conftest import Daemon


@contextmanager
def made(daemon: Daemon, *cmd: str, start: bool = True, **body: Any) -> Iterator[str]:
    """A container of busybox, without network unless asked, started unless told otherwise; removed at the end."""
    host = {"NetworkMode": "none", **body.pop("HostConfig", {})}
    request = {"Image": "busybox", "Cmd": list(cmd) or ["sleep", "60"], "HostConfig": host, **body}
    container = str(daemon.json("POST", "/containers/create", request)["Id"])
    try:
        if start:
            daemon.json("POST", f"/containers/{container}/start")
        yield container
    finally:
        daemon.api("DELETE", f"/containers/{container}?force=1&v=1")


def run(daemon: Daemon, script: str, **body: Any) -> tuple[int, str]:
    """Exit code and output of a shell script."""
    with made(daemon, "sh", "-c", script, **body) as container:
        code = daemon.json("POST", f"/containers/{container}/wait")["StatusCode"]
        return int(code), output(daemon, container)


def output(daemon: Daemon, container: str) -> str:
    """All that it has logged, without frames."""
    _, _, data = daemon.api("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
    return unframed(data)


def unframed(data: bytes) -> str:
    """The text in a multiplexed stream."""
    return frames.text(data).decode("utf-8", "surrogateescape")


def inside(daemon: Daemon, container: str, script: str, **body: Any) -> str:
    """What a shell script prints in a running container."""
    request = {"Cmd": ["sh", "-c", script], "AttachStdout": True, "AttachStderr": True, **body}
    made_ = daemon.json("POST", f"/containers/{container}/exec", request)["Id"]
    _, _, data = daemon.api("POST", f"/exec/{made_}/start", {})
    return unframed(data)
