"""Measurements of networks for scripts/bench: request rates, throughput, look-ups, in given namespaces."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
# Sixteen connections ask at once, again and again; or one after the other asks once ("each").
CLIENT = """
import socket, sys, time
to, seconds, each = (sys.argv[1], int(sys.argv[2])), float(sys.argv[3]), sys.argv[4] == "each"
def connected():
    s = socket.create_connection(to)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return s
kept = [] if each else [connected() for _ in range(16)]
count, end = 0, time.perf_counter() + seconds
while time.perf_counter() < end:
    ones = kept or [connected()]
    for s in ones:
        s.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    for s in ones:
        s.recv(4096)
    if each:
        ones[0].close()
    count += len(ones)
print(count / seconds)
"""
SINK = """
import socket, sys
s = socket.create_server(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    c, _ = s.accept()
    buffer = bytearray(1 << 20)
    while c.recv_into(buffer):
        pass
    c.sendall(b"!")
    c.close()
"""
SOURCE = """
import socket, sys, time
data, total = bytes(1 << 20), int(sys.argv[3])
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
start = time.perf_counter()
for _ in range(total):
    s.sendall(data)
s.shutdown(socket.SHUT_WR)
s.recv(1)
print(total / (time.perf_counter() - start))
"""


def command(netns: str, code: str, *args: str) -> list[str]:
    """A Python program in a network namespace, given by its path."""
    return ["nsenter", f"--net={netns}", sys.executable, "-I", "-S", "-c", code, *args]


@contextlib.contextmanager
def server(netns: str, code: str, *args: str) -> Iterator[None]:
    """A program that serves meanwhile; it has printed a line before."""
    process = subprocess.Popen(command(netns, code, *args), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.communicate()


def number(netns: str, code: str, *args: str) -> float:
    """What a program prints: a number."""
    done = subprocess.run(command(netns, code, *args), capture_output=True, text=True, check=True)
    return float(done.stdout)


def request_rate(netns: str, host: str, port: int, seconds: float = 1.0, *, each: bool = False) -> float:
    """Requests a second on sixteen connections, or one after the other on a connection each."""
    return number(netns, CLIENT, host, str(port), str(seconds), "each" if each else "kept")


def throughput(source: str, sink: str, address: str, megabytes: int = 2000) -> float:
    """Megabytes a second from one namespace to an address in another."""
    with server(sink, SINK, "5001"):
        return number(source, SOURCE, address, "5001", str(megabytes))


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
