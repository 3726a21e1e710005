"""Rows: networks."""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterator

import netload
from rows import containers, row, timed

from engine import Engine


@row("run --rm, bridge more than none (median of 15 pairs)", "ms", "≤ 3 ms", 3)
def bridge_costs(e: Engine) -> float:
    def once(network: str) -> float:
        return timed(lambda: e.docker("run", "--rm", "--network", network, "busybox", "true"))

    more = []
    for turn in range(15):
        first, second = ("bridge", "none") if turn % 2 else ("none", "bridge")
        times = {first: once(first), second: once(second)}
        more.append(times["bridge"] - times["none"])
    return statistics.median(more)


@row("network create", "ms", "≤ 0.2 ×", 7)
def network_create(e: Engine) -> float:
    value = timed(lambda: e.api("POST", "/networks/create", {"Name": "bench", "CheckDuplicate": True}))
    e.api("DELETE", "/networks/bench")
    return value


@contextlib.contextmanager
def published(e: Engine) -> Iterator[str]:
    """A container with port 80 published as 8080: its network namespace.

    What serves there comes from outside: the same program as on the host, in the same control group, so that
    only the way differs.
    """
    e.docker("run", "-d", "-p", "8080:80", "--name", "served", "busybox", "sleep", "600")
    try:
        shown = json.loads(e.api("GET", "/containers/served/json")[1])
        yield f"/proc/{shown['State']['Pid']}/ns/net"
    finally:
        e.docker("rm", "-f", "served")


def _published_share(e: Engine, by: str) -> float:
    home = f"/run/netns/{e.netns}"
    with (
        published(e) as inside,
        netload.requests(home, e.address, 8080, inside, "0.0.0.0", 80) as through,
        netload.requests(home, "127.0.0.1", 8079, home, "127.0.0.1", 8079) as own,
    ):
        return netload.share(through, own, 0.1, 40, by=by)


@row("published port on the host's address: requests, of its own loopback's", "×", "≥ 0.8", 3, "higher")
def published_share(e: Engine) -> float:
    return _published_share(e, "clock")


@row("the same by processor time of client and server", "×", "≥ 0.8", 3, "higher")
def published_share_of_processors(e: Engine) -> float:
    return _published_share(e, "processor")


@row("published port on 127.0.0.1: requests", "/s", "≥ 1.0 ×", 5, "higher")
def published_rate(e: Engine) -> float:
    with published(e) as inside, netload.Program(inside, netload.SERVER, "0.0.0.0", "80"):
        return netload.request_rate(f"/run/netns/{e.netns}", "127.0.0.1", 8080)


@row("published port on 127.0.0.1: requests, a connection each", "/s", "≥ 1.0 ×", 5, "higher")
def published_connections(e: Engine) -> float:
    with published(e) as inside, netload.Program(inside, netload.SERVER, "0.0.0.0", "80"):
        return netload.request_rate(f"/run/netns/{e.netns}", "127.0.0.1", 8080, each=True)


def _container_share(e: Engine, by: str) -> float:
    with containers(e, 2) as ids, netload.plain_pair() as plain:
        shown = [json.loads(e.api("GET", f"/containers/{one}/json")[1]) for one in ids]
        source, sink = (f"/proc/{one['State']['Pid']}/ns/net" for one in shown)
        address = shown[1]["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        with netload.stream(source, sink, address) as own, netload.stream(*plain) as other:
            return netload.share(own, other, 128, 30, by=by)


@row("container to container, of a plain veth pair's throughput", "×", "≥ 0.95", 3, "higher")
def container_throughput(e: Engine) -> float:
    return _container_share(e, "clock")


@row("the same by processor time of both ends", "×", "≥ 0.95", 3, "higher")
def container_throughput_of_processors(e: Engine) -> float:
    return _container_share(e, "processor")


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
