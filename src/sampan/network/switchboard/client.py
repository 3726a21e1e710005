"""The engine's side of the switchboard: starting it when it is needed, telling it what to do."""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sampan
from sampan.network.ports import Reserved

log = logging.getLogger(__name__)
_TIMEOUT = 5.0
_FDS_A_PACKET = 100
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


class SwitchboardError(OSError):
    """The switchboard can't be started, doesn't answer, or refused an order."""


class Switchboard:
    """One switchboard; calls take some 0.1 ms, the first of an engine 30 ms in the background."""

    def __init__(self, directory: Path, on_death: Callable[[], Awaitable[None]]) -> None:
        """``directory`` holds its socket; ``on_death`` is awaited when it ended by itself."""
        self._path = directory / "switchboard.sock"
        self._on_death = on_death
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._known: dict[str, dict[str, Any]] = {}
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- connection ----------------------------------------------------------------------------------------

    def connect(self) -> bool:
        """Find a switchboard that outlived an engine; whether there is one."""
        if self._socket is not None:
            return True
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        sock.settimeout(_TIMEOUT)
        try:
            with _short_path(self._path) as path:
                sock.connect(path)
        except OSError:
            sock.close()
            return False
        self._use(sock)
        return True

    def _use(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._hang_up_seen)

    def _hang_up_seen(self) -> None:
        """Outside of a call the switchboard says nothing: what can be read now is its end."""
        assert self._socket is not None
        with contextlib.suppress(BlockingIOError):
            if self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                return
        log.warning("the switchboard has ended; starting a new one")
        self._lose()
        self._task = asyncio.get_running_loop().create_task(self._revive())

    async def _revive(self) -> None:
        await self._on_death()

    def _lose(self) -> None:
        if self._socket is not None:
            if self._loop is not None:
                self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
        self._socket = None
        self._known = {}
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)
            self._process = None

    def _start(self) -> None:
        if self.connect():
            return
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
        if not self.connect():
            raise SwitchboardError(f"the switchboard can't be reached at {self._path}")

    def _order(self, order: Mapping[str, Any], fds: Sequence[int] = ()) -> Any:
        self._start()
        assert self._socket is not None
        sock = self._socket
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        try:
            sock.sendmsg([json.dumps(order).encode()], ancillary)
            raw = sock.recv(1 << 18)
        except OSError as failure:
            self._lose()
            raise SwitchboardError(f"the switchboard doesn't answer: {failure}") from failure
        if not raw:
            self._lose()
            raise SwitchboardError("the switchboard has ended")
        answer = json.loads(raw)
        if not answer["ok"]:
            raise SwitchboardError(answer["error"])
        return answer["result"]

    # -- orders --------------------------------------------------------------------------------------------

    async def serve(
        self,
        container: str,
        pid: int,
        targets: Iterable[Target],
        reserved: Sequence[Reserved],
        resolver: tuple[socket.socket, socket.socket] | None,
    ) -> None:
        """Hand over what holds a container's ports and its resolver's sockets; all are closed here."""
        by_key = {target.key: target for target in targets}
        pairs = []
        for one in reserved:
            item = one.published
            target = by_key.get(f"{item.protocol} {item.host_ip} {item.host_port}")
            if target is not None:
                pairs.append((target, one.socket))
        try:
            for start in range(0, len(pairs), _FDS_A_PACKET):
                self._serve(container, pid, pairs[start : start + _FDS_A_PACKET], None)
            if resolver is not None:
                self._serve(container, pid, [], resolver)
        finally:
            for one in reserved:
                one.socket.close()
            for sock in resolver or ():
                sock.close()

    def _serve(
        self, container: str, pid: int, pairs: Sequence[tuple[Target, socket.socket]],
        resolver: tuple[socket.socket, socket.socket] | None,
    ) -> None:  # fmt: skip
        fds = [sock.fileno() for _target, sock in pairs] + [sock.fileno() for sock in resolver or ()]
        order = {
            "op": "serve",
            "container": container,
            "pid": pid,
            "ports": [target.as_list() for target, _sock in pairs],
            "resolver": resolver is not None,
        }
        self._order(order, fds)
        known = self._known.setdefault(container, {"ports": [], "resolver": False})
        known["ports"] += [target.key for target, _sock in pairs]
        known["resolver"] = known["resolver"] or resolver is not None

    async def drop(self, container: str) -> None:
        """End everything for a container."""
        if self._known.pop(container, None) is not None:
            with contextlib.suppress(SwitchboardError):
                self._order({"op": "drop", "container": container})

    async def retarget(self, container: str, targets: Iterable[Target]) -> None:
        """Lead a container's ports to other addresses, for new connections."""
        if container in self._known:
            ports = [target.as_list() for target in targets]
            self._order({"op": "retarget", "container": container, "ports": ports})

    async def restore(self, wanted: Mapping[str, Iterable[Target]]) -> None:
        """Find out what an older switchboard still does; have it drop what isn't wanted, and start blank."""
        if not self.connect():
            return
        with contextlib.suppress(SwitchboardError):
            self._known = self._order({"op": "state"})
            for container in [item for item in self._known if item not in wanted]:
                await self.drop(container)
            self._order({"op": "forget"})

    def lacking(self, container: str, ports: bool, resolver: bool) -> tuple[bool, bool]:
        """Whether it lacks the container's ports, and its resolver, of those it should have."""
        known = self._known.get(container, {"ports": [], "resolver": False})
        return ports and not known["ports"], resolver and not known["resolver"]

    def tell(self, order: Mapping[str, Any]) -> Any:
        """Any other order; its result. SwitchboardError when it fails."""
        return self._order(order)

    @property
    def connected(self) -> bool:
        """Whether there is one."""
        return self._socket is not None

    def close(self, *, end: bool) -> None:
        """Leave it alone, or have it end when no container is left."""
        if end and self._socket is not None:
            with contextlib.suppress(SwitchboardError):
                self._order({"op": "quit"})
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
