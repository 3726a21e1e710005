"""The engine's side of the zygote: started, asked, and replaced when it has died or doesn't go on.

A zygote may be killed (then its requests are sent to the next one) or stopped (SIGSTOP, a debugger): then
it is killed, after a moment in which somebody may let it go on. Monitors don't need it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import subprocess
from collections.abc import Container, Sequence
from pathlib import Path

from sampan.errors import SystemFailure
from sampan.runtime import silence, wire, zygote

_FAREWELL = 5.0  # seconds to end after its channel was closed
_TRIES = 3
_log = logging.getLogger(__name__)


class Zygote:
    """One zygote process and the channel to it."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # It may be stopped with its socket full; the engine has others to serve.
        self.channel.setblocking(False)
        with theirs:
            self.process = subprocess.Popen(
                zygote.command(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )

    def stopped(self) -> bool:
        """Whether a signal or a tracer has stopped it."""
        return silence.stopped(self.process.pid)

    def wake_children(self, known: Container[int]) -> None:
        """Let monitors go on that haven't said a word yet: children that aren't ``known``."""
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
            for pid in map(int, text.split()):
                if pid not in known:
                    silence.wake(pid)

    async def writable(self) -> bool:
        """Whether its socket takes a packet within the patience that it has."""
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        fd = self.channel.fileno()
        loop.add_writer(fd, lambda: None if ready.done() else ready.set_result(None))
        try:
            await asyncio.wait((ready,), timeout=silence.LOOK)
        finally:
            loop.remove_writer(fd)
        return ready.done()

    def end(self) -> None:
        """Wait for its end after the channel was closed; kill it when it is stopped or too slow."""
        if self.stopped():
            self.process.kill()
        try:
            self.process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Zygotes:
    """The present zygote; the next one when that is gone."""

    def __init__(self) -> None:
        self._present: Zygote | None = None
        self._sending = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Process id of the present zygote, 0 when there is none."""
        return self._present.process.pid if self._present is not None else 0

    def present(self) -> Zygote:
        """The zygote that serves; started when there is none (about 50 ms; requests may be sent at once)."""
        if self._present is None:
            self._present = Zygote()
        return self._present

    async def send(self, request: wire.Message, fds: Sequence[int]) -> Zygote:
        """Send a request; whom it was sent to. SystemFailure when no zygote stays alive."""
        async with self._sending:
            for _ in range(_TRIES):
                asked = self.present()
                try:
                    while True:
                        try:
                            wire.send(asked.channel, request, fds)
                            return asked
                        except BlockingIOError:
                            if not await asked.writable():
                                await self.replace_stopped(asked)
                except OSError:
                    await self.replace(asked)
        raise SystemFailure("the launcher process ended unexpectedly", hint="See the engine's log.")

    async def answer(self, asked: Zygote, said: asyncio.Future[None], known: Container[int]) -> bool:
        """Wait for what ``asked`` was asked for: the first word of a monitor that isn't one of ``known``.

        Should it be stopped, it is killed and ``said`` fails. False when nobody says anything for too long.
        """
        deadline = asyncio.get_running_loop().time() + silence.PATIENCE
        while not (await asyncio.wait((said,), timeout=silence.LOOK))[0]:
            if asyncio.get_running_loop().time() > deadline:
                return False
            await self.replace_stopped(asked)
            asked.wake_children(known)
        said.result()
        return True

    async def replace_stopped(self, asked: Zygote) -> None:
        """Kill ``asked`` when it is stopped; nothing when it is merely slow."""
        if asked.stopped():
            _log.warning("the launcher process %d is stopped; it is replaced", asked.process.pid)
            await self.replace(asked)

    async def replace(self, asked: Zygote) -> None:
        """End ``asked``, unless somebody has done so before."""
        if self._present is not asked:
            return
        self._present = None
        asked.channel.close()
        await asyncio.to_thread(asked.end)

    async def close(self) -> None:
        """End the present zygote."""
        if self._present is not None:
            await self.replace(self._present)
