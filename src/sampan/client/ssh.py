"""An engine on another machine through ssh: the far side runs ``system dial-stdio``."""

from __future__ import annotations

from sampan.client.errors import ConnectFailed
from sampan.client.transport import SocketStream

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    import subprocess

    from sampan.client.endpoint import Endpoint
    from sampan.client.http import Stream

# Whichever engine's command line the far side has; sampan's own looks for both engines' sockets.
DIAL = (
    "if command -v sampan >/dev/null 2>&1; then exec sampan{0} system dial-stdio; "
    "else exec docker{0} system dial-stdio; fi"
)


class SSHStream(SocketStream):
    """The ssh process's stdin and stdout, one socket pair."""

    def __init__(self, sock: socket.socket, process: subprocess.Popen[bytes], endpoint: Endpoint) -> None:
        super().__init__(sock)
        self._socket = sock
        self._process = process
        self._endpoint = endpoint
        self._heard = False
        self.recv = self._recv
        self.close = self._end

    def _recv(self, size: int, flags: int = 0, /) -> bytes:
        try:
            data = self._socket.recv(size, flags)
        except ConnectionResetError:  # ssh ended before it had read everything
            data = b""
        if not data and not self._heard:
            code = self._process.wait(10)
            raise ConnectFailed(
                f"error during connect: ssh to {self._endpoint.url} ended with code {code}",
                hint=f"Its own words stand above. Try: ssh {self._endpoint.address} docker version",
            )
        self._heard = True
        return data

    def _end(self) -> None:
        import subprocess

        self._socket.close()
        try:
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.terminate()


def command(endpoint: Endpoint) -> list[str]:
    """The ssh command line for an ssh:// address (a path in it names the socket on the far side)."""
    line = ["ssh", "-o", "ConnectTimeout=30", "-T"]
    if endpoint.user:
        line += ["-l", endpoint.user]
    if endpoint.port:
        line += ["-p", str(endpoint.port)]
    where = f" -H unix://{endpoint.path}" if endpoint.path else ""
    return [*line, "--", endpoint.address, DIAL.format(where)]


def dial(endpoint: Endpoint) -> Stream:
    """Start ssh. Raises ConnectFailed when there is no ssh program."""
    import socket
    import subprocess

    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            command(endpoint),
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            process_group=0,  # a terminal's Ctrl-C is for the container, not for the tunnel
        )
    except FileNotFoundError:
        ours.close()
        raise ConnectFailed(
            f"cannot connect to {endpoint.url}: no ssh program", hint="Install openssh-client."
        ) from None
    finally:
        theirs.close()
    return SSHStream(ours, process, endpoint)
