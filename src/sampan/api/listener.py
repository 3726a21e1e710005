"""Serving on sockets: accept, register connections, end in good order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from sampan.api.server import Application, Connection

if TYPE_CHECKING:
    import ssl


LOOK = 0.02  # seconds
ANSWER_LOOKS, STREAM_LOOKS = 40, 10
"""How often the server's end looks for answers to be ready, and for streams to say their last, as an exit code."""


class Server:
    """The HTTP server over any number of listening sockets."""

    def __init__(self, application: Application, answered: Callable[[], None] = lambda: None) -> None:
        """``answered`` is called when a request has been answered to its end."""
        self._application = application
        self._answered = answered
        self._connections: set[Connection] = set()
        self._servers: list[asyncio.Server] = []

    def _connection(self) -> Connection:
        return Connection(self._application, self._connections, self._answered)

    async def listen(self, listening: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept on a bound, listening socket; with ``tls`` every connection begins with its handshake."""
        loop = asyncio.get_running_loop()
        factory: Callable[[], asyncio.Protocol]
        factory = self._connection if tls is None else _guarded(tls, self._connection)
        if listening.family == socket.AF_UNIX:
            server = await loop.create_unix_server(factory, sock=listening, backlog=1024)
        else:
            server = await loop.create_server(factory, sock=listening, backlog=1024)
        self._servers.append(server)

    def refuse(self) -> None:
        """Accept nobody any more, and close what is idle; requests that are being answered go on."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.shut_down()

    async def close(self) -> None:
        """:meth:`refuse`, then give answers a while and streams, which may never end, a moment; cut the rest."""
        self.refuse()
        for look in range(ANSWER_LOOKS):
            patient = look < STREAM_LOOKS
            if not any(one.busy and (patient or not one.streaming) for one in self._connections):
                break
            await asyncio.sleep(LOOK)
        _abort(self._connections)


def _guarded(
    context: ssl.SSLContext, factory: Callable[[], asyncio.Protocol]
) -> Callable[[], asyncio.Protocol]:
    """Connections behind TLS; its module is loaded only where TLS is asked for."""
    from sampan.api.tls import TLSLayer

    return lambda: TLSLayer(context, factory)


def _abort(connections: Iterable[Connection]) -> None:
    for connection in list(connections):
        connection.abort()
