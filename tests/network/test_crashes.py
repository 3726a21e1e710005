"""Engine killed at any moment: afterwards there is exactly what belongs to the containers and networks left."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.network.town import Town, links, nft, soon, town

KILLS = 8


@pytest.fixture
def here() -> Iterator[Town]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with town(9018) as place:
        yield place
        place.clean()


class Work:
    """Somebody who makes, starts, connects, stops and removes without end, and minds no error."""

    def __init__(self, place: Town, number: int) -> None:
        self._daemon, self._number = place.daemon, number
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._end.set()
        self._thread.join()

    def _ask(self, method: str, path: str, body: Any = None) -> None:
        if self._end.is_set():
            return
        try:
            self._daemon.api(method, path, body)
        except (OSError, http.client.HTTPException):
            time.sleep(0.005)

    def _run(self) -> None:
        n, turn = self._number, 0
        while not self._end.is_set():
            turn += 1
            network, name, port = f"net{n}", f"con{n}-{turn % 2}", str(7000 + n * 10 + turn % 2)
            self._ask("POST", "/networks/create", {"Name": network, "EnableIPv6": n % 2 == 0})
            bindings = {"80/tcp": [{"HostPort": port}], "53/udp": [{"HostPort": port}]}
            host = {"PortBindings": bindings, "NetworkMode": network if turn % 3 else "bridge"}
            labels = {"sampan.egress": "10.0.0.0/8:443"} if turn % 2 else {}
            asked = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": host, "Labels": labels}
            self._ask("POST", f"/containers/create?name={name}", asked)
            self._ask("POST", f"/containers/{name}/start")
            self._ask("POST", f"/networks/{'bridge' if turn % 3 else network}/connect", {"Container": name})
            if turn % 2:
                self._ask("POST", f"/networks/{network}/disconnect", {"Container": name})
                self._ask("POST", f"/containers/{name}/stop?t=0")
                self._ask("DELETE", f"/networks/{network}")
            self._ask("DELETE", f"/containers/con{n}-{(turn + 1) % 2}?force=1")


def elements(name: str) -> list[str]:
    """What a set or map of the engine's table holds."""
    found = json.loads(nft("-j", "list", "table", "inet", "sampan_smpf0"))["nftables"]
    for item in found:
        body = item.get("set") or item.get("map")
        if body and body["name"] == name:
            return sorted(json.dumps(element) for element in body.get("elem", []))
    raise AssertionError(f"no set {name}")


def belongs(place: Town) -> dict[str, Any]:
    """What there ought to be, as the API tells it."""
    daemon = place.daemon
    networks = daemon.json("GET", "/networks")
    running = [
        daemon.json("GET", f"/containers/{c['Id']}/json") for c in daemon.json("GET", "/containers/json")
    ]
    bridges, veths, addresses, ports = set(), 0, {}, set()
    for network in networks:
        if network["Driver"] == "bridge":
            bridges.add(
                network["Options"].get("com.docker.network.bridge.name") or f"br-{network['Id'][:12]}"
            )
    for container in running:
        ends = container["NetworkSettings"]["Networks"].values()
        veths += len(ends)
        addresses[container["State"]["Pid"]] = {end["IPAddress"] for end in ends} | {
            end["GlobalIPv6Address"] for end in ends if end["GlobalIPv6Address"]
        }
        for key, bound in container["NetworkSettings"]["Ports"].items():
            ports |= {(key.partition("/")[2], int(one["HostPort"])) for one in bound or ()}
    return {"bridges": bridges, "veths": veths, "addresses": addresses, "ports": ports}


def present(pids: list[int]) -> dict[str, Any]:
    """What there is, as the kernel tells it."""
    names = links()
    addresses = {}
    for pid in pids:
        command = ["nsenter", "-t", str(pid), "-n", "ip", "-o", "addr", "show", "scope", "global"]
        shown = subprocess.run(command, capture_output=True, text=True).stdout
        addresses[pid] = set(re.findall(r"inet6? ([0-9a-f:.]+)/", shown))
    listening = subprocess.run(["ss", "-Hltun"], capture_output=True, text=True).stdout.splitlines()
    ports = {(line.split()[0], int(line.split()[4].rpartition(":")[2])) for line in listening}
    return {
        "bridges": {name for name in names if name == "smpf0" or name.startswith("br-")},
        "veths": sum(1 for name in names if name.startswith("veth")),
        "addresses": addresses,
        "ports": ports,
    }


def differences(place: Town) -> dict[str, Any]:
    """Where what ought to be and what is aren't the same: both."""
    wanted = belongs(place)
    found = present(list(wanted["addresses"]))
    wrong = {key: (wanted[key], found[key]) for key in wanted if wanted[key] != found[key]}
    own = {address for group in wanted["addresses"].values() for address in group}
    named = {json.loads(item) for item in elements("bridges")}
    mapped = {tuple(json.loads(item)[0]["concat"]) for item in elements("any4")}
    held = {tuple(json.loads(item)["concat"]) for item in elements("held")}
    kept = {json.loads(item)["concat"][0] for item in elements("allowport4")}
    for what, sides in {
        "bridges in rules": (wanted["bridges"], named),
        "mapped ports": (wanted["ports"], mapped),
        "held ports": (wanted["ports"], held),
        "egress control of nobody": (set(), {json.loads(item) for item in elements("egress4")} - own),
        "ways out of nobody": (set(), kept - own),
        "chains of links that have gone": (set(), bound_to_addresses() - links()),
    }.items():
        if sides[0] != sides[1]:
            wrong[what] = sides
    return wrong


def check(place: Town) -> None:
    """What ought to be is there, and nothing else, after a moment for namespaces to go and starts to be looked at."""
    seen: dict[str, Any] = {}

    def same() -> bool:
        seen.clear()
        seen.update(differences(place))
        return not seen

    assert soon(same), f"what should be, and what is: {seen}"


def bound_to_addresses() -> set[str]:
    """The links that chains of the engine bind to their addresses."""
    done = subprocess.run(
        ["nft", "-j", "list", "table", "netdev", "sampan_smpf0"], capture_output=True, text=True
    )
    objects = json.loads(done.stdout)["nftables"] if done.stdout else []
    return {item["chain"]["name"] for item in objects if "chain" in item}


def test_killed_at_any_moment(here: Town) -> None:
    chance = random.Random(5)
    for _ in range(KILLS):
        workers = [Work(here, number) for number in range(2)]
        time.sleep(chance.uniform(0.02, 0.6))
        here.daemon.kill()
        for worker in workers:
            worker.end()
        here.daemon.start()
        check(here)
    here.clean()
    check(here)
    assert elements("any4") == elements("any6") == elements("egress4") == elements("allowport4") == []
    assert belongs(here)["bridges"] == {"smpf0"}
    with socket.socket() as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("0.0.0.0", 7000))


def test_containers_go_on_while_the_engine_is_dead(here: Town) -> None:
    here.docker("network", "create", "n1")
    here.web("web", "--network", "n1", "-p", "8080:80")
    here.run("two", "--network", "n1")
    here.daemon.kill()
    assert soon(lambda: here.get(here.neighbour, "10.216.7.1", 8080) == "web")
    asked = here.daemon  # the CLI has nobody to talk to: ask in the namespace
    assert asked.process is None
    here.daemon.start()
    assert here.resolve("two", "web") == [here.address("web", "n1")]
    assert here.get(here.neighbour, "10.216.7.1", 8080) == "web"
    check(here)
