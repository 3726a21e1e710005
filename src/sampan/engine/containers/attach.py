"""Attach: a client's connection on one side, the monitor's stream socket on the other, bytes between them.

A client may come before the start: it waits in ``Live.pending`` and its socket is handed to the launch, so
that no byte is lost. Its input is collected by the socket meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from typing import Literal, Protocol

from sampan import errors
from sampan.engine.containers.context import Containers, Live
from sampan.engine.containers.record import Container
from sampan.runtime.supervisor import AttachEnd

__all__ = ["AttachEnd", "AttachOptions", "Connection", "attach", "check", "parse_keys", "pump"]

CHUNK = 256 * 1024
DEFAULT_KEYS = "ctrl-p,ctrl-q"
# Seconds in which a client that ended its input still gets output: the answer to the last of it.
_ANSWER = 0.2
_END_PATIENCE = 2.0  # seconds between the end of the output and the record of the exit


class Connection(Protocol):
    """The client's side: an HTTP connection after its upgrade, or a program's own pair of streams."""

    async def read(self) -> bytes:
        """The next input; b"" at its end."""

    async def write(self, data: bytes) -> None:
        """Send output, waiting while the client is slow. ConnectionError when it is gone."""

    @property
    def gone(self) -> asyncio.Event:
        """Set when the client is lost altogether."""


@dataclass(frozen=True)
class AttachOptions:
    """Which streams a client wants, and the key sequence that detaches it (with a tty only).

    ``lasting_stdin``: the client's end of file detaches it, and the container's input stays open, as with a
    tty and without StdinOnce; else it is the container's end of file too.
    """

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    lasting_stdin: bool = False
    detach_keys: bytes = b""


@dataclass(eq=False)
class Pending:
    """A client that came before the start: ``theirs`` goes to the monitor."""

    theirs: socket.socket
    options: AttachOptions


def attach_end(theirs: socket.socket, options: AttachOptions) -> AttachEnd:
    """The monitor's end of a pair with the streams that the client wants."""
    return AttachEnd(theirs, options.stdin, options.stdout, options.stderr)


def parse_keys(text: str) -> bytes:
    """Detach keys such as ``ctrl-p,ctrl-q`` or ``a,ctrl-[`` as the bytes that they send.

    InvalidParameter in Docker's words for anything else.
    """
    codes = bytearray()
    for key in text.split(","):
        if len(key) == 1 and key.isascii():
            codes += key.encode()
            continue
        control = key.removeprefix("ctrl-")
        if control == key or len(control) != 1:
            raise errors.InvalidParameter(f"Invalid detach keys ({text}) provided")
        if control.isascii() and control.isalpha() and control.islower():
            codes.append(ord(control) - ord("a") + 1)
        elif control in "@[\\]^_":
            codes.append(ord(control) - ord("@"))
        else:
            raise errors.InvalidParameter(f"Invalid detach keys ({text}) provided")
    return bytes(codes)


class KeyFilter:
    """Looks for the detach keys in a client's input, over the borders of reads."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0
        self.found = False

    def feed(self, data: bytes) -> bytes:
        """The input to pass on; ``found`` is set when the sequence is complete (what follows is dropped)."""
        if not self._keys:
            return data
        out = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    self.found = True
                    break
                continue
            out += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
            else:
                out.append(byte)
        return bytes(out)


Ended = Literal["output", "input", "keys", "gone"]


async def pump(ours: socket.socket, client: Connection, options: AttachOptions) -> Ended:
    """Carry bytes both ways until the output ends, the client goes, or its keys or end of input detach it."""
    ours.setblocking(False)
    output = asyncio.ensure_future(_output(ours, client))
    input_ = asyncio.ensure_future(_input(ours, client, options))
    gone = asyncio.ensure_future(client.gone.wait())
    tasks = {output, input_, gone}
    try:
        while not output.done() and not gone.done():
            await asyncio.wait(tasks - {t for t in tasks if t.done()}, return_when=asyncio.FIRST_COMPLETED)
            if input_.done() and input_.result():
                return "keys"
            if input_.done() and options.stdin and options.lasting_stdin:
                await asyncio.wait((output, gone), timeout=_ANSWER, return_when=asyncio.FIRST_COMPLETED)
                return "input"
        return "gone" if gone.done() else "output"
    except ConnectionError:
        return "gone"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        ours.close()


async def _output(ours: socket.socket, client: Connection) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(ours, CHUNK):
        await client.write(data)


async def _input(ours: socket.socket, client: Connection, options: AttachOptions) -> bool:
    """Pass input on; at its end close our sending side, which the monitor takes as end of file."""
    loop = asyncio.get_running_loop()
    keys = KeyFilter(options.detach_keys)
    try:
        while data := await client.read():
            if not options.stdin:
                continue
            passed = keys.feed(data)
            if passed:
                await loop.sock_sendall(ours, passed)
            if keys.found:
                return True
        if options.stdin:
            ours.shutdown(socket.SHUT_WR)
    except (OSError, ConnectionError):
        return False
    return False


def check(container: Container) -> None:
    """Conflict when nobody can attach in the container's state."""
    if container.state.status == "paused":
        raise errors.Conflict(f"container {container.id} is paused, unpause the container before attach")
    if container.state.status == "restarting":
        raise errors.Conflict(f"container {container.id} is restarting, wait until the container is running")


async def attach(
    containers: Containers, container: Container, client: Connection, options: AttachOptions
) -> None:
    """Serve one attach client until its output ends, it leaves, or its keys detach it."""
    live = containers.live(container)
    ours, theirs = socket.socketpair()
    containers.publish(container, "attach")
    if live.process is not None and container.running:
        live.process.hand_over(attach_end(theirs, options))
        ended = await pump(ours, client, options)
    else:
        ended = await _attach_before_start(live, ours, theirs, client, options)
    if ended == "keys":
        containers.publish(container, "detach")
    elif container.running and ended == "output":
        # The output has ended with the run: who reads to the end finds the container stopped.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(live.run_over.wait(), _END_PATIENCE)


async def _attach_before_start(
    live: Live, ours: socket.socket, theirs: socket.socket, client: Connection, options: AttachOptions
) -> Ended:
    waiting = Pending(theirs, options)
    live.pending.append(waiting)
    try:
        return await pump(ours, client, options)
    finally:
        if waiting in live.pending:
            live.pending.remove(waiting)
            theirs.close()


def take_pending(live: Live) -> list[AttachEnd]:
    """The sockets of the clients that wait for the start; they belong to the caller now."""
    waiting, live.pending = live.pending, []
    return [attach_end(entry.theirs, entry.options) for entry in waiting]


def close_ends(ends: list[AttachEnd]) -> None:
    """The start failed before the hand-over: these clients see the end of the stream."""
    for end in ends:
        end.sock.close()
