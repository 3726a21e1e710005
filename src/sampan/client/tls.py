"""TLS with client certificates, as ``--tlsverify`` means it, with half-close.

``ssl.SSLSocket`` can't end its own side and go on reading, which ``run -i`` over TCP needs at the end of
stdin; an :class:`ssl.SSLObject` on memory buffers can (close_notify is sent, reading goes on).
"""

from __future__ import annotations

import os
import socket
import ssl

from sampan.client.errors import ClientError, ConnectFailed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.endpoint import TLSFiles


class TLSStream:
    """A TLS session on a connected socket."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._sock = sock
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=name)
        self._write_closed = False
        self._unsent = b""
        self._held = 0
        self._handshake()

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                self._flush()
                return
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()

    def _flush(self) -> None:
        if data := self._unsent + self._out.read():
            self._unsent = b""
            self._sock.sendall(data)

    def _feed(self) -> None:
        if data := self._sock.recv(65536):
            self._in.write(data)
        else:
            self._in.write_eof()

    def recv(self, size: int, /) -> bytes:
        """Up to ``size`` bytes, b"" at the end."""
        while True:
            try:
                data = self._tls.read(size)
            except ssl.SSLWantReadError:
                self._flush()
                self._feed()
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            self._flush()
            return data

    def sendall(self, data: bytes, /) -> None:
        """Send everything."""
        view = memoryview(data)
        while view:
            view = view[self._tls.write(view) :]
            self._flush()

    def send_some(self, data: bytes, /) -> int:
        """Send what fits without waiting, one record at most; returns how many bytes have gone.

        A record that went only in part counts as nothing: call again with the same data.
        """
        if not self._unsent:
            self._held = self._tls.write(data[:16384])
            self._unsent = self._out.read()
        try:  # noqa: SIM105 - contextlib costs start-up time
            self._unsent = self._unsent[self._sock.send(self._unsent, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            pass
        return 0 if self._unsent else self._held

    def fileno(self) -> int:
        """The socket's descriptor, to wait on; look at :meth:`pending` first."""
        return self._sock.fileno()

    def pending(self) -> int:
        """Bytes that are here already, though the socket may be silent."""
        return self._tls.pending() + self._in.pending

    def close_write(self) -> None:
        """Send close_notify; the other side may go on sending."""
        if self._write_closed:
            return
        self._write_closed = True
        try:  # noqa: SIM105
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # "want read": the answer to close_notify comes when the other side ends, too
        self._flush()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


def wrap(sock: socket.socket, name: str, files: TLSFiles) -> TLSStream:
    """Start TLS. Raises ConnectFailed when the certificates don't fit, ClientError when one is missing."""
    try:
        context = _context(files)
    except (OSError, ssl.SSLError) as error:
        raise ClientError(
            f"unable to read TLS certificates: {error}",
            hint=f"Looked at {files.ca or 'the system store'}, {files.cert or '-'}, {files.key or '-'}.",
        ) from None
    try:
        return TLSStream(sock, context, files.server_name or name)
    except ssl.SSLError as error:
        raise ConnectFailed(
            f"error during connect: tls: {error.reason or error}".replace("_", " "),
            hint="The certificates must be signed by the CA in ca.pem, or drop --tlsverify for --tls.",
        ) from None
    except OSError as error:
        raise ConnectFailed(f"error during connect: {error}") from None


def _context(files: TLSFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not files.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif files.ca and os.path.exists(files.ca):
        context.load_verify_locations(files.ca)
    else:
        context.load_default_certs()
    if files.cert and files.key and (os.path.exists(files.cert) or os.path.exists(files.key)):
        context.load_cert_chain(files.cert, files.key)
    return context
