"""Connections to an engine: unix sockets, TCP, TLS, and ssh with ``system dial-stdio`` on the far side."""

from __future__ import annotations

import errno

from sampan.client.errors import ClientError, ConnectFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket as RawSocket

    from sampan.client.endpoint import Endpoint
    from sampan.client.http import Stream

_MSG_DONTWAIT = 0x40
IS_IT_RUNNING = "Cannot connect to the Docker daemon at {}. Is the docker daemon running?"


class SocketStream:
    """A connected stream socket."""

    def __init__(self, sock: RawSocket) -> None:
        self._sock = sock
        self.recv = sock.recv
        self.sendall = sock.sendall
        self.fileno = sock.fileno
        self.close = sock.close

    def pending(self) -> int:
        """Bytes received but not delivered yet: none, the kernel holds them."""
        return 0

    def send_some(self, data: bytes, /) -> int:
        """Send what fits without waiting; returns how many bytes were taken."""
        try:
            return self._sock.send(data, _MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def close_write(self) -> None:
        """End our side; the other side may go on sending."""
        try:
            self._sock.shutdown(1)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise


def dial(endpoint: Endpoint) -> Stream:
    """Connect to an engine. Raises ConnectFailed with Docker's words and what to do."""
    if endpoint.scheme == "unix":
        return _dial_unix(endpoint)
    if endpoint.scheme == "ssh":
        from sampan.client import ssh

        return ssh.dial(endpoint)
    return _dial_tcp(endpoint)


def _dial_unix(endpoint: Endpoint) -> Stream:
    import _socket

    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(endpoint.address)
    except OSError as error:
        sock.close()
        raise _unix_failure(endpoint, error) from None
    return SocketStream(sock)


def _unix_failure(endpoint: Endpoint, error: OSError) -> ConnectFailed:
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConnectFailed(
            f"permission denied while trying to connect to the Docker daemon socket at {endpoint.url}",
            hint="Use sudo, or join the group that owns the socket and log in again.",
        )
    return ConnectFailed(
        IS_IT_RUNNING.format(endpoint.url),
        hint=f"({error.strerror}) Start one with: sampand -H {endpoint.url}",
    )


def _dial_tcp(endpoint: Endpoint) -> Stream:
    import socket

    try:
        sock = socket.create_connection((endpoint.address, endpoint.port), timeout=30)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConnectFailed(IS_IT_RUNNING.format(endpoint.url), hint=f"({reason})") from None
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if endpoint.tls is None:
        return SocketStream(sock)
    from sampan.client import tls

    try:
        return tls.wrap(sock, endpoint.address, endpoint.tls)
    except ClientError:
        sock.close()
        raise
