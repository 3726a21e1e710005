"""A machine with an engine, driven by the stock CLI, and its neighbour on a wire: for tests through the door."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

from sampan.kernel import rtnetlink as rt
from sampan.kernel.netlink import Netlink
from tests.conftest import Daemon, import_busybox
from tests.network.lab import PATIENCE, Box, ask, own_namespace

HOST, NEIGHBOUR = "10.216.7.1", "10.216.7.2"
HOST6, NEIGHBOUR6 = "fd16:7::1", "fd16:7::2"
WIRE = "smpfwire"
WEB = (
    "mkdir -p /w/cgi-bin; echo %s >/w/index.html; printf '#!/bin/sh\\necho\\necho from $REMOTE_ADDR\\n'"
    " >/w/cgi-bin/who; chmod +x /w/cgi-bin/who; httpd -p %s -h /w; sleep 600"
)


class Inside(Box):
    """The network namespace of a container that runs, seen from the host."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.apps: list[subprocess.Popen[bytes]] = []

    def end(self) -> None:
        """Kill what was started by the test; the container stays."""
        while self.apps:
            process = self.apps.pop()
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


class Town:
    """The machine: its engine and its neighbour."""

    def __init__(self, daemon: Daemon, neighbour: Box) -> None:
        self.daemon = daemon
        self.neighbour = neighbour
        self.docker = daemon.docker
        self._inside: list[Inside] = []

    def run(self, name: str, *flags: str, shell: str = "sleep 600") -> str:
        """Start a container; its id."""
        return self.docker("run", "-d", "--name", name, *flags, "busybox", "sh", "-c", shell).stdout.strip()

    def web(self, name: str, *flags: str, listen: str = "80") -> str:
        """Start a container with a web server that says its name, and at /cgi-bin/who who asks."""
        return self.run(name, *flags, shell=WEB % (name, listen))

    def inspect(self, name: str) -> dict[str, Any]:
        """What docker inspect says."""
        found: dict[str, Any] = json.loads(self.docker("inspect", name).stdout)[0]
        return found

    def address(self, name: str, network: str = "bridge", key: str = "IPAddress") -> str:
        """A container's address."""
        return str(self.inspect(name)["NetworkSettings"]["Networks"][network][key])

    def inside(self, name: str) -> Inside:
        """A container's network namespace."""
        self._inside.append(Inside(self.inspect(name)["State"]["Pid"]))
        return self._inside[-1]

    def get(
        self,
        where: Box | str | None,
        host: str,
        port: int = 80,
        path: str = "/",
        seconds: float = PATIENCE,
    ) -> str:
        """A page's text, asked from this machine (None), a box, or a container (its name); "" for none."""
        if isinstance(where, str):
            request = f"printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' | nc -w {ceil(seconds)} {host} {port}"
            text = self.docker("exec", where, "sh", "-c", request, check=False).stdout
            return text.replace("\r", "").partition("\n\n")[2].strip() if text.startswith("HTTP") else ""
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
        command = ["curl", "-gs", "--noproxy", "*", "-m", str(seconds), url]
        command = where.command(*command) if where is not None else command
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    def shut(self, where: Box | str | None, host: str, port: int = 80) -> bool:
        """Whether nobody answers there."""
        return self.get(where, host, port, seconds=0.6) == ""

    def asker(self, where: Box | str | None, host: str, port: int) -> str:
        """Whom a web server sees asking."""
        text = self.get(where, host, port, "/cgi-bin/who").removeprefix("from ")
        return text.strip("[]").removeprefix("::ffff:")

    def resolve(self, name: str, what: str) -> list[str]:
        """The addresses (or names) that a container's resolver knows; sorted."""
        text = self.docker("exec", name, "nslookup", what, check=False).stdout
        answer = text.replace("\r", "").partition("\n\n")[2]
        found = [
            line.split()[-1] for line in answer.splitlines() if line.startswith("Address") or "name =" in line
        ]
        return sorted(found)

    def hosts(self, name: str) -> list[list[str]]:
        """The lines of a container's /etc/hosts after the usual head."""
        lines = self.docker("exec", name, "cat", "/etc/hosts").stdout.splitlines()
        return [line.split() for line in lines[6:]]

    def clean(self) -> None:
        """Remove all containers and networks of a test."""
        for inside in self._inside:
            inside.end()
        self._inside.clear()
        for app in self.neighbour.apps:
            app.kill()
            app.wait()
            assert app.stdout is not None
            app.stdout.close()
        self.neighbour.apps.clear()
        for container in self.daemon.json("GET", "/containers/json?all=1"):
            self.daemon.api("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        self.daemon.api("POST", "/networks/prune")


def soon(check: Callable[[], object], seconds: float = 30) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.03)
    return False


def nft(*words: str) -> str:
    """What nft(8) says on this machine."""
    return subprocess.run(["nft", *words], capture_output=True, text=True, check=True).stdout


def links() -> set[str]:
    """The names of this machine's links."""
    with Netlink() as route:
        return {link.name for link in rt.list_links(route)}


def wire_neighbour() -> Box:
    """Another machine on a wire to this one; its default routes lead here."""
    box = Box()
    netns = os.open(f"/proc/{box.pid}/ns/net", os.O_RDONLY)
    with Netlink() as route:
        route.send(rt.add_veth(WIRE, "eth0", netns=netns))
        link = rt.find_link(route, WIRE)
        assert link is not None
        route.send(*(rt.add_address(link.index, ipaddress.ip_interface(f"{a}/{n}")) for a, n in
                     ((HOST, 24), (HOST6, 64))), rt.change_link(link.index, up=True))  # fmt: skip
    os.close(netns)
    for line in (
        f"addr add {NEIGHBOUR}/24 dev eth0",
        f"-6 addr add {NEIGHBOUR6}/64 dev eth0 nodad",
        "link set eth0 up",
        f"route add default via {HOST}",
        f"-6 route add default via {HOST6}",
    ):
        subprocess.run(box.command("ip", *line.split()), check=True)
    return box


@contextlib.contextmanager
def town(number: int, *flags: str) -> Iterator[Town]:
    """An engine on a machine of its own, with busybox; the calling thread is on that machine meanwhile."""
    with own_namespace():
        neighbour = wire_neighbour()
        daemon = Daemon(number, *flags)
        daemon.bridge, daemon.bip = "smpf0", "10.216.6.1/24"
        try:
            daemon.start()
            import_busybox(daemon)
            yield Town(daemon, neighbour)
        finally:
            daemon.close()
            neighbour.end()
            with Netlink() as route:
                found = rt.find_link(route, WIRE)
                if found is not None:
                    with contextlib.suppress(OSError):  # it goes with the neighbour's namespace
                        route.send(rt.delete_link(found.index))


__all__ = ["HOST", "HOST6", "NEIGHBOUR", "NEIGHBOUR6", "Town", "ask", "links", "nft", "soon", "town"]
