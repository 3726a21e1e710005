"""TLS on accepted connections, with half-close.

asyncio's own TLS ends both sides when the peer ends one, so that ``docker run -i`` over ``--tlsverify`` would
lose its output at the end of stdin. RFC 8446 section 6.1 lets each side end on its own: this layer sends
and takes close_notify alone, over memory buffers (:class:`ssl.MemoryBIO`).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, cast

HANDSHAKE_SECONDS = 30.0
_CHUNK = 256 * 1024


class TLSLayer(asyncio.Protocol):
    """What the socket's transport talks to: decrypts for the protocol of ``factory``, encrypts for it."""

    def __init__(self, context: ssl.SSLContext, factory: Callable[[], asyncio.Protocol]) -> None:
        self._factory = factory
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._inner: asyncio.Protocol | None = None
        self._raw: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._sent_end = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected; it has :data:`HANDSHAKE_SECONDS` to prove who it is."""
        self._raw = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self._raw.abort)

    def data_received(self, data: bytes) -> None:
        """Bytes from the socket: of the handshake, or of records."""
        self._in.write(data)
        if self._inner is None and not self._shake_hands():
            return
        self._read()

    def eof_received(self) -> bool:
        """The socket's end. Without close_notify before it, it's the connection's end all the same."""
        self._end()
        return self._inner is not None

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._stop_timer()
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """The client caught up."""
        if self._inner is not None:
            self._inner.resume_writing()

    def _shake_hands(self) -> bool:
        """Go on with the handshake; True once it is done. A client that doesn't fit is hung up on."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError:
            self._flush()  # the alert that tells the client why
            self._raw.close()
            return False
        self._stop_timer()
        self._flush()
        self._inner = self._factory()
        self._inner.connection_made(TLSTransport(self._raw, self.send, self.send_end))
        return True

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _read(self) -> None:
        assert self._inner is not None
        while not self._ended and not self._raw.is_closing():
            try:
                data = self._tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                self._end()
                break
            except ssl.SSLError:
                self._raw.abort()
                break
            if not data:
                self._end()
                break
            self._inner.data_received(data)
        self._flush()  # answers to key updates

    def _end(self) -> None:
        if self._inner is not None and not self._ended:
            self._ended = True
            self._inner.eof_received()

    def _flush(self) -> None:
        if data := self._out.read():
            self._raw.write(data)

    def send(self, data: bytes) -> None:
        """Encrypt and send."""
        if not data or self._sent_end or self._raw.is_closing():
            return
        self._tls.write(data)
        self._flush()

    def send_end(self) -> None:
        """Send close_notify: our side ends, the client's may go on."""
        if self._sent_end or self._raw.is_closing():
            return
        self._sent_end = True
        with contextlib.suppress(ssl.SSLError):  # "want read": the client's comes when its side ends
            self._tls.unwrap()
        self._flush()


class TLSTransport(asyncio.Transport):
    """The transport that the protocol above sees: plain bytes in, records out."""

    def __init__(
        self, raw: asyncio.Transport, send: Callable[[bytes], None], end: Callable[[], None]
    ) -> None:
        super().__init__()
        self._raw = raw
        self._send = send
        self._send_end = end

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send."""
        self._send(bytes(data))

    def can_write_eof(self) -> bool:
        """Always: close_notify ends one side."""
        return True

    def write_eof(self) -> None:
        """End our side only."""
        self._send_end()

    def pause_reading(self) -> None:
        """Take nothing more from the socket for now."""
        if not self._raw.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes from the socket again."""
        if not self._raw.is_closing():
            self._raw.resume_reading()

    def is_closing(self) -> bool:
        """Whether the connection is closed or about to be."""
        return self._raw.is_closing()

    def close(self) -> None:
        """Send what is written and close_notify, then close."""
        self._send_end()
        self._raw.close()

    def abort(self) -> None:
        """Close at once."""
        self._raw.abort()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the socket below."""
        return self._raw.get_extra_info(name, default)
