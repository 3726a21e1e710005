"""Rows: networks."""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Iterator

import netload
from rows import containers, row, timed

from engine import PYTHON_IMAGE, Engine


@row("run --rm, bridge more than none (medians of 7)", "ms", "≤ 3 ms", 3)
def bridge_costs(e: Engine) -> float:
    def once(network: str) -> float:
        return timed(lambda: e.docker("run", "--rm", "--network", network, "busybox", "true"))

    pairs = [(once("bridge"), once("none")) for _ in range(7)]
    return statistics.median(a for a, _ in pairs) - statistics.median(b for _, b in pairs)


@row("network create", "ms", "≤ 0.2 ×", 7)
def network_create(e: Engine) -> float:
    value = timed(lambda: e.api("POST", "/networks/create", {"Name": "bench", "CheckDuplicate": True}))
    e.api("DELETE", "/networks/bench")
    return value


@contextlib.contextmanager
def published(e: Engine) -> Iterator[int]:
    """A server in a container, published on port 8080: the program is the same as on the host."""
    command = ["run", "-d", "-p", "8080:80", "--name", "served", PYTHON_IMAGE]
    e.docker(*command, "python3", "-c", netload.SERVER, "0.0.0.0", "80")
    try:
        deadline = time.monotonic() + 10
        while b"ready" not in e.docker("logs", "served") and time.monotonic() < deadline:
            time.sleep(0.05)
        yield 8080
    finally:
        e.docker("rm", "-f", "served")


@row("published port on the host's address: requests, of its own loopback's", "×", "≥ 0.8", 3, "higher")
def published_share(e: Engine) -> float:
    netns = f"/run/netns/{e.netns}"
    with published(e) as port, netload.server(netns, netload.SERVER, "127.0.0.1", "8079"):
        shares = []
        for _ in range(7):
            own = netload.request_rate(netns, "127.0.0.1", 8079, 0.4)
            shares.append(netload.request_rate(netns, e.address, port, 0.4) / own)
        return statistics.median(shares)


@row("published port on 127.0.0.1: requests", "/s", "≥ 1.0 ×", 5, "higher")
def published_rate(e: Engine) -> float:
    with published(e) as port:
        return netload.request_rate(f"/run/netns/{e.netns}", "127.0.0.1", port)


@row("published port on 127.0.0.1: requests, a connection each", "/s", "≥ 1.0 ×", 5, "higher")
def published_connections(e: Engine) -> float:
    with published(e) as port:
        return netload.request_rate(f"/run/netns/{e.netns}", "127.0.0.1", port, each=True)


@row("container to container, of a plain veth pair's throughput", "×", "≥ 0.95", 3, "higher")
def container_throughput(e: Engine) -> float:
    with containers(e, 2) as ids, netload.plain_pair() as plain:
        shown = [json.loads(e.api("GET", f"/containers/{one}/json")[1]) for one in ids]
        source, sink = (f"/proc/{one['State']['Pid']}/ns/net" for one in shown)
        address = shown[1]["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        pairs = [(netload.throughput(source, sink, address), netload.throughput(*plain)) for _ in range(3)]
        return statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)


@row("200 containers, each resolves another's name: p99 of 1,000", "ms", "< 5 ms", 1, only="sampan")
def name_lookups(e: Engine) -> float:
    e.api("POST", "/networks/create", {"Name": "bench"})
    try:
        with containers(e, 200, network="bench") as ids:
            shown = [json.loads(e.api("GET", f"/containers/{one}/json")[1]) for one in ids]
            pids, names = [one["State"]["Pid"] for one in shown], [one["Name"][1:] for one in shown]
            return statistics.quantiles(netload.lookups(pids, names), n=100)[98]
    finally:
        e.api("DELETE", "/networks/bench")
