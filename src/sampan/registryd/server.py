"""Accepting connections: a thread each, as many at once as are allowed; ends in good order."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable

from sampan.registryd.connection import Connection, Reply, Request, Timeouts

log = logging.getLogger("sampan.registry")

MOST = 1024
_STACK = 512 * 1024
_HANDSHAKE = 20.0
_TLS_RECORD = b"\x16"
_NOT_PLAIN = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"Client sent an HTTP request to an HTTPS server.\n"
)


class Server:
    """Serves on bound, listening sockets until ``close``. ``handle`` is called in the connections' threads.

    ``tls`` may be replaced at any time: connections that come later begin with the new one.
    """

    def __init__(
        self,
        handle: Callable[[Request], Reply],
        *,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts | None = None,
        most: int = MOST,
    ) -> None:
        self._handle, self.tls = handle, tls
        self._timeouts = timeouts or Timeouts()
        self._slots = threading.BoundedSemaphore(most)
        self._lock = threading.Lock()
        self._connections: set[Connection] = set()
        self._sockets: list[socket.socket] = []
        self._ending = threading.Event()

    def listen(self, listening: socket.socket) -> None:
        """Accept on a socket, in a thread of its own."""
        self._sockets.append(listening)
        threading.stack_size(_STACK)  # a thousand threads of the usual 8 MB frighten people who read ps
        threading.Thread(target=self._accept, args=(listening,), name="accept", daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        while not self._ending.is_set():
            self._slots.acquire()  # beyond the limit, clients wait in the kernel's queue
            try:
                sock, address = listening.accept()
            except OSError as error:
                self._slots.release()
                if self._ending.is_set():
                    return
                log.warning("accept: %s", error)  # out of descriptors: others will close some
                time.sleep(0.1)
                continue
            arguments = (sock, f"{address[0]}:{address[1]}" if address else "")
            try:
                threading.Thread(target=self._run, args=arguments, name="client", daemon=True).start()
            except RuntimeError as error:
                log.warning("no thread for a client: %s", error)
                sock.close()
                self._slots.release()

    def _run(self, sock: socket.socket, peer: str) -> None:
        try:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                tls = self.tls
                if tls is not None:
                    sock.settimeout(_HANDSHAKE)
                    if sock.recv(1, socket.MSG_PEEK) != _TLS_RECORD:
                        sock.recv(1 << 16)  # what is unread would make the end a reset
                        sock.sendall(_NOT_PLAIN)
                        return
                    sock = tls.wrap_socket(sock, server_side=True)
                self._serve(Connection(sock, peer, self._timeouts, self._handle))
        except Exception:
            log.exception("serving %s", peer)
        finally:
            sock.close()
            self._slots.release()

    def _serve(self, connection: Connection) -> None:
        with self._lock:
            if self._ending.is_set():
                return
            self._connections.add(connection)
        try:
            connection.serve()
        finally:
            with self._lock:
                self._connections.discard(connection)

    def close(self, grace: float = 10.0) -> None:
        """Stop accepting, end idle connections, give the busy ones ``grace`` seconds, then cut them."""
        self._ending.set()
        for listening in self._sockets:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        for connection in self._all():
            connection.shut_down()
        deadline = time.monotonic() + grace
        while self._all() and time.monotonic() < deadline:
            time.sleep(0.02)
        for connection in self._all():
            connection.interrupt()

    def _all(self) -> list[Connection]:
        with self._lock:
            return list(self._connections)
