"""A machine of its own for a test: a network namespace in which an engine's networks are opened.

Other machines and containers are processes with namespaces of their own. Everything goes when they end.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sampan.engine.config import EngineConfig
from sampan.engine.containers.record import Container, State
from sampan.engine.networks import Networks, SandboxRequest
from sampan.engine.networks.types import Prepared
from sampan.errors import NotFound
from sampan.kernel import rtnetlink as rt
from sampan.kernel.namespaces import CLONE_NEWNET, setns, unshare
from sampan.kernel.netlink import Netlink
from sampan.runtime.config import ContainerConfig, EndpointSettings, HostConfig, PortBinding
from sampan.storage.db import Database

BRIDGE = "smpf0"
BIP = "10.201.6.1/24"
PATIENCE = 20.0  # seconds for what must come, on a busy machine; what comes takes milliseconds
SHUT = 2.0  # seconds after which nothing is expected any more


@contextlib.contextmanager
def own_namespace() -> Iterator[None]:
    """Put the calling thread into a new network namespace, with lo up, and back."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare(CLONE_NEWNET)
        with Netlink() as route:
            route.send(rt.change_link(1, up=True))
        # A new namespace starts with what the machine has: here it is a machine that forwards nothing yet.
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            with contextlib.suppress(OSError):
                Path("/proc/sys/net", name).write_text("0")
        yield
    finally:
        setns(home, CLONE_NEWNET)
        os.close(home)


class Box:
    """A process with its own network namespace: a container's, or another machine's."""

    def __init__(self) -> None:
        mine = os.readlink("/proc/thread-self/ns/net")
        self.process = subprocess.Popen(["unshare", "-n", "sleep", "300"])
        self.pid = self.process.pid
        self.apps: list[subprocess.Popen[bytes]] = []
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{self.pid}/ns/net") != mine:
                    # As the launch of a container does.
                    subprocess.run(self.command("ip", "link", "set", "lo", "up"), check=True)
                    return
            time.sleep(0.002)
        raise RuntimeError(f"no namespace after {PATIENCE} s")

    def command(self, *args: str) -> list[str]:
        """A command line that runs inside."""
        return ["nsenter", "-t", str(self.pid), "-n", *args]

    def python(self, code: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run Python code inside."""
        return subprocess.run(
            self.command(sys.executable, "-c", code, *args), capture_output=True, text=True, timeout=60
        )

    def app(self, code: str, *args: str) -> None:
        """Start a Python program inside; returns when it has printed a line."""
        app = subprocess.Popen(
            self.command(sys.executable, "-c", code, *args), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self.apps.append(app)
        assert app.stdout is not None
        assert app.stdout.readline(), "the app did not start"

    def end(self) -> None:
        """Kill all inside."""
        for process in [*self.apps, self.process]:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


ECHO = """
import socket, sys, threading
kind, host, port, word = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].encode()
family = socket.AF_INET6 if ":" in host else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((host, port))
if kind == "udp":
    print("ready", flush=True)
    while True:
        data, peer = s.recvfrom(2000)
        s.sendto(word + b" " + peer[0].encode() + b" " + data, peer)
s.listen(16)
print("ready", flush=True)
def serve(c, peer):
    data = b""
    while chunk := c.recv(65536):
        data += chunk
    c.sendall(word + b" " + peer[0].encode() + b" " + data)
    c.close()
while True:
    c, peer = s.accept()
    threading.Thread(target=serve, args=(c, peer), daemon=True).start()
"""

ASK = """
import socket, sys
kind, host, port, text = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4].encode()
family = socket.AF_INET6 if ":" in host else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM if kind == "udp" else socket.SOCK_STREAM)
s.settimeout(float(sys.argv[5]))
try:
    s.connect((host, port))
    s.sendall(text)
    data = b""
    if kind == "udp":
        data = s.recv(2000)
    else:
        s.shutdown(socket.SHUT_WR)
        while chunk := s.recv(65536):
            data += chunk
    print(data.decode())
except OSError as e:
    print("ERROR", type(e).__name__, e)
"""

DNS = """
import dnslib, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    data, peer = s.recvfrom(2000)
    q = dnslib.DNSRecord.parse(data)
    r = q.reply()
    if q.q.qtype == 1:
        r.add_answer(dnslib.RR(q.q.qname, rdata=dnslib.A("10.201.7.2"), ttl=5))
    s.sendto(r.pack(), peer)
"""

LOOKUP = """
import sys, dnslib
name, kind, way = sys.argv[1:4]
try:
    raw = dnslib.DNSRecord.question(name, kind).send("127.0.0.11", 53, tcp=way == "tcp", timeout=20)
    answer = dnslib.DNSRecord.parse(raw)
    print(dnslib.RCODE[answer.header.rcode], *sorted(str(item.rdata) for item in answer.rr))
except Exception as e:
    print("ERROR", type(e).__name__, e)
"""


@contextlib.contextmanager
def host_app(host: str, port: int, word: str = "host") -> Iterator[None]:
    """A TCP server of this machine's own, as :data:`ECHO`."""
    command = [sys.executable, "-c", ECHO, "tcp", host, str(port), word]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as app:
        try:
            assert app.stdout is not None and app.stdout.readline(), "the app did not start"
            yield
        finally:
            app.kill()


class Directory:
    """The containers of a test, as networks ask for them."""

    def __init__(self) -> None:
        self.all: dict[str, Container] = {}

    def get(self, reference: str) -> Container:
        for container in self.all.values():
            if reference in (container.id, container.name):
                return container
        raise NotFound(f"No such container: {reference}")

    def save(self, container: Container) -> None:
        self.all[container.id] = container

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self.all.values()))


class Recorder:
    """The events of a test."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str, dict[str, str]]] = []

    def publish(
        self, type: str, action: str, actor_id: str, attributes: Mapping[str, str], scope: str = "local"
    ) -> None:
        self.seen.append((type, action, actor_id, dict(attributes)))

    def names(self) -> list[str]:
        return [f"{action} {attributes.get('name', '')}".strip() for _t, action, _i, attributes in self.seen]


class Lab:
    """Networks of an engine, and containers on them."""

    def __init__(self, bridge: str = BRIDGE, bip: str = BIP, **config: Any) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="smpf-"))
        self.config = EngineConfig(
            data_root=self.dir, exec_root=self.dir / "run", bridge=bridge, bip=bip, **config
        )
        self.containers = Directory()
        self.boxes: dict[str, Box] = {}
        self.others: list[Box] = []
        self._count = 0
        self.begin()

    def begin(self) -> None:
        """A new engine on the same root (after a crash)."""
        self.events = Recorder()
        self.db = Database(self.dir / "db")
        self.networks = Networks(self.config, self.db, self.events)
        self.networks.containers = self.containers

    async def open(self) -> Lab:
        await self.networks.open()
        return self

    def crash(self) -> None:
        """Forget everything as kill -9 does: only the kernel, the switchboard and the database remain."""
        self.networks.guard.close()
        self.networks.refusals.close()
        self.networks.switchboard._lose()
        self.db.close()

    def container(
        self,
        mode: str = "",
        *,
        name: str = "",
        ports: Mapping[str, Any] | None = None,
        networks: Mapping[str, EndpointSettings | None] | None = None,
        config: Mapping[str, Any] | None = None,
        **host: Any,
    ) -> Container:
        """A container that isn't started. ``ports``: {"80/tcp": "8080"} or lists of (ip, port)."""
        self._count += 1
        identity = f"{self._count:04x}" + os.urandom(30).hex()
        bindings = {
            key: [
                PortBinding(host_ip=ip, host_port=port)
                for ip, port in ([("", value)] if isinstance(value, str) else value)
            ]
            for key, value in (ports or {}).items()
        }
        container = Container(
            id=identity,
            name=name or f"c{self._count}",
            created_ns=0,
            image="",
            path="",
            args=[],
            config=ContainerConfig(hostname=identity[:12], **(config or {})),
            host=HostConfig(network_mode=mode, port_bindings=bindings or None, **host),
            state=State(),
            networks=dict(networks or {}),
        )
        self.containers.save(container)
        return container

    async def start(self, container: Container) -> tuple[Box, Prepared]:
        prepared = await self.networks.prepare(SandboxRequest.of(container))
        box = Box()
        self.boxes[container.id] = box
        await self.networks.attach(container.id, box.pid)
        self.networks.announce(container.id)
        container.state = State(status="running", pid=box.pid)
        return box, prepared

    async def run(self, *args: Any, **kw: Any) -> tuple[Container, Box]:
        container = self.container(*args, **kw)
        box, _prepared = await self.start(container)
        return container, box

    async def web(self) -> Box:
        """A container that answers "web" at its port 80, published as 8080."""
        _container, box = await self.run(ports={"80/tcp": "8080"})
        box.app(ECHO, "tcp", "0.0.0.0", "80", "web")
        return box

    async def stop(self, container: Container) -> None:
        box = self.boxes.pop(container.id)
        box.end()
        await self.networks.release(container.id)
        container.state = State(status="exited")

    def neighbour(self, address: str = "10.201.7.2/24", host: str = "10.201.7.1/24") -> Box:
        """Another machine on a wire to this one; its default route leads here."""
        box = Box()
        self.others.append(box)
        netns = os.open(f"/proc/{box.pid}/ns/net", os.O_RDONLY)
        wire = f"smpfw{len(self.others)}"
        with Netlink() as route:
            route.send(rt.add_veth(wire, "eth0", netns=netns))
            link = rt.find_link(route, wire)
            assert link is not None
            route.send(rt.add_address(link.index, ipaddress.ip_interface(host)))
        os.close(netns)
        via = str(ipaddress.ip_interface(host).ip)
        for line in (
            f"addr add {address} dev eth0 nodad",
            "link set eth0 up",
            f"route add default via {via}",
        ):
            family = ["-6"] if ":" in address else []
            words = line.split() if family or "nodad" not in line else line.replace(" nodad", "").split()
            subprocess.run(box.command("ip", *family, *words), check=True)
        return box

    async def close(self) -> None:
        for box in [*self.boxes.values(), *self.others]:
            box.end()
        for container in self.containers:
            await self.networks.release(container.id)
        await self.networks.close()
        self.db.close()
        shutil.rmtree(self.dir)


def ask(
    box: Box | None, kind: str, host: str, port: int, text: str = "hello", seconds: float = PATIENCE
) -> str:
    """What a server answers, asked from inside a box (or from this machine)."""
    command = [sys.executable, "-c", ASK, kind, host, str(port), text, str(seconds)]
    if box is not None:
        command = box.command(*command)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert not done.stderr, done.stderr
    return done.stdout.strip()


async def aask(
    box: Box | None, kind: str, host: str, port: int, text: str = "hello", seconds: float = PATIENCE
) -> str:
    """As :func:`ask`, while the loop goes on."""
    return await asyncio.to_thread(ask, box, kind, host, port, text, seconds)


async def lookup(box: Box, name: str, kind: str = "A", way: str = "udp") -> str:
    """What the resolver of a box answers: code and sorted data."""
    done = await asyncio.to_thread(box.python, LOOKUP, name, kind, way)
    assert not done.stderr, done.stderr
    return done.stdout.strip()


async def ping(box: Box, address: str, reaches: bool = True) -> bool:
    """Whether a closed port is refused by the other side (nobody needs a ping program), as is expected or not."""
    return "ConnectionRefused" in await aask(box, "tcp", address, 9, seconds=PATIENCE if reaches else 1)


def in_lab(**config: Any) -> Callable[[Callable[[Lab], Awaitable[None]]], Callable[[], None]]:
    """Run an async test in a lab, and see that nothing is left after it."""

    def decorate(test: Callable[[Lab], Awaitable[None]]) -> Callable[[], None]:
        async def whole() -> None:
            lab = Lab(**config)
            try:
                await lab.open()
                await test(lab)
            finally:
                await lab.close()
            await left_nothing()

        def run() -> None:
            asyncio.run(asyncio.wait_for(whole(), 110))

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate


async def left_nothing() -> None:
    """No link, table, listening port or changed sysctl is left (namespaces take a moment to go)."""

    def links() -> set[str]:
        with Netlink() as route:
            return {link.name for link in rt.list_links(route)} - {"lo"}

    def listening() -> str:
        return subprocess.run(["ss", "-Hltun"], capture_output=True, text=True).stdout

    assert await soon(lambda: not links()), links()
    assert subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout == ""
    assert await soon(lambda: not listening()), listening()
    assert open("/proc/sys/net/ipv4/ip_forward").read().strip() == "0"


def nft(text: str) -> str:
    done = subprocess.run(["nft", "-f", "-"], input=text, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


def ruleset() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout


async def soon(check: Any) -> bool:
    """Whether something becomes true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := check()) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return bool(found)


def checked(lab: Lab) -> tuple[Any, Any, None]:
    container = lab.container(ports={"80/tcp": "8081"})
    return container.config, container.host, None


def send_loopback_here(outside: Box) -> None:
    """Have a neighbour send packets for 127.0.0.1 to this machine."""
    subprocess.run(outside.command("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1"), check=True)
    subprocess.run(outside.command("ip", "addr", "del", "127.0.0.1/8", "dev", "lo"))
    route = ("ip", "route", "add", "127.0.0.1/32", "via", "10.201.7.1", "src", "10.201.7.2")
    subprocess.run(outside.command(*route), check=True)
