"""Rows: containers, memory, the API."""

from __future__ import annotations

import concurrent.futures
import json
import statistics
import time

from rows import containers, row, timed

from engine import Engine, UnixConnection


@row("memory of the idle engine", "MB PSS", "≤ 35 MB", 1)
def idle_memory(e: Engine) -> float:
    e.restart()  # what an engine takes that only waits; the row after 50 containers is for one that has worked
    time.sleep(3)
    return e.memory() / 1e6


@row("run --rm --network none … true", "ms", "≤ 0.20 ×", 15)
def run_none(e: Engine) -> float:
    return timed(lambda: e.docker("run", "--rm", "--network", "none", "busybox", "true"))


@row("run --rm (bridge) … true", "ms", "≤ 0.15 ×", 15)
def run_bridge(e: Engine) -> float:
    return timed(lambda: e.docker("run", "--rm", "busybox", "true"))


@row("run -d", "ms", "≤ 0.25 ×", 9)
def run_detached(e: Engine) -> float:
    ids: list[str] = []
    value = timed(lambda: ids.append(e.docker("run", "-d", "busybox", "sleep", "600").decode().strip()))
    e.docker("rm", "-f", ids[0])
    return value


@row("exec true", "ms", "≤ 0.40 ×", 9)
def exec_true(e: Engine) -> float:
    with containers(e, 1) as (one,):
        return statistics.median(timed(lambda: e.docker("exec", one, "true")) for _ in range(3))


@row("rm -f of a running container", "ms", "≤ 0.30 ×", 9)
def remove_running(e: Engine) -> float:
    one = e.docker("run", "-d", "busybox", "sleep", "600").decode().strip()
    return timed(lambda: e.docker("rm", "-f", one))


@row("start 50, 8 at a time", "ms", "≤ 0.25 ×", 2)
def start_fifty(e: Engine) -> float:
    ids = [e.docker("create", "busybox", "sleep", "600").decode().strip() for _ in range(50)]
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return timed(lambda: list(pool.map(lambda i: e.api("POST", f"/containers/{i}/start"), ids)))
    finally:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: e.api("DELETE", f"/containers/{i}?force=1"), ids))


@row("create, start, wait, remove by API, 2 at a time", "/s", "≥ 18 ×, ≥ 150/s", 2, "higher")
def starts_per_second(e: Engine) -> float:
    count = 20 if e.name == "dockerd" else 200

    def loop(n: int) -> None:
        c = UnixConnection(e.socket)
        for _ in range(n):
            body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
            one = json.loads(e.api("POST", "/containers/create", body, c)[1])["Id"]
            e.api("POST", f"/containers/{one}/start", None, c)
            e.api("POST", f"/containers/{one}/wait", None, c)
            e.api("DELETE", f"/containers/{one}", None, c)
        c.close()

    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(loop, [count // 2] * 2))
    return count / (time.perf_counter() - start)


@row("memory of the engine after 50 containers", "MB PSS", "", 1)
def used_memory(e: Engine) -> float:
    return idle_memory(e)


@row("memory of our processes per idle container (of 20)", "MB PSS", "≤ 1.0 MB", 1)
def container_memory(e: Engine) -> float:
    time.sleep(3)
    before = e.memory()
    with containers(e, 20):
        time.sleep(3)
        return (e.memory() - before) / 20 / 1e6


@row("GET /_ping, median of 500", "ms", "≤ 0.15 ms", 3)
def ping(e: Engine) -> float:
    c = UnixConnection(e.socket)
    values = [timed(lambda: e.api("GET", "/_ping", None, c)) for _ in range(500)]
    c.close()
    return statistics.median(values)


@row("GET /containers/json of 50, median of 50", "ms", "≤ 1.0 ×", 1)
def list_fifty(e: Engine) -> float:
    c = UnixConnection(e.socket)
    with containers(e, 50, network="none"):
        return statistics.median(timed(lambda: e.api("GET", "/containers/json", None, c)) for _ in range(50))
