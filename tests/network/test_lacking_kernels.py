"""Published UDP ports where the kernel has no TPROXY: everything works but an app on ``::1`` alone."""

from __future__ import annotations

import logging
import platform
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sampan.kernel.process import install_seccomp
from tests.network.lab import ECHO, Lab, aask, in_lab

pytestmark = pytest.mark.usefixtures("machine")
SETSOCKOPT = {"x86_64": 54, "aarch64": 208}
IP_TRANSPARENT, ENOPROTOOPT = 19, 92
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # of classic BPF: a word of struct seccomp_data; else skip; the end
MODPROBE = Path("/proc/sys/kernel/modprobe")


def refuse_transparent() -> bytes:
    """A seccomp filter under which setsockopt(SOL_IP, IP_TRANSPARENT) fails, as in a kernel without it."""
    tests = ((0, SETSOCKOPT[platform.machine()]), (24, 0), (32, IP_TRANSPARENT))
    program = b""
    for number, (offset, value) in enumerate(tests):
        to_the_end = 2 * (len(tests) - number) - 1
        program += struct.pack("=HBBIHBBI", _LOAD, 0, 0, offset, _EQUAL, 0, to_the_end, value)
    return program + struct.pack("=HBBIHBBI", _RETURN, 0, 0, 0x50000 | ENOPROTOOPT, _RETURN, 0, 0, 0x7FFF0000)


@contextmanager
def warned() -> Iterator[list[str]]:
    """What the engine's log says of sandboxes."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("sampan.engine.networks.sandboxes")
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


async def publish_udp(lab: Lab, lines: list[str]) -> None:
    ports = {f"{number}/udp": str(number) for number in (5001, 5002, 5003)}
    _web, server = await lab.run(ports=ports)
    server.app(ECHO, "udp", "::1", "5001", "six")
    server.app(ECHO, "udp", "127.0.0.1", "5002", "four")
    server.app(ECHO, "udp", "0.0.0.0", "5003", "all")
    assert "UDP apps that listen on ::1 only are not reached" in lines[0] and len(lines) == 1
    for host in ("127.0.0.1", "10.201.6.1", "::1"):
        assert (await aask(None, "udp", host, 5002)).startswith("four"), host
        assert (await aask(None, "udp", host, 5003)).startswith("all"), host
        assert (await aask(None, "udp", host, 5001, seconds=0.5)).startswith("ERROR"), host


def test_transparent_sockets_are_refused() -> None:
    failures: list[BaseException] = []

    @in_lab()
    async def check(lab: Lab) -> None:
        with warned() as lines:
            await publish_udp(lab, lines)

    in_thread_that_ends(lambda: (install_seccomp(refuse_transparent()), check()), failures)
    assert not failures, failures


def in_thread_that_ends(work: Callable[[], object], failures: list[BaseException]) -> None:
    def run() -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


@pytest.mark.skipif(
    not Path("/lib/modules", platform.release()).is_dir()
    or "nft_tproxy" in Path("/proc/modules").read_text(),
    reason="nft_tproxy is built into this kernel, or loaded (scripts/vm-test has another one)",
)
def test_the_module_is_missing() -> None:
    @in_lab()
    async def check(lab: Lab) -> None:
        _web, _server = await lab.run(ports={"80/tcp": "8080"})  # whatever else is needed is loaded
        subprocess.run(["modprobe", "-a", "nft_socket", "nft_fib_inet", "nft_redir"], check=True)
        loader = MODPROBE.read_text()
        MODPROBE.write_text("/bin/false")  # whom the kernel asks for what it lacks
        try:
            with warned() as lines:
                await publish_udp(lab, lines)
        finally:
            MODPROBE.write_text(loader.strip())

    check()
