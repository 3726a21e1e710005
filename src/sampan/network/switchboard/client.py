"""The engine's side of the switchboard: starting it when it is needed, telling it what to do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sampan
from sampan.network.ports import Reserved
from sampan.network.sandbox import Sockets
from sampan.network.switchboard.channel import PACKET, TIMEOUT, Channel, SwitchboardError, Waiting

log = logging.getLogger(__name__)
_FDS_APACKET = 100
_START, _AGAIN = 30.0, 3.0
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[2]); from sampan.network.switchboard.main import main; main()"
)


@dataclass(frozen=True, slots=True)
class Target:
    """A published port and where its connections go."""

    protocol: str
    host_ip: str
    host_port: int
    target: str
    target_port: int

    @property
    def key(self) -> str:
        """How the switchboard calls it."""
        return f"{self.protocol} {self.host_ip} {self.host_port}"

    def as_list(self) -> list[str | int]:
        """As it is sent."""
        return [self.protocol, self.host_ip, self.host_port, self.target, self.target_port]


class Switchboard:
    """One switchboard. Orders take some 0.1 ms; those that come while it starts (50 ms) wait in a queue."""

    def __init__(
        self,
        directory: Path,
        on_death: Callable[[], Awaitable[None]],
        on_refusal: Callable[[str, str], None] = lambda _container, _name: None,
    ) -> None:
        """``directory`` holds its socket; ``on_death`` is awaited when it ended by itself.

        ``on_refusal`` is called with a container and a name that egress control kept from it.
        """
        self._path = directory / "switchboard.sock"
        self._on_death = on_death
        self._on_refusal = on_refusal
        self._channel: Channel | None = None
        # The process at the other end as it says itself, 0 without one: SO_PEERCRED knows who called listen(2),
        # and that was an engine.
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[str, dict[str, Any]] = {}
        self._task: asyncio.Task[None] | None = None
        self._waiting: deque[Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- connection ----------------------------------------------------------------------------------------

    def connect(self) -> bool:
        """Find a switchboard that outlived an engine; whether there is one."""
        if self._channel is not None:
            return True
        sock = self._find()
        if sock is None:
            return False
        self._use(sock)
        return True

    def _find(self) -> socket.socket | None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        sock.settimeout(TIMEOUT)
        try:
            with _short_path(self._path) as path:
                sock.connect(path)
        except OSError:
            sock.close()
            return None
        return sock

    def _use(self, sock: socket.socket) -> None:
        self._channel = Channel(sock, self._ended, self._noticed)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(self._introduced)
        self._channel.give(Waiting({"op": "notices"}, (), future))

    def _introduced(self, answer: asyncio.Future[Any]) -> None:
        self.pid = 0 if answer.cancelled() or answer.exception() else answer.result()

    def _noticed(self, notice: Mapping[str, Any]) -> None:
        self._on_refusal(notice["container"], notice["name"])

    def _ended(self) -> None:
        log.warning("the switchboard has ended; starting a new one")
        self._lose()
        self._task = asyncio.get_running_loop().create_task(self._revive())

    async def _revive(self) -> None:
        await self._on_death()

    def _lose(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close(SwitchboardError("the switchboard has ended"))
        self._known = {}
        self.pid = 0
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
            self._process = None

    def _start(self) -> socket.socket:
        """A connection to a switchboard that answers; one is started if there is none. For a thread."""
        found = self._find()
        if found is not None:
            return found
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.closing(listening):
            with _short_path(self._path) as path:
                listening.bind(path)
            os.chmod(self._path, 0o600)
            listening.listen(4)
            root = str(Path(sampan.__file__).parent.parent)
            self._process = subprocess.Popen(  # ready when it first answers: nobody waits here
                [sys.executable, "-I", "-S", "-c", _BOOT, str(listening.fileno()), root],
                pass_fds=[listening.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        found = self._find()
        if found is None:
            raise SwitchboardError(f"the switchboard can't be reached at {self._path}")
        found.settimeout(_START)  # on a machine that is very busy Python begins slowly
        found.send(b'{"op": "state"}')
        found.recv(PACKET)
        return found

    # -- the queue -----------------------------------------------------------------------------------------

    def _submit(self, order: Mapping[str, Any], socks: Sequence[socket.socket] = ()) -> asyncio.Future[Any]:
        """Give an order now, or when the switchboard has started; ``socks`` are handed over and closed."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        waiting = Waiting(order, tuple(socks), future)
        if self._channel is not None and not self._waiting:
            self._channel.give(waiting)
            return future
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work())
        return future

    async def _work(self) -> None:
        while self._waiting:
            if self._channel is None:
                try:
                    self._use(await asyncio.to_thread(self._start))
                    # A container asks from the moment of its "client": by then all names must be known.
                    self._waiting = deque(sorted(self._waiting, key=lambda one: one.order["op"] == "client"))
                except OSError as failure:
                    log.error("no switchboard: %s; trying again in %d s", failure, _AGAIN)
                    while self._waiting:
                        self._waiting.popleft().fail(failure)
                    self._known = {}
                    self._timer = asyncio.get_running_loop().call_later(_AGAIN, self._try_again)
                    return
            else:
                self._channel.give(self._waiting.popleft())

    def _try_again(self) -> None:
        if self._channel is None and not self._waiting:
            self._task = asyncio.get_running_loop().create_task(self._revive())

    # -- orders --------------------------------------------------------------------------------------------

    async def serve(
        self,
        container: str,
        pid: int,
        targets: Iterable[Target],
        reserved: Sequence[Reserved],
        sockets: Sockets | None,
    ) -> None:
        """Hand over what holds a container's ports, and sockets inside; all are closed here."""
        wanted = list(targets)
        by_key = {target.key: target for target in wanted}
        pairs = []
        for one in reserved:
            item = one.published
            target = by_key.get(f"{item.protocol} {item.host_ip} {item.host_port}")
            if target is not None:
                pairs.append((target, one.socket))
        for start in range(0, len(pairs), _FDS_APACKET):
            self._serve(container, pid, pairs[start : start + _FDS_APACKET], Sockets(), [])
        if sockets is not None and sockets.any:
            self._serve(container, pid, [], sockets, wanted)

    def _serve(
        self, container: str, pid: int, pairs: Sequence[tuple[Target, socket.socket]], sockets: Sockets,
        targets: Sequence[Target],
    ) -> None:  # fmt: skip
        resolver = sockets.resolver is not None
        order = {
            "op": "serve",
            "container": container,
            "pid": pid,
            "ports": [target.as_list() for target, _sock in pairs],
            "resolver": resolver,
            "relays": len(sockets.relays),
            "inward": sorted({target.target_port for target in targets if target.protocol == "tcp"}),
            "unheard": len(sockets.unheard),
            "unheard_ports": sorted({target.target_port for target in targets if target.protocol == "udp"}),
        }
        self._submit(order, [*(sock for _target, sock in pairs), *sockets.in_order()])
        known = self._known.setdefault(container, {"ports": [], "resolver": False})
        known["ports"] += [target.key for target, _sock in pairs]
        known["resolver"] = known["resolver"] or resolver

    async def drop(self, container: str) -> None:
        """End everything for a container."""
        if self._known.pop(container, None) is not None:
            with contextlib.suppress(OSError):
                await self._submit({"op": "drop", "container": container})

    async def retarget(self, container: str, targets: Iterable[Target]) -> None:
        """Lead a container's ports to other addresses, for new connections."""
        if container in self._known:
            ports = [target.as_list() for target in targets]
            self.tell({"op": "retarget", "container": container, "ports": ports})

    async def restore(self, wanted: Mapping[str, bool], endpoints: Sequence[str]) -> None:
        """Find out what an older switchboard still does; have it drop other containers and names.

        ``wanted`` says of each container whether it has ports: one that has lost them is dropped, too.
        """
        if not self.connect():
            return
        with contextlib.suppress(OSError):
            self._known = await self._submit({"op": "state"})
            for container, known in list(self._known.items()):
                if container not in wanted or (known["ports"] and not wanted[container]):
                    await self.drop(container)
            self.tell({"op": "retain", "endpoints": endpoints})

    def lacking(self, container: str, ports: bool, resolver: bool) -> tuple[bool, bool]:
        """Whether it lacks the container's ports, and its resolver, of those it should have."""
        known = self._known.get(container, {"ports": [], "resolver": False})
        return ports and not known["ports"], resolver and not known["resolver"]

    def tell(self, order: Mapping[str, Any]) -> None:
        """Any other order; a failure is logged."""
        self._submit(order)

    async def ask(self, order: Mapping[str, Any]) -> Any:
        """Any other order; its result. SwitchboardError when it fails."""
        return await self._submit(order)

    @property
    def connected(self) -> bool:
        """Whether there is one, or soon will be."""
        return self._channel is not None or bool(self._waiting)

    def close(self, *, end: bool) -> None:
        """Leave it alone, or have it end when no container is left."""
        if self._worker is not None:
            self._worker.cancel()
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            self._waiting.popleft().fail(SwitchboardError("the engine ends"))
        if end and self._channel is not None:
            self._channel.last_word({"op": "quit"})
            self._path.unlink(missing_ok=True)
        self._lose()


@contextlib.contextmanager
def _short_path(path: Path) -> Any:
    """A name for a socket that fits the 108 bytes of sun_path, however long its directory's is (unix(7))."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
