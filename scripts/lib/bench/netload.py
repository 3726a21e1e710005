"""Measurements of networks for scripts/bench: request rates, throughput, look-ups, in given namespaces."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# Answers each request with 100 bytes, on any number of connections.
SERVER = """
import select, socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=512)
answer = b"HTTP/1.1 200 OK\\r\\nContent-Length: 62\\r\\n\\r\\n" + b"x" * 62
print("ready", flush=True)
poll, open_ones = select.epoll(), {}
poll.register(s, select.EPOLLIN)
while True:
    for fd, _ in poll.poll():
        if fd == s.fileno():
            c, _ = s.accept()
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            open_ones[c.fileno()] = c
            poll.register(c, select.EPOLLIN)
        elif open_ones[fd].recv(4096):
            open_ones[fd].sendall(answer)
        else:
            open_ones.pop(fd).close()
"""
# Sixteen connections ask at once, again and again; or one after the other asks once ("each"): for as many
# seconds as each line says, and then it prints the requests a second.
CLIENT = """
import socket, sys, time
to, each = (sys.argv[1], int(sys.argv[2])), sys.argv[3] == "each"
def connected():
    s = socket.create_connection(to)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s
kept = [] if each else [connected() for _ in range(16)]
print("ready", flush=True)
for line in sys.stdin:
    count, begin = 0, time.perf_counter()
    while time.perf_counter() < begin + float(line):
        ones = kept or [connected()]
        for s in ones:
            s.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
        for s in ones:
            s.recv(4096)
        if each:
            ones[0].close()
        count += len(ones)
    print(count / (time.perf_counter() - begin), flush=True)
"""
# The two ends of a stream keep to a processor each: where the kernel puts them would else decide the speed.
SINK = """
import os, socket, sys
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
s = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
c, _ = s.accept()
buffer = memoryview(bytearray(1 << 20))
while True:
    left = int.from_bytes(c.recv(4, socket.MSG_WAITALL), "big") << 20
    if not left:
        break
    while left:
        left -= c.recv_into(buffer[:left])
    c.sendall(b"!")
"""
# Sends as many megabytes as each line says, and prints how many it were a second.
SOURCE = """
import os, socket, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
data = bytes(1 << 20)
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
for line in sys.stdin:
    begin = time.perf_counter()
    s.sendall(int(line).to_bytes(4, "big"))
    for _ in range(int(line)):
        s.sendall(data)
    s.recv(1)
    print(int(line) / (time.perf_counter() - begin), flush=True)
"""


def command(netns: str, code: str, *args: str) -> list[str]:
    """A Python program in a network namespace, given by its path."""
    return ["nsenter", f"--net={netns}", sys.executable, "-I", "-S", "-c", code, *args]


class Program:
    """One of the programs above, which has printed that it is ready; ``ask`` has it do a round."""

    def __init__(self, netns: str, code: str, *args: str) -> None:
        self._process = subprocess.Popen(
            command(netns, code, *args), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        if self._read() != "ready\n":
            raise RuntimeError("a program of the bench ended before it was ready")

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def ask(self, line: float) -> float:
        """What it prints for a line: a rate."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        return float(self._read())

    def processor_seconds(self) -> float:
        """Processor time it has used so far."""
        return time.clock_gettime((~self._process.pid << 3) | 2)  # clock_getcpuclockid(3)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()


def request_rate(netns: str, host: str, port: int, seconds: float = 1.0, *, each: bool = False) -> float:
    """Requests a second on sixteen connections, or one after the other on a connection each."""
    with Program(netns, CLIENT, host, str(port), "each" if each else "kept") as client:
        return client.ask(seconds)


@dataclass
class Load:
    """Two programs that talk to each other; ``asker`` is told how much."""

    asker: Program
    other: Program

    def round(self, line: float) -> tuple[float, float]:
        """The rate, and the rate by processor time: what a second of both ends' work on a processor makes.

        What the kernel does on a packet's way is done in the name of whoever sent it, so it is counted.
        """
        before, begin = self._used(), time.perf_counter()
        rate = self.asker.ask(line)
        elapsed = time.perf_counter() - begin
        return rate, rate * elapsed / (self._used() - before)

    def _used(self) -> float:
        return self.asker.processor_seconds() + self.other.processor_seconds()


@contextlib.contextmanager
def stream(source: str, sink: str, address: str) -> Iterator[Load]:
    """A connection from one namespace to an address in another: megabytes."""
    with Program(sink, SINK, "5001") as receiver, Program(source, SOURCE, address, "5001") as sender:
        yield Load(sender, receiver)


@contextlib.contextmanager
def requests(client: str, address: str, port: int, server: str, bound: str, inside: int) -> Iterator[Load]:
    """A server on ``bound``:``inside`` and a client that asks it by another address: seconds of requests."""
    with (
        Program(server, SERVER, bound, str(inside)) as serving,
        Program(client, CLIENT, address, str(port), "kept") as asking,
    ):
        yield Load(asking, serving)


def share(measured: Load, of: Load, line: float, rounds: int, *, by: str) -> float:
    """The median of the ratios of two rates, in short rounds by turns: noise hits both.

    ``by`` is "clock" or "processor".
    """
    which = ("clock", "processor").index(by)
    ratios = []
    for turn in range(rounds + 1):
        pair = (measured, of) if turn % 2 else (of, measured)
        rates = {id(load): load.round(line)[which] for load in pair}
        ratios.append(rates[id(measured)] / rates[id(of)])
    return statistics.median(ratios[1:])  # the first round warms up


@contextlib.contextmanager
def plain_pair() -> Iterator[tuple[str, str, str]]:
    """Two namespaces on veth pairs over a bridge, made by ip(8) alone: paths, and the second's address."""
    base = f"bp{os.getpid()}"
    home = f"{base}h"
    names = [f"{base}a", f"{base}b"]
    try:
        for name in (home, *names):
            subprocess.run(["ip", "netns", "add", name], check=True)
        lines = ["link add br0 type bridge", "link set br0 up"]
        for index, name in enumerate(names):
            lines += [
                f"link add v{index} type veth peer name eth0 netns {name}",
                f"link set v{index} master br0 up",
            ]
            inside = [f"addr add 10.196.0.{index + 1}/24 dev eth0", "link set eth0 up", "link set lo up"]
            subprocess.run(["ip", "-n", home, "-b", "-"], input="\n".join(lines), text=True, check=True)
            subprocess.run(["ip", "-n", name, "-b", "-"], input="\n".join(inside), text=True, check=True)
            lines = []
        yield f"/run/netns/{names[0]}", f"/run/netns/{names[1]}", "10.196.0.2"
    finally:
        for name in (home, *names):
            subprocess.run(["ip", "netns", "del", name], check=False)


def in_namespace(netns: str, make: Callable[[], T]) -> T:
    """Call something with this thread in a namespace (ctypes, for Python 3.11 has no setns)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(netns) as there:
        if libc.setns(there.fileno(), 0):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            return make()
        finally:
            libc.setns(home.fileno(), 0)


def lookups(pids: list[int], names: list[str], rounds: int = 5) -> list[float]:
    """Milliseconds that each container needs to resolve another's name, in turn, ``rounds`` times."""
    askers = []
    for pid in pids:
        asker = in_namespace(
            str(Path("/proc", str(pid), "ns/net")), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        )
        asker.settimeout(5)
        askers.append(asker)
    found = []
    for turn in range(rounds):
        for index, asker in enumerate(askers):
            name = names[(index + 1 + turn) % len(names)]
            query = bytes([index % 256, turn, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(name)])
            query += name.encode() + b"\0\0\1\0\1"
            start = time.perf_counter()
            asker.sendto(query, ("127.0.0.11", 53))
            answer = asker.recv(512)
            found.append((time.perf_counter() - start) * 1000)
            if answer[3] & 15 or not answer[7]:
                raise RuntimeError(f"{name} was not resolved")
    for asker in askers:
        asker.close()
    return found
